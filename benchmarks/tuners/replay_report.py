"""What the replays show: a table in markdown, its numbers as JSON, and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tuners.surfaces import Table


class Curve(NamedTuple):
    """One replay: cost in T_max and the true value of the point that leads, after each training."""

    cost: list[float]
    values: list[float]


class Summary(NamedTuple):
    """One method over all shuffles.

    Attributes:
        shuffles: How many.
        without_winner: How many ended without a winner; they count as never within.
        cost: Median cost of a whole search, in T_max.
        regret: Quartiles (25, 50 and 75 %) of the winner's regret in points.
        cost_within: Median cost until the leading point is within the distance of the table's best for
            the first time; infinite if less than half of the shuffles ever come there.
        share_within: Share of the shuffles whose leading point ever is within it.
        share_winner: Share of the shuffles whose winner is within it.
    """

    shuffles: int
    without_winner: int
    cost: float
    regret: tuple[float, float, float]
    cost_within: float
    share_within: float
    share_winner: float


def regrets(curve: Curve, best: float, rule: str) -> np.ndarray:
    """How far each value is from the table's best."""
    sign = 1 if rule == 'greater' else -1
    return sign * (best - np.array(curve.values))


def summarise(curves: Sequence[Curve | None], best: float, rule: str, within: float) -> Summary:
    """Count a method's replays together."""
    ended = [c for c in curves if c is not None]
    all_regrets = [regrets(c, best, rule) for c in ended]
    first = [
        next((cost for cost, r in zip(c.cost, of_curve, strict=True) if r <= within), math.inf)
        for c, of_curve in zip(ended, all_regrets, strict=True)
    ] + [math.inf] * (len(curves) - len(ended))
    final = [r[-1] for r in all_regrets]
    low, median, high = np.quantile(final, (0.25, 0.5, 0.75)).tolist() if final else (math.nan,) * 3
    # Not interpolated: between a number and infinity there is no median.
    cost_within = float(np.quantile(first, 0.5, method='lower'))
    return Summary(
        shuffles=len(curves),
        without_winner=len(curves) - len(ended),
        cost=float(np.median([c.cost[-1] for c in ended])) if ended else math.nan,
        regret=(low, median, high),
        cost_within=cost_within,
        share_within=float(np.mean(np.isfinite(first))),
        share_winner=sum(r <= within for r in final) / len(curves),
    )


def regret_at(curves: Sequence[Curve | None], costs: np.ndarray, best: float, rule: str) -> np.ndarray:
    """Regret at these costs, shape ``(curves, costs)``: NaN before anything leads, the last value after the end."""
    rows = []
    for curve in curves:
        if curve is None:
            continue
        index = np.searchsorted(curve.cost, costs + 1e-9, side='right') - 1
        found = regrets(curve, best, rule)[np.maximum(index, 0)]
        rows.append(np.where(index < 0, np.nan, found))
    return np.array(rows)


def write_report(out: Path, table: Table, ranges: Any, curves: Mapping[str, list[Curve | None]], within: float) -> str:
    """Write ``{table}_{ranges}.md``, ``.json`` and ``.png`` into ``out``; return the markdown."""
    out.mkdir(parents=True, exist_ok=True)
    best = table.best()
    summaries = {name: summarise(of_name, best, table.rule, within) for name, of_name in curves.items()}
    own = {name: summarise(of_name, own_best(table, name), table.rule, within) for name, of_name in curves.items()}
    stem = out / f'{table.name}_{ranges.name}'
    text = markdown(table, ranges, summaries, own, within)
    stem.with_suffix('.md').write_text(text)
    numbers = {
        'table': table.name,
        'best': best,
        'within': within,
        'lr_range': ranges.lr,
        'weight_decay_range': ranges.weight_decay,
        'methods': _plain(summaries),
        'methods_against_the_best_of_what_they_tune': _plain(own),
    }
    stem.with_suffix('.json').write_text(json.dumps(numbers, indent=1) + '\n')
    plot(stem.with_suffix('.png'), table, curves)
    return text


def own_best(table: Table, name: str) -> float:
    """The best mean among the points that a method of this name can choose."""
    return table.surfaces['weight_decay' if name.endswith(', wd') else 'alpha'].best(table.rule)[0]


def _plain(summaries: Mapping[str, Summary]) -> dict[str, dict]:
    return {name: s._asdict() | {'cost_within': _finite(s.cost_within)} for name, s in summaries.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown(
    table: Table, ranges: Any, summaries: Mapping[str, Summary], own: Mapping[str, Summary], within: float
) -> str:
    """One row per method."""
    tops = '; '.join(
        f'{kind.replace("_", " ")}: {mean:.2f} at lr {lr:g}, {other:g}'
        for kind, s in table.surfaces.items()
        for mean, lr, other in [s.best(table.rule)]
    )
    seeds = ', '.join(str(s.num_seeds) for s in table.surfaces.values())
    lines = [
        f'# {table.name}: lr {ranges.lr[0]:g} to {ranges.lr[1]:g}, '
        f'weight decay {ranges.weight_decay[0]:g} to {ranges.weight_decay[1]:g}',
        '',
        f'Best mean of {table.metric} over the seeds ({seeds} of them): {tops}. Regret is in points, cost in T_max.',
        f'Within: the leading point is not more than {within:g} points from the best of the whole',
        'table; ever: the share of shuffles in which it comes there; winner: in which the winner is there.',
        'Own: the same against the best of what the method tunes (lr and alpha, or lr and weight decay).',
        'None: shuffles that ended without a winner.',
        '',
        '| method | shuffles | cost | regret 25 % | median | 75 % | cost to within | ever | winner '
        '| own: median regret | cost to within | ever | none |',
        '|---|---|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for name, s in summaries.items():
        first, own_first = (f'{c:.1f}' if math.isfinite(c) else '-' for c in (s.cost_within, own[name].cost_within))
        quartiles = ' | '.join(f'{r:.2f}' for r in s.regret)
        lines.append(
            f'| {name} | {s.shuffles} | {s.cost:.1f} | {quartiles} | {first} | {s.share_within:.0%} | '
            f'{s.share_winner:.0%} | {own[name].regret[1]:.2f} | {own_first} | {own[name].share_within:.0%} | '
            f'{s.without_winner} |'
        )
    return '\n'.join(lines) + '\n'


def plot(path: Path, table: Table, curves: Mapping[str, list[Curve | None]]) -> None:
    """Median regret and quartiles against cost; methods that tune alpha on the left, weight decay on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout='constrained')
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    costs = np.arange(0.2, 30.01, 0.2)
    for panel, decays, head in zip(panels, (False, True), ('lr and alpha', 'lr and weight decay'), strict=True):
        for name, of_name in curves.items():
            found = regret_at(of_name, costs, table.best(), table.rule)
            if name.endswith(', wd') != decays or not len(found):
                continue
            known = ~np.isnan(found).any(axis=0)
            low, middle, high = np.quantile(found[:, known], (0.25, 0.5, 0.75), axis=0)
            (line,) = panel.plot(costs[known], middle, label=name.split(', ')[0])
            panel.fill_between(costs[known], low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        panel.set(title=f'{table.name}: {head}', xlabel='cost in T_max', yscale='symlog')
        panel.legend(fontsize=8)
    panels[0].set_ylabel('regret in points: median and quartiles')
    figure.savefig(path, dpi=120)

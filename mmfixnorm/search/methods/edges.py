"""Whether a winner lies at the edge of what was searched, where the best may lie beyond, or is none at all.

Decided here:

- an edge is the lowest or the highest value that was tried of a number of which several were; for points drawn from a
  range, of which few lie exactly at its end, it is the outer 5 % of the range, on a log scale where it has one;
- a range that begins with 0 has no edge there: for most numbers nothing lies below;
- a value that the search could have tried and did not, because its walk ended before, is no less tried;
- where a training with another value of that number, else at the same point, has the same result, there is no edge:
  the number makes no difference there;
- where all trainings have the same value, at two points or more, there is no winner.
"""

from __future__ import annotations

from mmfixnorm.search.methods.base import Best, Finished, Point, Replay, Spec, StageKind, setting_of, title
from mmfixnorm.search.methods.lr_fit import LRFitSearch
from mmfixnorm.search.methods.sampled import SampledSearch
from mmfixnorm.search.methods.unimodal import UnimodalFixNormSearch, grid
from mmfixnorm.search.settings import SearchSettings

_MARGIN = 0.05


def edge_warnings(settings: SearchSettings, replayed: Replay, finished: Finished) -> list[str]:
    """Warn of each number of the best training that is at an edge, with the key to change."""
    best = replayed.best
    if best is None:
        return []
    searched = [stage for stage in replayed.stages if stage.kind is not StageKind.CONFIRMATION]
    specs = [spec for stage in searched for spec in stage.specs if spec.key in finished]
    warnings = []
    for name in best.point.values:
        end = _end(settings, name, best, specs)
        if end and not _ties(name, best, specs, finished):
            beyond = {'lowest': 'below', 'highest': 'above'}[end]
            warnings.append(
                f'the best {_title(name)}, {best.point.values[name]:g}, is the {end} that was tried: the best may lie '
                f'{beyond}; extend search.{setting_of(settings, name)}, and search again in another --work-dir'
            )
    return warnings


def tie_warnings(replayed: Replay, finished: Finished) -> list[str]:
    """Warn of a winner that is the first of equals: nothing was chosen."""
    searched = [stage for stage in replayed.stages if stage.kind is not StageKind.CONFIRMATION]
    trained = [finished[spec.key] for stage in searched for spec in stage.specs if spec.key in finished]
    trained = [training for training in trained if training.lr_range is None]  # no ramp
    values, points = {training.value for training in trained}, {training.point for training in trained}
    if replayed.best is None or len(values) > 1 or len(points) < 2:
        return []
    return [
        f'all {len(trained)} trainings have the value {replayed.best.value:g}, so nothing was chosen: either nothing '
        'was learnt, as where a warm-up is as long as the training, or the metric is at its end, or the points are too '
        'close; their logs show which'
    ]


def _end(settings: SearchSettings, name: str, best: Best, specs: list[Spec]) -> str:
    """Return which end of the tried values the best is at, or ''."""
    value = best.point.values[name]
    if isinstance(settings, LRFitSearch) and name == 'lr':
        return ''  # its curve knows more than its few points
    if isinstance(settings, SampledSearch):
        place = settings.ranges[name].place(value)
        if place < _MARGIN:
            return 'lowest' if settings.ranges[name].low else ''
        return 'highest' if place > 1 - _MARGIN else ''
    tried = {*_listed(settings, name), *(spec.point.values[name] for spec in specs)}
    if len(tried) == 1:
        return ''
    return 'lowest' if value == min(tried) else 'highest' if value == max(tried) else ''


def _listed(settings: SearchSettings, name: str) -> tuple[float, ...]:
    if not isinstance(settings, UnimodalFixNormSearch):
        return ()
    return grid(settings) if name == 'lr' else settings.alphas


def _ties(name: str, best: Best, specs: list[Spec], finished: Finished) -> bool:
    return any(
        finished[spec.key].value == best.value
        and spec.point != best.point
        and Point.of({**spec.point.values, name: best.point.values[name]}) == best.point
        for spec in specs
    )


def _title(name: str) -> str:
    return {'lr': 'learning rate'}.get(name, title(name))

"""Writes the child config: the audit measures which layers to replace, and then audits the child."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmengine.config import Config

from mmfixnorm.config import PARTS, base_of, is_pure_python, load_config, with_names
from mmfixnorm.convert.angle import (
    comments_on_decay,
    has_warm_up,
    keys_of_lr,
    schedule_by_angle,
    schedule_for_lr,
    schedule_without_decay,
    takes_no_lr,
    wrapper_by_angle,
)
from mmfixnorm.convert.audit import ConfigAudit, audit_model, check_scope, hooks_of_class, with_scope
from mmfixnorm.convert.inherit import over_none
from mmfixnorm.convert.lr_from import LearningRate, check_lr_from, lr_from_checkpoint
from mmfixnorm.convert.plan import Plan, seeded_model
from mmfixnorm.convert.recipe import (
    check_optim_wrapper,
    default_hooks_edit,
    hooks_with_fixnorm,
    optim_wrapper_edit,
    search_block,
)
from mmfixnorm.convert.stock import walk
from mmfixnorm.convert.text import config_text
from mmfixnorm.core.audit import AuditReport
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.engine import FixNormHook
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.settings import ANGLE_RANGE
from mmfixnorm.type_names import type_name

__all__ = ['Conversion', 'convert']

_SCHEDULE = 'As in the base config, with what was in units of its learning rate in the same proportion to {}.'


@dataclass(frozen=True)
class Conversion:
    """A converted config.

    Attributes:
        text: The child config.
        in_set: Names of the weights in the norm-fixing set.
        weight_normalized: Names of the weight-normalised layers, except the classifiers.
        scale_held: Names of those among them whose scale is held, in front of BN on stored statistics.
        classifiers: Names of the layers with a bound.
        left_out: Names of the trainable weights outside the set, with the reason.
        notes: Settings that could not be carried over or decided, in sentences.
        size: Height and width of the audit's images, in pixels.
    """

    text: str
    in_set: tuple[str, ...]
    weight_normalized: tuple[str, ...]
    scale_held: tuple[str, ...]
    classifiers: tuple[str, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    size: int


def convert(
    filename: str,
    out: str,
    *,
    alpha: float = 1.0,
    lr_range: Sequence[float] | None = None,
    keep_norm_eval: bool = False,
    train_bn: bool = False,
    overwrite: bool = False,
    size: int | None = None,
    update: str = 'step',
    classifiers: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
    lr_from: str | None = None,
) -> Conversion:
    """Write a child config that makes a plain config FixNorm, and check it by the audit.

    Batch normalisations on stored statistics stay as they are; the layers in front of them become weight-normalised
    with their scale held, unless ``keep_norm_eval`` or ``train_bn`` is set.

    Args:
        filename (str): A config of mmpretrain, mmdet or mmseg.
        out (str): The file to write; its name ends in ``.py``.
        alpha (float): Bound on the scale of the classifiers, in units of ``sqrt(classes)``. Defaults to 1.0.
        lr_range (Sequence[float], optional): ``(lr_min, lr_max)`` of the search. Defaults to None: half to 8 times
            the config's learning rate, or with ``update='angle'`` 0.004 to 0.064.
        keep_norm_eval (bool): Whether to leave the layers before batch normalisations on stored statistics as they
            are and out of the set. Defaults to False.
        train_bn (bool): Whether to train such batch normalisations on batch statistics instead. Defaults to False.
        overwrite (bool): Whether to replace ``out`` if it exists. Defaults to False.
        size (int, optional): Height and width of the audit's images. Defaults to None: depends on the toolbox.
        update (str): ``'step'``: the set makes the optimizer's steps; ``'angle'``: each of its layers turns by the
            learning rate, in radians. Defaults to 'step'.
        classifiers (Sequence[str]): Names of layers that classify, besides those that are found.
        progress (Callable, optional): Is called with a few words on what is done next.
        lr_from (str, optional): A checkpoint that the plain config was trained to; the learning rate is the one of
            :func:`~mmfixnorm.convert.lr_from.lr_from_checkpoint`. Defaults to None: the config's.

    Raises:
        ConfigError: If the config cannot be converted or is already FixNorm, or if ``out`` cannot be written.
    """
    if not out.endswith('.py'):
        raise ConfigError(f'--out {out}: a config of mmengine ends in .py; choose such a name')
    if os.path.exists(out) and not overwrite:
        raise ConfigError(f'{out}: it already exists; choose another name, or replace it with --force')
    if os.path.realpath(out) == os.path.realpath(filename):
        raise ConfigError(f'{out}: would replace the config itself; choose another name')
    if update == 'angle' and lr_range is not None and max(lr_range) > math.pi:
        raise ConfigError(
            f'--lr-range: with --update angle these are angles of at most pi, in radians, got {max(lr_range):g}'
        )
    if not 0 < alpha < math.inf:
        raise ConfigError(
            f'--alpha: must be > 0 and finite, got {alpha}. For a classifier without a bound replace FixNormLinear by '
            'WNLinear in the child, or its head by one of the same name with WN: a config with inf, which mmengine '
            'writes into the work dir, cannot be read'
        )
    if keep_norm_eval and train_bn:
        raise ConfigError('--train-bn: trains the BN that --keep-norm-eval keeps; pass one of the two, or neither')
    if update not in ('step', 'angle'):
        raise ConfigError(f"--update: must be 'step' or 'angle', got {update!r}")
    given = with_names(load_config(filename))
    cfg = with_scope(given)
    _check(cfg)
    if lr_from is not None:
        check_lr_from(cfg, update, lr_from)
    schedule = schedule_by_angle(cfg) if update == 'angle' else schedule_without_decay(cfg)
    plan = Plan(
        cfg,
        alpha,
        size,
        keep_norm_eval=keep_norm_eval,
        train_bn=train_bn,
        classifiers=classifiers,
        progress=_prefixed(progress, 'audit of the config'),
    )
    base = filename if os.path.isabs(filename) else base_of(filename, os.path.dirname(out) or '.')
    write = partial(_child, plan, base, lr_range, update=update, inherit=not is_pure_python(filename))
    if cfg is not given:
        write = partial(write, scope=cfg.default_scope)
    beside = f'{out}.{os.getpid()}.tmp.py'
    try:
        os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
        while True:
            text, notes = write(schedule=schedule)
            with open(beside, 'w', encoding='utf-8') as file:
                file.write(text)
            child = load_config(beside)
            measured = plan.measurable(child)
            model = seeded_model(measured)
            again = _prefixed(progress, 'audit of the new config')
            audited = audit_model(model, measured, size=plan.size, explain=False, brief=True, progress=again)
            if not audited.failing or not plan.leave_out(audited.failing):
                break
        if audited.failing:
            raise _not_passed(audit_model(model, measured, size=plan.size, find_groups=False))
        if lr_from is not None:
            base_lr = float(cfg.optim_wrapper.optimizer.lr)
            rate = lr_from_checkpoint(child, audited.norm_fixing_set or (), lr_from, base_lr)
            text, notes = write(schedule=schedule_for_lr(cfg, rate.lr), rate=rate)
            with open(beside, 'w', encoding='utf-8') as file:
                file.write(text)
            load_config(beside)
        os.replace(beside, out)
    except OSError as err:
        raise ConfigError(f'{out}: cannot be written ({err.strerror})') from err
    finally:
        if os.path.exists(beside):
            os.remove(beside)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, WeightNormalized)}
    return Conversion(
        text=text,
        in_set=audited.norm_fixing_set or (),
        weight_normalized=tuple(name for name, m in layers.items() if not hasattr(m, 'alpha')),
        scale_held=tuple(name for name, m in layers.items() if not m.train_scale),
        classifiers=tuple(name for name, m in layers.items() if hasattr(m, 'alpha')),
        left_out=plan.left_out,
        notes=tuple(notes),
        size=plan.size,
    )


def _prefixed(progress: Callable[[str], None] | None, what: str) -> Callable[[str], None] | None:
    return None if progress is None else lambda text: progress(f'{what}: {text}')


def _check(cfg: Config) -> None:
    if not isinstance(cfg.get('model'), Mapping):
        raise ConfigError(f'model: must be a dict, got {cfg.get("model")!r}')
    check_scope(cfg)
    types = [node['type'] for _, node in walk(cfg.to_dict()) if 'type' in node]
    types += [hook.get('type') for hook in cfg.get('custom_hooks') or []]
    names = [*types, (cfg.get('optim_wrapper') or {}).get('constructor')]
    if ours := [name for name in names if 'FixNorm' in type_name(name or '')]:
        raise ConfigError(f'it is already FixNorm: it has {ours[0]!r}')
    if hooks := hooks_of_class(cfg, FixNormHook):
        raise ConfigError(f'it is already FixNorm: {type_name(hooks[0]["type"])!r} is a FixNormHook')
    check_optim_wrapper(cfg)


def _not_passed(audited: ConfigAudit) -> ConfigError:
    shown = '; '.join(f'{name}: {audited.report[name].reason}' for name in audited.failing[:3])
    return ConfigError(
        f'the converted config does not pass the audit: {len(audited.failing)} of {len(audited.norm_fixing_set or ())} '
        f'weights of its norm-fixing set are not scale-invariant ({shown}); convert it by hand'
    )


def _child(
    plan: Plan,
    base: str,
    lr_range: Sequence[float] | None,
    *,
    update: str,
    schedule: Sequence[Mapping[str, Any]] | None,
    inherit: bool,
    rate: LearningRate | None = None,
    scope: str | None = None,
) -> tuple[str, list[str]]:
    """Return the text of the child config, and notes for the user; without ``inherit`` it has the base in full.

    It gets a ``scope`` of its own where the base has none: its types are names in the registries of the toolbox.
    """
    notes = _notes_on(plan.report)
    excluded = plan.excluded()
    wrapper, wrapper_comments = optim_wrapper_edit(plan.cfg, excluded, decay=bool(plan.left_out), rate=rate)
    search_comments, method = [], 'FixNormSearch'
    if by_angle := update == 'angle':
        wrapper, angle_comments = wrapper_by_angle(plan.cfg, wrapper)
        wrapper_comments += angle_comments
        lr_range, method = lr_range or ANGLE_RANGE, 'LRFitSearch'
        search_comments = ['lr_range is in radians. The search is three trainings.']
    schedulers = plan.cfg.get('param_scheduler') if schedule is None else schedule
    linked = keys_of_lr(schedulers, plan.cfg.get('default_scope'))
    one_cycle = takes_no_lr(schedulers, plan.cfg.get('default_scope'))
    search = None if one_cycle else search_block(plan.cfg, plan.alpha_keys, lr_range, method=method, linked=linked)
    if linked:
        search_comments.append('linked_keys keep their ratio to the learning rate.')
    if not has_warm_up(schedulers, plan.cfg.get('default_scope')):
        notes.append(
            'param_scheduler has no warm-up, and none was added: with the learning rate at its peak from the first '
            'step, the scale of a classifier may cross zero, which the log then says. To add one, put '
            "dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500) in front of it"
        )
    if search and rate and not search['lr_range'][0] <= rate.lr <= search['lr_range'][1]:
        notes.append(
            f'lr {rate.lr:g} is outside search.lr_range {search["lr_range"]}, which is around the lr of the base '
            'config; set a range by --lr-range.'
        )
    if one_cycle:
        notes.append(
            'param_scheduler takes the learning rate from eta_max of OneCycleLR, not from the optimizer, so there is '
            'no search block; write it as LinearLR and CosineAnnealingLR to search.'
        )
    elif search is None:
        notes.append('val_evaluator reports no known metric, so there is no search block.')
    sections: list[tuple[str, Any, Sequence[str]]] = [
        *([('default_scope', scope, [])] if scope else []),
        ('custom_imports', _imports(plan.cfg), []),
        ('model', plan.changes(), plan.comments()),
        ('optim_wrapper', wrapper, [*plan.comments_on_left_out(), *wrapper_comments]),
    ]
    if schedule is not None:
        in_proportion = [_SCHEDULE.format('the angle' if by_angle else 'lr')] if by_angle or rate else []
        sections.append(('param_scheduler', list(schedule), [*in_proportion, *comments_on_decay(plan.cfg)]))
    if default_hooks := default_hooks_edit(plan.cfg):
        sections.append(('default_hooks', default_hooks, []))
    hooks = hooks_with_fixnorm(plan.cfg)
    if hooks != [dict(hook) for hook in plan.cfg.get('custom_hooks') or []]:
        sections.append(('custom_hooks', hooks, []))
    if search:
        sections.append(('search', search, search_comments))
    values = over_none({key: value for key, value, _ in sections}, plan.cfg.to_dict())
    sections = [(key, values[key], comments) for key, _, comments in sections]
    title = f'{os.path.basename(base)} with FixNorm{" by angle" if by_angle else ""}.'
    if inherit:
        return config_text(title, [('_base_', [base], []), *sections]), notes
    title += ' In full, as a text config cannot inherit from one in pure Python.'
    return config_text(title, _in_full(plan.cfg, sections)), notes


def _notes_on(report: AuditReport) -> list[str]:
    """Say what the audit of the config has shown that its user should know."""
    notes = []
    if unused := [r.name for r in report.weights if r.cause == 'unused' and r.trainable]:
        notes.append(
            f'the generated batch did not reach {len(unused)} weights, so they were not checked: {listing(unused)}'
        )
    trainable = [r for r in report.weights if r.trainable and r.cause != 'stored_statistics']
    invariant = sum(record.scale_invariant for record in trainable)
    if 2 * invariant < len(trainable):
        notes.append(
            f'only {invariant} of {len(trainable)} weights are scale-invariant as the config has them, so most '
            'layers become weight-normalised; a small DeiT was as accurate as with AdamW, by angle too: '
            '"Without batch normalisation" in docs/convert.md'
        )
    return notes


def _in_full(cfg: Config, changes: Sequence[tuple[str, Any, Sequence[str]]]) -> list[tuple[str, Any, Sequence[str]]]:
    """Return the sections of a config, with those that change merged into it."""
    merged = copy.deepcopy(cfg)
    merged.merge_from_dict({key: copy.deepcopy(value) for key, value, _ in changes})
    comments = {key: comments for key, _, comments in changes}
    return [(key, value, comments.get(key, [])) for key, value in merged.to_dict().items()]


def _imports(cfg: Config) -> dict[str, Any]:
    imports = dict(cfg.get('custom_imports') or dict(allow_failed_imports=False))
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    return {**imports, 'imports': list(dict.fromkeys([*names, PARTS[cfg.default_scope]]))}

"""Writes the child config: the audit measures which layers to replace, and then audits the child."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.runner import set_random_seed
from torch import nn

from mmfixnorm.config import MODEL_TYPE, PARTS, base_of, is_pure_python, load_config, with_names
from mmfixnorm.convert.angle import (
    has_warm_up,
    keys_of_lr,
    schedule_by_angle,
    schedule_for_lr,
    wrapper_by_angle,
)
from mmfixnorm.convert.audit import ConfigAudit, audit_model, prepared_model
from mmfixnorm.convert.classifiers import class_layers
from mmfixnorm.convert.inherit import over_none
from mmfixnorm.convert.lr_from import LearningRate, check_lr_from, lr_from_checkpoint
from mmfixnorm.convert.patterns import patterns_for
from mmfixnorm.convert.recipe import check_optim_wrapper, hooks_with_fixnorm, optim_wrapper_edit, search_block
from mmfixnorm.convert.stock import head_edits, start_edit, stored_statistics_edits, walk
from mmfixnorm.convert.text import config_text
from mmfixnorm.core.audit import WeightRecord
from mmfixnorm.core.audit.probe import preserve_random_state
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.engine.replace_layers import is_plain_layer
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.settings import ANGLE_RANGE
from mmfixnorm.type_names import type_name

__all__ = ['Conversion', 'convert']

_STORED = (
    'BN on stored statistics (norm_eval=True) is an affine map, and the convolution before it not scale-invariant. '
    'So BN is trained here, over all GPUs, except in frozen stages, which are frozen whole and not in the set.'
)
_HELD = (
    '{} layers are in front of BN on stored statistics (norm_eval=True), an affine map that stays as it is. Weight-'
    'normalised with their scale held at its start, they compute the same and are scale-invariant.'
)

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
    """

    text: str
    in_set: tuple[str, ...]
    weight_normalized: tuple[str, ...]
    scale_held: tuple[str, ...]
    classifiers: tuple[str, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


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
        out (str): The file to write.
        alpha (float): Bound on the scale of the classifiers, in units of ``sqrt(classes)``. Defaults to 1.0.
        lr_range (Sequence[float], optional): ``(lr_min, lr_max)`` of the search. Defaults to None: half to 8 times
            the config's learning rate, or with ``update='angle'`` 0.005 to 0.08.
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
    if os.path.exists(out) and not overwrite:
        raise ConfigError(f'{out}: it already exists; choose another name, or replace it with --force')
    if os.path.realpath(out) == os.path.realpath(filename):
        raise ConfigError(f'{out}: would replace the config itself; choose another name')
    if not alpha > 0:
        raise ConfigError(f'--alpha: must be > 0, got {alpha}')
    if keep_norm_eval and train_bn:
        raise ConfigError('--train-bn: trains the BN that --keep-norm-eval keeps; pass one of the two, or neither')
    if update not in ('step', 'angle'):
        raise ConfigError(f"--update: must be 'step' or 'angle', got {update!r}")
    cfg = with_names(load_config(filename))
    _check(cfg)
    if lr_from is not None:
        check_lr_from(cfg, update, lr_from)
    schedule = schedule_by_angle(cfg) if update == 'angle' else None
    plan = _Plan(
        cfg,
        alpha,
        size,
        keep_norm_eval=keep_norm_eval,
        train_bn=train_bn,
        classifiers=classifiers,
        progress=_prefixed(progress, 'audit of the config'),
    )
    base = filename if os.path.isabs(filename) else base_of(filename, os.path.dirname(out) or '.')
    write = partial(plan.child, base, lr_range, update=update, inherit=not is_pure_python(filename))
    text, notes = write(schedule=schedule)
    beside = f'{out}.{os.getpid()}.tmp.py'
    try:
        os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
        with open(beside, 'w', encoding='utf-8') as file:
            file.write(text)
        child = load_config(beside)
        model = _seeded_model(child)
        again = _prefixed(progress, 'audit of the new config')
        audited = audit_model(model, child, size=size, explain=False, brief=True, progress=again)
        if audited.failing:
            raise _not_passed(audit_model(model, child, size=size, find_groups=False))
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
    )


def _prefixed(progress: Callable[[str], None] | None, what: str) -> Callable[[str], None] | None:
    return None if progress is None else lambda text: progress(f'{what}: {text}')


def _check(cfg: Config) -> None:
    scope, model = cfg.get('default_scope'), cfg.get('model')
    if scope not in PARTS:
        raise ConfigError(f'default_scope: must be one of {sorted(PARTS)}, got {scope!r}')
    if not isinstance(model, Mapping):
        raise ConfigError(f'model: must be a dict, got {model!r}')
    types = [node['type'] for _, node in walk(cfg.to_dict()) if 'type' in node]
    types += [hook.get('type') for hook in cfg.get('custom_hooks') or []]
    names = [*types, (cfg.get('optim_wrapper') or {}).get('constructor')]
    if ours := [name for name in names if 'FixNorm' in type_name(name or '')]:
        raise ConfigError(f'it is already FixNorm: it has {ours[0]!r}')
    check_optim_wrapper(cfg)


def _not_passed(audited: ConfigAudit) -> ConfigError:
    shown = '; '.join(f'{name}: {audited.report[name].reason}' for name in audited.failing[:3])
    return ConfigError(
        f'the converted config does not pass the audit: {len(audited.failing)} of {len(audited.norm_fixing_set or ())} '
        f'weights of its norm-fixing set are not scale-invariant ({shown}); convert it by hand'
    )


class _Plan:
    """The changes that the child makes."""

    def __init__(
        self,
        cfg: Config,
        alpha: float,
        size: int | None,
        *,
        keep_norm_eval: bool,
        train_bn: bool,
        classifiers: Sequence[str],
        progress: Callable[[str], None] | None,
    ) -> None:
        self.cfg, self.alpha, self.keep_norm_eval, self.classifiers = cfg, alpha, keep_norm_eval, classifiers
        self.edit, self.alpha_keys = head_edits(cfg.model, alpha, cfg.get('default_scope'))
        self.trains_bn = False
        edited = self._edited()
        built = _seeded_model(edited)
        if train_bn and stored_statistics_edits(cfg.model, built, self.edit):
            self.trains_bn = True
            edited = self._edited()
            built = _seeded_model(edited)
        self.model = built
        self.class_layers = class_layers(edited, built)
        self._check_classifiers()
        # Of a layer without outputs for the classes it makes no difference why it fails.
        follow = None if self.class_layers is None else {f'{name}.weight' for name in self.class_layers}
        options: dict[str, Any] = dict(find_groups=False, follow=follow, brief=True, progress=progress)
        self.report = audit_model(built, edited, size=size, **options).report
        self.replacements: dict[str, str] = {}
        self.held: set[str] = set()  # the replacements whose scale is not trained
        self.left_out: dict[str, str] = {}
        self.given_a_start: list[str] = []
        for record in self.report.weights:
            if record.trainable and not record.scale_invariant:
                self._choose(record)
        if not self.alpha_keys and not any(kind.startswith('FixNorm') for kind in self.replacements.values()):
            raise self._no_classifier()

    def _check_classifiers(self) -> None:
        plain = [name for name, module in self.model.named_modules() if is_plain_layer(module)]
        if unknown := [name for name in self.classifiers if name not in plain]:
            raise ConfigError(
                f'--classifier {unknown[0]}: must be a linear layer or convolution of the model, one of '
                f'{listing(plain[::-1])}'
            )

    def _no_classifier(self) -> ConfigError:
        """Say that nothing was found for alpha to bound, and what may be meant."""
        candidates = {name for name in self.class_layers or () if is_plain_layer(self.model.get_submodule(name))}
        candidates |= {r.name.rpartition('.')[0] for r in self.report.weights if r.advice.startswith('FixNorm')}
        candidates = {name for name in candidates if is_plain_layer(self.model.get_submodule(name))}
        return ConfigError(
            'model: no classifier was found, that is, a last layer with outputs for the classes, followed by a softmax '
            'or sigmoid; there is no layer for alpha to bound. '
            + (
                f'If one of these is meant, name it with --classifier: {listing(sorted(candidates))}'
                if candidates
                else 'No layer of the model comes last before a softmax or sigmoid.'
            )
        )

    def _edited(self) -> Config:
        cfg = copy.deepcopy(self.cfg)
        cfg.merge_from_dict(dict(model=over_none(copy.deepcopy(self.edit), cfg.model)))
        load_part(cfg)
        return cfg

    def _choose(self, record: WeightRecord) -> None:
        path, _, tensor = record.name.rpartition('.')
        layer: Any = self.model.get_submodule(path)
        owner = self.model.get_submodule(path.rpartition('.')[0])
        if isinstance(layer, nn.MultiheadAttention) or isinstance(owner, nn.MultiheadAttention):
            self.left_out[record.name] = 'nn.MultiheadAttention uses its weights without calling the layers'
        elif tensor != 'weight' or not is_plain_layer(layer):
            self.left_out[record.name] = f'{type(layer).__name__} has no weight-normalised form'
        elif record.cause == 'stored_statistics' and self.keep_norm_eval:
            self.left_out[record.name] = 'BN on stored statistics'
        else:
            kind = 'Linear' if isinstance(layer, nn.Linear) else 'Conv2d'
            classifies = path in self.classifiers or self._tells_classes(path, layer, record)
            if not layer.weight.any() and not (classifies and self._give_a_start(path, kind)):
                self.left_out[record.name] = 'starts at zero, which has no direction'
            else:
                self.replacements[path] = f'{"FixNorm" if classifies else "WN"}{kind}'
                if record.cause == 'stored_statistics':
                    self.held.add(path)

    def _give_a_start(self, path: str, kind: str) -> bool:
        """Give a classifier that starts at zero a direction, by ``init_cfg`` of the module that contains it."""
        edit = copy.deepcopy(self.edit)
        start_edit(self.cfg.model, path, kind, edit)
        previous, self.edit = self.edit, edit
        model = _seeded_model(self._edited())
        layer: Any = model.get_submodule(path)
        if not layer.weight.any():
            self.edit = previous
            return False
        self.model = model
        self.given_a_start.append(path)
        return True

    def _tells_classes(self, path: str, layer: Any, record: WeightRecord) -> bool:
        """Tell whether a layer has outputs for the classes, which a softmax or sigmoid takes."""
        if self.class_layers is not None:
            return self.class_layers.get(path, False) and record.feeds_classifier
        if not record.advice.startswith('FixNorm'):
            return False
        # The number of classes cannot be changed: the outputs must match it, with or without background.
        owners: list[Any] = [self.model.get_submodule(path.rsplit('.', k)[0]) for k in range(1, path.count('.') + 1)]
        head = next((m for m in owners if isinstance(getattr(m, 'num_classes', None), int)), None)
        if head is None or 'RPN' in type(head).__name__:  # object and background are not classes
            return False
        anchors = getattr(head, 'num_base_priors', None) or getattr(head, 'num_anchors', None) or 1
        return layer.weight.shape[0] in (head.num_classes * anchors, head.num_classes + 1)

    def child(
        self,
        base: str,
        lr_range: Sequence[float] | None,
        *,
        update: str,
        schedule: Sequence[Mapping[str, Any]] | None,
        inherit: bool,
        rate: LearningRate | None = None,
    ) -> tuple[str, list[str]]:
        """Return the text of the child config, and notes for the user; without ``inherit`` it has the base in full."""
        notes: list[str] = []
        excluded = self._excluded()
        wrapper, wrapper_comments = optim_wrapper_edit(self.cfg, excluded, decay=bool(self.left_out), rate=rate)
        search_comments = []
        if by_angle := update == 'angle':
            wrapper, angle_comments = wrapper_by_angle(self.cfg, wrapper)
            wrapper_comments += angle_comments
            lr_range = lr_range or ANGLE_RANGE
            search_comments = ['lr_range is in radians.']
        schedulers = self.cfg.get('param_scheduler') if schedule is None else schedule
        linked = keys_of_lr(schedulers, self.cfg.get('default_scope'))
        search = search_block(self.cfg, self._all_alpha_keys(), lr_range, linked=linked)
        if linked:
            search_comments.append('linked_keys keep their ratio to the learning rate.')
        if unused := [r.name for r in self.report.weights if r.cause == 'unused' and r.trainable]:
            notes.append(
                f'the generated batch did not reach {len(unused)} weights, so they were not checked: {listing(unused)}'
            )
        trainable = [r for r in self.report.weights if r.trainable and r.cause != 'stored_statistics']
        invariant = sum(record.scale_invariant for record in trainable)
        if 2 * invariant < len(trainable):
            notes.append(
                f'only {invariant} of {len(trainable)} weights are scale-invariant as the config has them, so most '
                'layers become weight-normalised; no accuracy was measured of such a network: "Without batch '
                'normalisation" in docs/convert.md'
            )
        if not has_warm_up(schedulers, self.cfg.get('default_scope')):
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
        if search is None:
            notes.append('val_evaluator reports no known metric, so there is no search block.')
        sections: list[tuple[str, Any, Sequence[str]]] = [
            ('custom_imports', _imports(self.cfg), []),
            ('model', self._model(), self._model_comments()),
            ('optim_wrapper', wrapper, [*self._left_out_comments(), *wrapper_comments]),
        ]
        if schedule:
            sections.append(('param_scheduler', list(schedule), [_SCHEDULE.format('the angle' if by_angle else 'lr')]))
        hooks = hooks_with_fixnorm(self.cfg)
        if hooks != [dict(hook) for hook in self.cfg.get('custom_hooks') or []]:
            sections.append(('custom_hooks', hooks, []))
        if search:
            sections.append(('search', search, search_comments))
        values = over_none({key: value for key, value, _ in sections}, self.cfg.to_dict())
        sections = [(key, values[key], comments) for key, _, comments in sections]
        title = f'{os.path.basename(base)} with FixNorm{" by angle" if by_angle else ""}.'
        if inherit:
            return config_text(title, [('_base_', [base], []), *sections]), notes
        title += ' In full, as a text config cannot inherit from one in pure Python.'
        return config_text(title, _in_full(self.cfg, sections)), notes

    def _all_alpha_keys(self) -> list[str]:
        bounded = any(kind.startswith('FixNorm') for kind in self.replacements.values())
        return [*self.alpha_keys, *(['model.fixnorm.alpha'] if bounded else [])]

    def _model(self) -> dict[str, Any]:
        if not self.replacements:
            return self.edit
        fixnorm: dict[str, Any] = dict(plain_type=self.cfg.model.type)
        if 'model.fixnorm.alpha' in self._all_alpha_keys():
            fixnorm['alpha'] = self.alpha
        fixnorm['swap'] = {}
        kinds = {name: (kind, name in self.held) for name, kind in self.replacements.items()}
        for kind, held in sorted(set(kinds.values())):
            names = [name for name, own in kinds.items() if own == (kind, held)]
            others = [n for n, m in self.model.named_modules() if _fits(kind, m) and n not in names]
            layer = dict(type=kind, train_scale=False) if held else kind
            # The same path for two kinds would be a single key.
            fixnorm['swap'].update(dict.fromkeys(patterns_for(names, others, taken=fixnorm['swap']), layer))
        return {**self.edit, 'type': MODEL_TYPE, 'fixnorm': fixnorm}

    def _excluded(self) -> list[str]:
        in_set = norm_fixing_parameters(self.model)
        names = [name for name in self.left_out if name in in_set]
        return [
            f'^{pattern}$'.removesuffix('.*$') for pattern in patterns_for(names, [n for n in in_set if n not in names])
        ]

    def _model_comments(self) -> list[str]:
        comments = [_STORED] if self.trains_bn else []
        if self.given_a_start:
            comments.append(
                f'{", ".join(self.given_a_start)} starts at zero in the base config, which has no direction to '
                "train; here it starts like mmpretrain's LinearClsHead."
            )
        if self.held:
            comments.append(_HELD.format(len(self.held)))
        if trained := [kind for name, kind in self.replacements.items() if name not in self.held]:
            plain = sum(kind.startswith('WN') for kind in trained)
            comments.append(
                f'{len(trained)} layers are replaced while the model is built: no norm takes their scale out and no '
                f'config key reaches them ({plain} weight-normalised, {len(trained) - plain} with a bound).'
            )
        return comments

    def _left_out_comments(self) -> list[str]:
        counts: dict[str, int] = {}
        for reason in self.left_out.values():
            counts[reason] = counts.get(reason, 0) + 1
        return [f'Not in the set, {n} weights: {reason}.' for reason, n in counts.items()]


def _in_full(cfg: Config, changes: Sequence[tuple[str, Any, Sequence[str]]]) -> list[tuple[str, Any, Sequence[str]]]:
    """Return the sections of a config, with those that change merged into it."""
    merged = copy.deepcopy(cfg)
    merged.merge_from_dict({key: copy.deepcopy(value) for key, value, _ in changes})
    comments = {key: comments for key, _, comments in changes}
    return [(key, value, comments.get(key, [])) for key, value in merged.to_dict().items()]


def _seeded_model(cfg: Config) -> nn.Module:
    """Build a model with the same weights each time, so that the audits of the child and the base agree."""
    with preserve_random_state():
        set_random_seed(0)
        return prepared_model(cfg)


def _fits(kind: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear if kind.endswith('Linear') else nn.Conv2d)


def _imports(cfg: Config) -> dict[str, Any]:
    imports = dict(cfg.get('custom_imports') or dict(allow_failed_imports=False))
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    return {**imports, 'imports': list(dict.fromkeys([*names, PARTS[cfg.default_scope]]))}


def load_part(cfg: Config) -> None:
    """Register the classes that the children of the toolbox's configs need."""
    import_module(PARTS[cfg.default_scope])

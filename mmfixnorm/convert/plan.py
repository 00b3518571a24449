"""Decides which layers of a model become what: the audit measures the model of the config as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.runner import set_random_seed
from torch import nn

from mmfixnorm.config import MODEL_TYPE, PARTS
from mmfixnorm.convert.audit import audit_model, prepared_model, with_usual_images
from mmfixnorm.convert.classifiers import class_layers
from mmfixnorm.convert.inherit import over_none
from mmfixnorm.convert.patterns import patterns_for
from mmfixnorm.convert.stock import head_edits, start_edit, stored_statistics_edits
from mmfixnorm.core.audit import WeightRecord
from mmfixnorm.core.audit.probe import preserve_random_state
from mmfixnorm.core.layer_kinds import is_weight_layer
from mmfixnorm.core.layers import FixNormConv2d, FixNormLinear
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.data_checks.coco import listing
from mmfixnorm.engine.replace_layers import is_plain_layer
from mmfixnorm.errors import ConfigError

__all__ = ['Plan', 'seeded_model']

_STORED = (
    'BN on stored statistics (norm_eval=True) is an affine map, and the convolution before it not scale-invariant. '
    'So BN is trained here, over all GPUs, except in frozen stages, which are frozen whole and not in the set.'
)
_HELD = (
    '{} layers are in front of BN on stored statistics (norm_eval=True), an affine map that stays as it is. Weight-'
    'normalised with their scale held at its start, they compute the same and are scale-invariant.'
)

_AUXILIARY = (
    'Only auxiliary heads have a bound, which a search would tune: no layer of the main head was found to tell '
    'classes. If one does, name it with --classifier.'
)


class Plan:
    """Which layers of a model become what, by the audit of the config as it is.

    Attributes:
        report: The audit, with the heads changed that have a config key.
        size: Height and width of its images, in pixels.
        alpha_keys: Where alpha is in the child.
        left_out: Names of the weights that stay out of the set, with the reason.

    Raises:
        ConfigError: If the model cannot be built or audited, or has no classifier.
    """

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
        self.cfg, self._alpha, self._keep_norm_eval, self._classifiers = cfg, alpha, keep_norm_eval, classifiers
        self._size = size
        self._edit, self._heads = head_edits(cfg.model, alpha, cfg.get('default_scope'))
        self._trains_bn = False
        edited = self._edited()
        built = seeded_model(edited)
        if frozen := [path for path in self._heads if _is_frozen(built, path)]:  # such as those of a teacher
            self._edit, self._heads = head_edits(cfg.model, alpha, cfg.get('default_scope'), kept=frozen)
            edited = self._edited()
            built = seeded_model(edited)
        if train_bn and stored_statistics_edits(cfg.model, built, self._edit):
            self._trains_bn = True
            edited = self._edited()
            built = seeded_model(edited)
        self._model = built
        self._class_layers = class_layers(edited, built)
        self._check_classifiers()
        # Of a layer without outputs for the classes it makes no difference why it fails.
        follow = None if self._class_layers is None else {f'{name}.weight' for name in self._class_layers}
        options: dict[str, Any] = dict(find_groups=False, follow=follow, brief=True, progress=progress)
        audited = audit_model(built, edited, size=size, **options)
        self.report, self.size = audited.report, audited.size
        self._replacements: dict[str, str] = {}
        self._held: set[str] = set()  # the replacements whose scale is not trained
        self.left_out: dict[str, str] = {}
        self._given_a_start: list[str] = []
        for record in self.report.weights:
            if record.trainable and not record.scale_invariant:
                self._choose(record)
        if not self.alpha_keys:
            raise self._no_classifier()
        for name in self._classifiers:
            if not self._replacements.get(name, '').startswith('FixNorm') and not self._is_bounded(name):
                reason = self.left_out.get(f'{name}.weight', 'it is scale-invariant or not trained')
                raise ConfigError(f'--classifier {name}: has no scale for alpha to bound: {reason}; leave it out')

    def _is_bounded(self, name: str) -> bool:
        return isinstance(self._model.get_submodule(name), (FixNormLinear, FixNormConv2d))

    def _check_classifiers(self) -> None:
        layers = [name for name, module in self._model.named_modules() if is_weight_layer(module)]
        if unknown := [name for name in self._classifiers if name not in layers]:
            raise ConfigError(
                f'--classifier {unknown[0]}: must be a linear layer or convolution of the model, one of '
                f'{listing(layers[::-1])}'
            )

    def _no_classifier(self) -> ConfigError:
        """Say that nothing was found for alpha to bound, and what may be meant."""
        invariant = {record.name for record in self.report.weights if record.scale_invariant}
        if normalized := [name for name in self._class_layers or () if f'{name}.weight' in invariant]:
            kind = type(self._model.get_submodule(normalized[0])).__name__
            return ConfigError(
                f'model: the layer for the classes, {normalized[0]} ({kind}), is scale-invariant already, so '
                'there is no scale for alpha to bound. Norm fixing alone needs no converter: '
                'see `mmfixnorm audit CONFIG` for what to leave out of its set'
            )
        candidates = {*(self._class_layers or ())}
        candidates |= {r.name.rpartition('.')[0] for r in self.report.weights if r.advice.startswith('FixNorm')}
        out = {name: reason for name in candidates if (reason := self.left_out.get(f'{name}.weight'))}
        if out and out.keys() == candidates:
            name, reason = next(iter(sorted(out.items())))
            return ConfigError(
                f'model: the layer for the classes, {name}, cannot be given a bound: {reason}; there is no layer for '
                'alpha to bound. That needs a change in the code of the model'
            )
        candidates = {name for name in candidates - out.keys() if is_plain_layer(self._model.get_submodule(name))}
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
        cfg.merge_from_dict(dict(model=over_none(copy.deepcopy(self._edit), cfg.model)))
        _load_part(cfg)
        return self.measurable(cfg)

    def measurable(self, cfg: Config) -> Config:
        """Return a config whose model is to be audited: for images of the usual size, unless a size was asked for."""
        return cfg if self._size else with_usual_images(cfg)

    def _choose(self, record: WeightRecord) -> None:
        path, _, tensor = record.name.rpartition('.')
        layer: Any = self._model.get_submodule(path)
        owner = self._model.get_submodule(path.rpartition('.')[0])
        if isinstance(layer, nn.MultiheadAttention) or isinstance(owner, nn.MultiheadAttention):
            self.left_out[record.name] = 'nn.MultiheadAttention uses its weights without calling the layers'
        elif tensor != 'weight' or not is_plain_layer(layer):
            self.left_out[record.name] = f'{type(layer).__name__} has no weight-normalised form'
        elif not record.called:
            self.left_out[record.name] = f'{type(owner).__name__} uses its weight without calling the layer'
        elif record.cause == 'stored_statistics' and self._keep_norm_eval:
            self.left_out[record.name] = 'BN on stored statistics'
        else:
            kind = 'Linear' if isinstance(layer, nn.Linear) else 'Conv2d'
            classifies = path in self._classifiers or self._tells_classes(path, layer, record)
            if not layer.weight.any() and not (classifies and self._give_a_start(path, kind)):
                self.left_out[record.name] = 'starts at zero, which has no direction'
            else:
                self._replacements[path] = f'{"FixNorm" if classifies else "WN"}{kind}'
                if record.cause == 'stored_statistics':
                    self._held.add(path)

    def _give_a_start(self, path: str, kind: str) -> bool:
        """Give a classifier that starts at zero a direction, by ``init_cfg`` of the module that contains it."""
        edit = copy.deepcopy(self._edit)
        start_edit(self.cfg.model, path, kind, edit)
        previous, self._edit = self._edit, edit
        model = seeded_model(self._edited())
        layer: Any = model.get_submodule(path)
        if not layer.weight.any():
            self._edit = previous
            return False
        self._model = model
        self._given_a_start.append(path)
        return True

    def _tells_classes(self, path: str, layer: Any, record: WeightRecord) -> bool:
        """Tell whether a layer has outputs for the classes, which a softmax or sigmoid takes."""
        if self._class_layers is not None:
            return self._class_layers.get(path, False) and record.feeds_classifier
        if not record.advice.startswith('FixNorm'):
            return False
        # The number of classes cannot be changed: the outputs must match it, with or without background.
        owners: list[Any] = [self._model.get_submodule(path.rsplit('.', k)[0]) for k in range(1, path.count('.') + 1)]
        head = next((m for m in owners if isinstance(getattr(m, 'num_classes', None), int)), None)
        if head is None or 'RPN' in type(head).__name__:  # object and background are not classes
            return False
        anchors = getattr(head, 'num_base_priors', None) or getattr(head, 'num_anchors', None) or 1
        return layer.weight.shape[0] in (head.num_classes * anchors, head.num_classes + 1)

    def leave_out(self, failing: Sequence[str]) -> bool:
        """Leave out of the set what is not scale-invariant as a weight-normalised layer either, and replace it no more.

        Returns:
            bool: Whether that is a plan again: all of it had been replaced, and alpha still has a layer to bound.
        """
        paths = {name.rpartition('.')[0]: name for name in failing}
        if not paths.keys() <= self._replacements.keys():
            return False
        for path, name in paths.items():
            del self._replacements[path]
            self._held.discard(path)
            self.left_out[name] = 'something else than its layer uses the weight as it is'
        return bool(self.alpha_keys)

    @property
    def _replaced_with_bound(self) -> list[str]:
        return [name for name, kind in self._replacements.items() if kind.startswith('FixNorm')]

    @property
    def alpha_keys(self) -> list[str]:
        replaced = ['model.fixnorm.alpha'] if self._replaced_with_bound else []
        return [*(f'model.{path}.alpha' for path in self._heads), *replaced]

    def changes(self) -> dict[str, Any]:
        """Return ``model`` of the child."""
        if not self._replacements:
            return self._edit
        fixnorm: dict[str, Any] = dict(plain_type=self.cfg.model.type)
        if 'model.fixnorm.alpha' in self.alpha_keys:
            fixnorm['alpha'] = self._alpha
        fixnorm['swap'] = {}
        kinds = {name: (kind, name in self._held) for name, kind in self._replacements.items()}
        for kind, held in sorted(set(kinds.values())):
            names = [name for name, own in kinds.items() if own == (kind, held)]
            others = [n for n, m in self._model.named_modules() if _fits(kind, m) and n not in names]
            layer = dict(type=kind, train_scale=False) if held else kind
            # The same path for two kinds would be a single key.
            fixnorm['swap'].update(dict.fromkeys(patterns_for(names, others, taken=fixnorm['swap']), layer))
        return {**self._edit, 'type': MODEL_TYPE, 'fixnorm': fixnorm}

    def excluded(self) -> list[str]:
        """Return patterns of the weights that norm fixing would take and that stay out of the set."""
        in_set = norm_fixing_parameters(self._model)
        names = [name for name in self.left_out if name in in_set]
        return [
            f'^{pattern}$'.removesuffix('.*$') for pattern in patterns_for(names, [n for n in in_set if n not in names])
        ]

    def comments(self) -> list[str]:
        """Say what happens to the model."""
        comments = [_STORED] if self._trains_bn else []
        if self._given_a_start:
            comments.append(
                f'{", ".join(self._given_a_start)} starts at zero in the base config, which has no direction to '
                "train; here it starts like mmpretrain's LinearClsHead."
            )
        if all(name.startswith('auxiliary_head') for name in (*self._heads, *self._replaced_with_bound)):
            comments.append(_AUXILIARY)
        if self._held:
            comments.append(_HELD.format(len(self._held)))
        if trained := [kind for name, kind in self._replacements.items() if name not in self._held]:
            plain = sum(kind.startswith('WN') for kind in trained)
            comments.append(
                f'Replaced while the model is built, as no norm takes their scale out and no config key reaches them: '
                f'{plain} weight-normalised, {len(trained) - plain} with a bound.'
            )
        return comments

    def comments_on_left_out(self) -> list[str]:
        """Count the weights outside the set by reason."""
        counts: dict[str, int] = {}
        for reason in self.left_out.values():
            counts[reason] = counts.get(reason, 0) + 1
        return [f'Not in the set, {n} weights: {reason}.' for reason, n in counts.items()]


def seeded_model(cfg: Config) -> nn.Module:
    """Build a model with the same weights each time, so that the audits of the child and the base agree."""
    with preserve_random_state():
        set_random_seed(0)
        return prepared_model(cfg)


def _is_frozen(model: nn.Module, path: str) -> bool:
    """Tell whether the module that is built from the dict at a path has weights, and none of them is trained."""
    module = dict(model.named_modules()).get(path)
    weights = [*module.parameters()] if module is not None else []
    return bool(weights) and not any(weight.requires_grad for weight in weights)


def _fits(kind: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear if kind.endswith('Linear') else nn.Conv2d)


def _load_part(cfg: Config) -> None:
    """Register the classes that the children of the toolbox's configs need."""
    import_module(PARTS[cfg.default_scope])

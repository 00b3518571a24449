"""Norm fixing: restore the joint norm of a set of weights after each optimizer step (Algorithm 1, line 7)."""

from __future__ import annotations

import functools
import math
import re
import types
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmfixnorm.core.layer_kinds import is_adapter, is_fixable_weight
from mmfixnorm.core.membership import (
    FLAG,
    WAITING,
    MembershipReport,
    Place,
    is_moved,
    places,
    positions,
    require_same_set,
    set_members,
)
from mmfixnorm.core.norms import global_norm, joint_norms, local_norms, scale_
from mmfixnorm.core.sharding import local_part, shard_key, sum_over_shards_

__all__ = [
    'Moves',
    'NormFixer',
    'StepGuard',
    'add_step_hooks',
    'norm_fixing_parameters',
    'unless_skipped',
    'warn_of_decay',
]


def norm_fixing_parameters(
    model: nn.Module, *, fc: bool = True, exclude: Sequence[str] = (), frozen: bool = False
) -> dict[str, nn.Parameter]:
    """Return the trainable weights of all convolutions and linear layers, by name, each tensor once (W of A.3).

    Without LoRA adapters and re-parametrised layers (``weight_norm``, ``spectral_norm``, ``parametrize``);
    :func:`~mmfixnorm.core.layer_kinds.unfixed_weights` names them.

    Args:
        model (nn.Module): The model.
        fc (bool): Whether linear layers belong to the set; ``False`` for Algorithm 1. Defaults to True.
        exclude (Sequence[str]): Regular expressions, searched for in the parameter names; matching weights are left
            out. Defaults to none.
        frozen (bool): Whether to return frozen weights too. Defaults to False.

    Raises:
        ValueError: If ``exclude`` is one string, not a list of them, or a pattern matches none of the weights.
    """
    if isinstance(exclude, str):
        raise ValueError(f'exclude must be a list of regular expressions, got {exclude!r}; write [{exclude!r}]')
    candidates: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        weight = module._parameters.get('weight') if is_fixable_weight(module, 'weight', fc=fc) else None
        if weight is not None and (frozen or weight.requires_grad):
            candidates[f'{prefix}.weight' if prefix else 'weight'] = weight
    excluded = {name for name in candidates if is_adapter(name)}
    for pattern in exclude:
        matches = {name for name in candidates if re.search(pattern, name)}
        if not matches:
            raise ValueError(
                f'exclude: the pattern {pattern!r} matches none of the {len(candidates)} '
                f'conv and FC weights ({", ".join([*candidates][:3])}, ...)'
            )
        excluded |= matches
    out = {id(candidates[name]) for name in excluded}  # a shared tensor leaves with either name
    unique: dict[int, str] = {}
    for name, weight in candidates.items():
        if id(weight) not in out:
            unique.setdefault(id(weight), name)
    return {name: candidates[name] for name in unique.values()}


class Moves(NamedTuple):
    """What a step did to the norm-fixing set.

    Attributes:
        moved: The weights that it moved.
        held: The weights of the set that it did not move.
        every: All weights that are or may join, if weights are sharded, which all processes measure alike; else none.
    """

    moved: Mapping[Place, Tensor]
    held: Mapping[Place, Tensor]
    every: Mapping[Place, Tensor]


class Rest(NamedTuple):
    """What moves beside weights of the set that are held, and its norm before the first step that it was so."""

    held: set[Place]
    moved: set[Place]
    norm: Tensor


_LITTLE = 0.01  # of the square of the target: from there on float32 has five digits of the rest
_ROUNDING = 1e-5  # by how much weights that are held may seem to be longer than the target, which they are a part of


class NormFixer:
    r"""Keeps ``||W||`` of an optimizer's flagged tensors at ``||W_0||``: ``W <- W * ||W_0|| / ||W||``.

    One scalar for the whole set, so layers may trade norm. It works inside the optimizer, by step hooks, so a step
    that a loss scaler skips and a gradient accumulation without a step leave the weights unchanged. The target is
    the norm before the first step, unless one was given or loaded.

    Each step scales only the weights that it moved, which are not frozen, have a gradient and a learning rate other
    than 0, so that the norm of the whole set is kept:

    - A weight that the first step does not move (frozen, or in a branch not taken) waits. It joins the set with the
      first step that moves it, and its norm before that step joins the target: ``target^2 += ||w||^2``.
    - A weight that stops moving (frozen, without a gradient) is held: it counts in the norm and stays unchanged.

    Args:
        target (float | str, optional): The norm to keep. ``'loaded'`` or None: the norm before the first step;
            ``'init'``: the norm at the call of :meth:`take_init_norm`, before a checkpoint is loaded. Defaults to None.

    Attributes:
        report (MembershipReport): Writes a line when a weight waits, joins, is held or moves again.

    Raises:
        ValueError: If the target is neither one of the two names nor a finite number > 0.
    """

    per = 'set'
    """The unit whose norm is kept: the set, with all tensors as one vector."""

    def __init__(self, target: float | str | None = None) -> None:
        if isinstance(target, str):
            if target not in ('init', 'loaded'):
                raise ValueError(f"target must be 'init', 'loaded' or a number, got {target!r}")
        elif target is not None and (isinstance(target, bool) or not (math.isfinite(target) and target > 0)):
            raise ValueError(f'target must be finite and > 0 (None = norm at the start), got {target!r}')
        self.report = MembershipReport()
        self.wants_init_norm = target == 'init'
        self._target: float | Tensor | None = None if isinstance(target, str) else target
        self._init_norms: dict[Tensor, float] = {}
        self._size: tuple[int, int] | None = None
        self._norms_before: dict[Place, Tensor] = {}
        self._held: set[Place] = set()
        self._rest: Rest | None = None
        self._optimizer: Optimizer | None = None
        self._num_groups = 0  # when the hooks came
        self._handles: list[Any] = []

    @property
    def target(self) -> float | None:
        """The norm to keep; None before the first step. With sharded weights, reading it synchronises with the host."""
        return self._target.item() if isinstance(self._target, Tensor) else self._target

    def install(self, optimizer: Optimizer) -> None:
        """Hook into ``optimizer.step``, in place of another that is there; does nothing if the hooks are there already.

        A state of the optimizer that was saved without norm fixing leaves the set as it is.
        """
        if self._optimizer is optimizer:
            return
        self.remove()
        for other in [getattr(hook, '__self__', None) for hook in optimizer._optimizer_step_pre_hooks.values()]:
            if isinstance(other, NormFixer):
                other.remove()
                self.report.write('Norm fixing: the optimizer had it already; the new one replaces it')
        self._handles = add_step_hooks(optimizer, self._measure, self._hold, first_after=True)
        self._handles.append(optimizer.register_load_state_dict_pre_hook(self._keep_flags))
        self._optimizer, self._num_groups = optimizer, len(optimizer.param_groups)

    def take_init_norm(self, tensors: Iterable[Tensor]) -> None:
        """Take the present norms of these weights for the target, with ``target='init'``. Later calls do nothing.

        The target is the joint norm of those that the first step moves.
        """
        if self.wants_init_norm:
            self._init_norms = {tensor: global_norm([tensor]).item() for tensor in tensors}
            self.wants_init_norm = False

    def remove(self) -> None:
        """Remove the hooks from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._optimizer = [], None

    def state_dict(self) -> dict[str, Any]:
        """Return the target, the unit whose norm it is, and the number of tensors and elements (waiting ones too).

        Also their names, if they are known, and what is left of the target beside weights that are held.
        """
        rest = self._rest and (sorted(self._rest.held), sorted(self._rest.moved), self._rest.norm.item())
        names = self.report.names
        return {'target': self.target, 'per': self.per, 'size': self._size, 'names': names, 'rest': rest}

    def load_state_dict(self, state_dict: dict[str, Any], optimizer: Optimizer) -> None:
        """Load the target of an earlier run.

        Raises:
            ValueError: If the tensors are not those in the state, by their number or by their names, or if the earlier
                run kept the norm of another unit.
        """
        per = state_dict.get('per', 'set')  # missing in states of early versions
        if per != self.per:
            raise ValueError(
                f'the checkpoint comes from a run that kept the norm per {per}, this one keeps it per {self.per}. '
                'Resume with the optim wrapper of that run, or start a new one from its weights with load_from'
            )
        size = None if state_dict['size'] is None else tuple(state_dict['size'])
        tensors = [*places(optimizer, FLAG, WAITING).values()]
        if size is not None and size != _size(tensors):
            raise ValueError(
                'the norm-fixing set has changed: the checkpoint has {} tensors with {} elements, this run has {} '
                'with {}. Resume with the config of that run, or start a new one from its weights by load_from'.format(
                    *size, *_size(tensors)
                )
            )
        names = state_dict.get('names')  # missing in states of early versions
        if names and self.report.names:
            require_same_set(names, self.report.names)
        self._target, self._size, self.wants_init_norm = state_dict['target'], size, False
        self._rest = None  # of a run before this one
        if rest := state_dict.get('rest'):
            held, moved = ({tuple(place) for place in part} for part in rest[:2])
            self._rest = Rest(held, moved, torch.tensor(rest[2], dtype=torch.float64, device=tensors[0].device))

    def stepped_from_zero(self, optimizer: Optimizer) -> list[Tensor]:
        """Return the weights that are 0 when the optimizer steps, so that its step alone is in their place after it."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of an optimizer lose its step hooks, so a copied NormFixer is not installed.
        return {**self.__dict__, '_optimizer': None, '_handles': []}

    def _keep_flags(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Put the flags into a state to load that has none: loading replaces all keys of the groups."""
        own, saved = optimizer.param_groups, state_dict['param_groups']
        if len(own) != len(saved) or any(FLAG in group for group in saved):
            return None
        self.report.write('Norm fixing: the loaded state of the optimizer was saved without it; the set stays as it is')
        flags = [{key: group[key] for key in (FLAG, WAITING) if key in group} for group in own]
        return {**state_dict, 'param_groups': [group | flag for group, flag in zip(saved, flags, strict=True)]}

    def _check_groups(self, optimizer: Optimizer) -> None:
        """Report weights that came after the set.

        Raises:
            ValueError: If the groups have lost the set.
        """
        if not any(FLAG in group for group in optimizer.param_groups):
            raise ValueError(
                'the parameter groups of the optimizer have lost the norm-fixing set: other code has replaced them; '
                'call fix_norm again after it'
            )
        added = [
            (number, i)
            for number, group in enumerate(optimizer.param_groups)
            if number >= self._num_groups and FLAG not in group
            for i, tensor in enumerate(group['params'])
            if tensor.ndim > 1
        ]
        self.report(added, 'not in the set, because their group was added to the optimizer after it')

    @torch.no_grad()
    def _measure(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Measure, before a step, the weights that may join with it; a closure makes gradients only during the step."""
        self._check_groups(optimizer)
        keys = (FLAG, WAITING) if self._size is None else (WAITING,)
        candidates = {place: t for place, t in places(optimizer, *keys).items() if t.requires_grad}
        self._norms_before = dict(zip(candidates, local_norms([*candidates.values()]), strict=True))
        if self._size is not None:
            self._measure_rest(optimizer)

    def _measure_rest(self, optimizer: Optimizer) -> None:
        """Measure the weights that move beside others that are held, before their first such step."""
        every = places(optimizer, FLAG, WAITING)
        moved = {place: tensor for place, tensor in every.items() if is_moved(optimizer, place)}
        held = places(optimizer, FLAG).keys() - moved.keys()
        if not (moved and held) or any(shard_key(tensor) is not None for tensor in every.values()):
            self._rest = None
        elif self._rest is None or (self._rest.held, self._rest.moved) != (held, moved.keys()):
            self._rest = Rest({*held}, {*moved}, global_norm([*moved.values()]))

    def _left_of_target(self, held_square: Tensor, held: Collection[Place], moved: Collection[Place]) -> Tensor:
        """Compute the norm that the weights that move have to keep beside others that are held.

        It is what these leave of the target. Where that is little, the difference of two large numbers has no digits of
        it: there it is the norm from before the first such step, unless that was not measured (closures, shards).

        Args:
            held_square (Tensor): Square of the norm of the weights that are held.
            held (Collection[Place]): These.
            moved (Collection[Place]): Those that move.
        """
        assert self._target is not None
        left = self._target**2 - held_square
        if self._rest is None or (self._rest.held, self._rest.moved) != ({*held}, {*moved}):
            return left.sqrt()
        return torch.where(left > _LITTLE * self._target**2, left.clamp(min=0).sqrt(), self._rest.norm.to(left))

    @torch.no_grad()
    def _hold(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Let in the weights that the step was the first to move, and rescale those that it moved."""
        every = places(optimizer, FLAG, WAITING)
        if not every:
            return  # a step of another group, which is flagged as without them: DeepSpeed ZeRO steps them one by one
        # Of sharded weights a process may know less than others do. So all of them measure the same in each step.
        sharded = any(shard_key(tensor) is not None for tensor in every.values())
        joining = [place for place in self._norms_before if is_moved(optimizer, place)]
        if self._size is not None:
            if joining or sharded:
                self._join(optimizer, joining, every, sharded=sharded)
        elif joining or sharded:
            self._start(optimizer, joining, every)
        else:
            self.report(every, 'nothing to fix yet, no weight has a gradient and a learning rate other than 0')
            return
        self._norms_before = {}
        members = places(optimizer, FLAG)
        moved = {place: tensor for place, tensor in members.items() if is_moved(optimizer, place)}
        held = {place: tensor for place, tensor in members.items() if place not in moved}
        if moved or sharded:
            self._follow(held, moved, sharded=sharded)
            self._rescale(optimizer, Moves(moved, held, every if sharded else {}))

    def _start(self, optimizer: Optimizer, moved: Sequence[Place], every: Mapping[Place, Tensor]) -> None:
        set_members(optimizer, moved)
        self._take_targets({place: every[place] for place in moved}, every)
        self._init_norms = {}
        self._size = _size([*every.values()])
        self.report(
            places(optimizer, WAITING), 'will join with the first step that moves them (frozen, or unused so far)'
        )

    def _take_targets(self, moved: Mapping[Place, Tensor], every: Mapping[Place, Tensor]) -> None:
        tensors, norms = [*moved.values()], [self._norms_before[place] for place in moved]
        if self._init_norms:
            norm = math.hypot(*(self._init_norms[tensor] for tensor in tensors))
        else:
            norm = joint_norms([(tensors, norms)], [*every.values()])[0].item()
        if not (math.isfinite(norm) and norm > 0):
            raise ValueError(
                f'the norm of the {len(tensors)} weights to fix must be finite and > 0 before the first step, '
                f'got {norm}; check the initialisation or the checkpoint that was loaded'
            )
        self._target = norm if self._target is None else self._target

    def _join(
        self, optimizer: Optimizer, joining: Sequence[Place], every: Mapping[Place, Tensor], *, sharded: bool
    ) -> None:
        set_members(optimizer, {*places(optimizer, FLAG), *joining})
        tensors, norms = [every[place] for place in joining], [self._norms_before[place] for place in joining]
        added = joint_norms([(tensors, norms)], [*every.values()])[0]
        target = torch.as_tensor(self._target, dtype=added.dtype, device=added.device)
        target = torch.where(added > 0, torch.hypot(target, added), target)
        self._target = target if sharded else target.item()
        if joining:
            self.report(joining, 'joined, and their norm joined the target')

    def _follow(self, held: Mapping[Place, Tensor], moved: Collection[Place], *, sharded: bool) -> None:
        """Report the weights that stop moving and those that move again.

        Raises:
            ValueError: If the weights that stop leave nothing of the target to the others.
        """
        again = [place for place in moved if place in self._held]
        self._held = {*held}
        self.report(again, 'moved again')
        if self.report(held, 'held, as they have no gradient, are frozen or have a learning rate of 0') and not sharded:
            norm = global_norm([*held.values()]).item()
            assert isinstance(self._target, float)
            if norm >= self._target * (1 + (_ROUNDING if self._rest else 0.0)):
                raise ValueError(
                    f'the weights that no longer move have the norm {norm}, which leaves nothing of the target '
                    f'{self._target} to the rest of the norm-fixing set; set a larger target'
                )

    def _rescale(self, optimizer: Optimizer, moves: Moves) -> None:
        """Scale the weights that the step moved."""
        parts = [[*moves.moved.values()], [*moves.held.values()]]
        among = [*(moves.every or moves.moved).values()]
        norms = joint_norms([(part, local_norms(part)) for part in parts if part or moves.every], among)
        target: Any = self._target
        if len(norms) == 2:
            # Without the rest of the target the weights become nan, on all processes.
            left = self._left_of_target(norms[1] ** 2, moves.held, moves.moved)
            target = torch.where(norms[1] > 0, left, target)
        scale_(parts[0], unless_skipped(target / norms[0], optimizer))


def unless_skipped(factor: Tensor, optimizer: Optimizer) -> Tensor:
    """Return the factor for weights after a step, or 1 if a loss scaler made ``optimizer`` skip it: a 0-d tensor.

    The factor of weights whose norm has overflowed is nan, not 0, so that it is seen.
    """
    factor = torch.where(factor != 0, factor, math.nan)
    found_inf = getattr(optimizer, 'found_inf', None)  # a fused optimizer skips the step by itself
    if found_inf is None:
        return factor
    return torch.where(found_inf.to(factor.device) > 0, torch.ones_like(factor), factor)


def add_step_hooks(
    optimizer: Optimizer,
    before: Callable[[Optimizer, Any, Any], None],
    after: Callable[[Optimizer, Any, Any], None] | None = None,
    *,
    first_before: bool = False,
    first_after: bool = False,
) -> list[Any]:
    """Call functions around every call of ``optimizer.step``.

    Args:
        optimizer (Optimizer): Takes the steps.
        before (Callable): Called before each step.
        after (Callable, optional): Called after it.
        first_before (bool): Call ``before`` before the hooks that are there, not after them.
        first_after (bool): The same of ``after``: it changes or measures what the step alone has left.

    Returns:
        list: A handle of each, to remove it.
    """
    if _TORCH_VERSION < (2, 4):
        _keep_step_hooks(optimizer)
    before_step: Any = optimizer._optimizer_step_pre_hooks  # both are OrderedDicts
    after_step: Any = optimizer._optimizer_step_post_hooks
    handles: list[Any] = [optimizer.register_step_pre_hook(before)]
    if first_before:
        before_step.move_to_end(handles[0].id, last=False)
    if after is not None:
        handles.append(optimizer.register_step_post_hook(after))
        if first_after:
            after_step.move_to_end(handles[1].id, last=False)
    return handles


_TORCH_VERSION = tuple(int(part) for part in torch.__version__.split('.')[:2])


def _keep_step_hooks(optimizer: Optimizer) -> None:
    """Make ``optimizer.step`` call its hooks permanently.

    Seen with torch 2.1: the first ``torch.compile`` of a process silently removes the calls of the step hooks from all
    optimizer classes. A ``step`` attribute of the instance is not affected.
    """
    import torch._dynamo  # imported late: it takes a second, and newer versions of torch do not need it

    if 'step' in vars(optimizer):  # a learning rate scheduler of torch has wrapped it, with its hooks
        return
    step: Any = type(optimizer).step
    # That compile also disables the step of some classes (RAdam) for the compiler, with its hooks inside.
    step = getattr(step, '_torchdynamo_orig_callable', step)
    calls_hooks = step.__code__ is Optimizer.profile_hook_step(step).__code__
    inner = step.__wrapped__ if calls_hooks else step
    # Disabled for the compiler, which can only trace a step of the class.
    hooked = torch._dynamo.disable(Optimizer.profile_hook_step(inner))
    optimizer.step = types.MethodType(hooked, optimizer)  # type: ignore[method-assign]


class StepGuard:
    """Calls a function when ``optimizer.step`` ends with an error or an interrupt, which then goes on.

    No hook is called then, so it replaces ``step`` of the instance. Learning rate schedulers that wrap ``step`` may
    come before or after it. Copies and pickles of the optimizer are without it.

    Args:
        optimizer (Optimizer): Takes the steps. Add its step hooks before.
        recover (Callable[[], None]): Called before the error is raised on.

    Attributes:
        inside (bool): Whether a step is being taken under this guard.
    """

    def __init__(self, optimizer: Optimizer, recover: Callable[[], None]) -> None:
        import torch._dynamo  # imported late, as in _keep_step_hooks

        self.inside = False
        self._optimizer = optimizer
        self._own_step = vars(optimizer).get('step')
        step = optimizer.step
        inner = getattr(step, '__func__', step)

        def guarded(_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            self.inside = True
            try:
                return step(*args, **kwargs)
            except BaseException:
                recover()
                raise
            finally:
                self.inside = False

        functools.update_wrapper(guarded, inner)
        # By these the compiler finds what is inside a step that is disabled for it.
        of_compiler = [n for n in vars(guarded) if n.startswith('_torchdynamo') or n == 'get_compiler_config']
        for name in of_compiler:
            delattr(guarded, name)
        # As in _keep_step_hooks. A method, because schedulers take the function of a step out of it.
        self._guarded = types.MethodType(torch._dynamo.disable(guarded), optimizer)
        optimizer.step = self._guarded  # type: ignore[method-assign]

    def remove(self) -> None:
        """Put back what ``step`` was, unless other code has wrapped it since."""
        if vars(self._optimizer).get('step') is not self._guarded:
            return
        if self._own_step is None:
            del self._optimizer.step
        else:
            self._optimizer.step = self._own_step  # type: ignore[method-assign]


def _size(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Count the tensors and their elements, over all processes that share them."""
    elements: dict[Hashable, int] = {}
    for tensor in tensors:
        elements[shard_key(tensor)] = elements.get(shard_key(tensor), 0) + local_part(tensor).numel()
    sums = [sum_over_shards_(torch.tensor(number, device=tensors[0].device), key) for key, number in elements.items()]
    return len(tensors), sum(int(number) for number in sums)


def warn_of_decay(optimizer: Optimizer) -> None:
    """Warn if a group with tensors of the norm-fixing set has weight decay, which FixNorm drops."""
    decays = {g.get('weight_decay', 0) for g in optimizer.param_groups if len(positions(g))} - {0}
    if decays:
        warnings.warn(
            f'weights whose norm is fixed have weight_decay {sorted(decays)}: it no longer limits their norm, and '
            "only shrinks the step; with update='angle' it only costs small steps digits. FixNorm trains with "
            'weight_decay=0',
            stacklevel=3,
        )

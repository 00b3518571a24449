"""What the ``search`` blocks of all methods share, as checked, frozen data.

The settings of one method are in its file in :mod:`mmfixnorm.search.methods`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mmfixnorm.search._utils import checks
from mmfixnorm.search.executors import ExecutorSettings, parse_executor

#: In place of a range of the learning rate: measure it, see :mod:`mmfixnorm.search.methods.ramp`.
AUTO = 'auto'

#: Learning rates of a search with ``update='angle'``, in radians: a quarter to 4 times 0.016, which is the geometric
#: mean of the best ones of six tasks (docs/rotation.md).
ANGLE_RANGE = (0.004, 0.064)

#: Settings that say how trials are executed: changing them never changes a result, so a search may be resumed with
#: other values.
EXECUTION_KEYS = frozenset(
    {'workers', 'max_attempts', 'timeout_s', 'keep_weights', 'executor', 'backoff_s', 'reuse_trainings', 'fork'}
)


@dataclass(frozen=True)
class SearchSettings(ABC):
    """The settings that every kind of search has.

    Args:
        metric (str): Name of the number to tune for, as the config's ``val_evaluator`` reports it.
        rule (str): ``'greater'`` or ``'less'``: which values of the metric are better. With ``'greater'``, a metric
            that is nan counts as 0, as where there are no boxes yet, unless the training had a value below 0.
        select (str): ``'last'`` takes the metric at the end of training, ``'best'`` the best
            validation of the training.
        lr_key (str or list[str]): Where the learning rate is in the config; all keys of a list get the same.
        alpha_key (str or list[str]): Where alpha is in the config.
        linked_keys (str or list[str]): Numbers of the config that move with the learning rate, such as
            ``param_scheduler.1.eta_min``: each keeps its ratio to the config's own (of the first ``lr_key``).
        seed (int, optional): Written to ``randomness.seed`` of every trial; None leaves the
            config's own.
        confirm_seeds (int): Train the winner and the runner-up again with the seeds ``seed + 1`` to
            ``seed + confirm_seeds``, see :mod:`mmfixnorm.search.methods.confirm`; 0 trains nothing again.
        workers (int): Trials that run at the same time.
        max_attempts (int): Attempts at a trial whose process fails, in one run of the command.
        timeout_s (float, optional): Wall-clock limit of one attempt, in seconds.
        keep_weights (str): ``'winner'`` deletes the checkpoints of a finished trial unless it can
            still win, ``'all'`` deletes none.
        executor (str or dict): What runs the trials: ``'local'``, ``'slurm'``, ``'ray'`` or ``'manual'``, or a
            dict with one of them as ``type`` and its settings, see :mod:`mmfixnorm.search.executors`.
        backoff_s (float): After its k-th failure a trial waits ``min(60, 2**k)`` times this, in
            seconds, while others continue.
        own_lr (float, optional): The learning rate of the config, which is filled in where a search needs it.
        reuse_trainings (bool): Take over the result of a training that is the same to the last bit, see
            :mod:`mmfixnorm.search.record.same_training`; False trains each point.
        fork (bool): Train at a smaller alpha only what comes after ``g`` has met it: continue from a checkpoint of the
            training at a larger one, where a training that continues repeats to the last bit, see
            :mod:`mmfixnorm.search.record.forks`. With ``reuse_trainings=False`` nothing is continued.
        keep_total_batch (bool): Where the processes of a trial make a smaller total batch than the config's name or
            ``auto_scale_lr.base_batch_size`` says, update the weights once in as many iterations as make up for it
            (``optim_wrapper.accumulative_counts``), see :mod:`mmfixnorm.search._utils.total_batch`.
        budget (float or str, optional): What the search may cost: a number of T_max, or the time of all trainings in
            sum, such as ``'8h'`` or ``'30min'``, see :mod:`mmfixnorm.search.budget`.
    """

    kind: ClassVar[str]
    #: Whether the method itself chooses its trainings by a budget in T_max, which then is part of what it searches.
    plans_by_budget: ClassVar[bool] = False

    metric: str = 'accuracy/top1'
    rule: str = 'greater'
    select: str = 'last'
    lr_key: str | tuple[str, ...] = 'optim_wrapper.optimizer.lr'
    alpha_key: str | tuple[str, ...] = 'model.head.alpha'
    linked_keys: str | tuple[str, ...] = ()
    seed: int | None = 0
    confirm_seeds: int = 0
    workers: int = 1
    max_attempts: int = 3
    timeout_s: float | None = None
    keep_weights: str = 'winner'
    executor: str | Mapping[str, Any] | ExecutorSettings = 'local'
    backoff_s: float = 1.0
    reuse_trainings: bool = True
    fork: bool = True
    own_lr: float | None = None
    keep_total_batch: bool = False
    budget: float | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise checks.fail('metric', 'the name of a metric', self.metric)
        checks.one_of('rule', self.rule, ('greater', 'less'))
        checks.one_of('select', self.select, ('last', 'best'))
        checks.one_of('keep_weights', self.keep_weights, ('winner', 'all'))
        self._set('lr_key', checks.dotted_keys('lr_key', self.lr_key, 'optim_wrapper'))
        self._set('alpha_key', checks.dotted_keys('alpha_key', self.alpha_key, 'model'))
        self._set('linked_keys', checks.distinct_keys('linked_keys', self.linked_keys))
        if self.seed is not None:
            checks.integer('seed', self.seed, at_least=0)
        if checks.integer('confirm_seeds', self.confirm_seeds, at_least=0) and self.seed is None:
            raise checks.fail('seed', 'an integer where search.confirm_seeds > 0, whose seeds follow it', self.seed)
        checks.integer('workers', self.workers, at_least=1)
        checks.integer('max_attempts', self.max_attempts, at_least=1)
        if self.timeout_s is not None:
            self._set('timeout_s', checks.positive('timeout_s', self.timeout_s))
        self._set('executor', parse_executor(self.executor))
        rule = 'a finite number >= 0'
        if checks.finite('backoff_s', self.backoff_s, rule) < 0:
            raise checks.fail('backoff_s', rule, self.backoff_s)
        if self.own_lr is not None:
            self._set('own_lr', checks.positive('own_lr', self.own_lr))
        self._set('budget', checks.budget(self.budget))
        for name in ('reuse_trainings', 'fork', 'keep_total_batch'):
            checks.boolean(name, getattr(self, name))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for all other code

    @property
    def lr_keys(self) -> tuple[str, ...]:
        """Dotted keys that get the learning rate."""
        return checks.dotted_keys('lr_key', self.lr_key, 'optim_wrapper')

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        """Dotted keys that get alpha; empty when this search does not tune it."""
        return checks.dotted_keys('alpha_key', self.alpha_key, 'model')

    @property
    def weight_decay_keys(self) -> tuple[str, ...]:
        """Dotted keys that get the weight decay; empty when this search does not tune it."""
        return ()

    @property
    def tuned_keys(self) -> dict[str, tuple[str, ...]]:
        """The numbers that this search tunes, each with its dotted keys."""
        keys = {'lr': self.lr_keys, 'alpha': self.alpha_keys, 'weight_decay': self.weight_decay_keys}
        return {name: of_name for name, of_name in keys.items() if of_name}

    @property
    def needs_own_lr(self) -> bool:
        """Whether the trainings depend on the learning rate of the config."""
        return getattr(self, 'lr_range', None) == AUTO

    @property
    def winner_has_best_value(self) -> bool:
        """Whether the winner is a training with the best value of its stage; else it is chosen by more than values."""
        return True

    @property
    def stages_compete(self) -> bool:
        """Whether only the best of all stages can win, as where stages are batches of one sample."""
        return False

    @property
    def known_lr_range(self) -> tuple[float, float]:
        """The range of the learning rate.

        Raises:
            ValueError: It is ``'auto'``, and a ramp has not measured it yet.
        """
        lr_range = getattr(self, 'lr_range', None)
        if not isinstance(lr_range, tuple):
            raise ValueError(f'search.lr_range is {lr_range!r}: the ramp comes first')
        return lr_range

    @property
    def budget_t_max(self) -> float | None:
        """The budget, if it is one in T_max."""
        return self.budget if isinstance(self.budget, float) else None

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds, if it is one in time."""
        return checks.seconds(self.budget) if isinstance(self.budget, str) else None

    @property
    def budget_text(self) -> str:
        """The budget as people read it."""
        return self.budget if isinstance(self.budget, str) else f'{self.budget:g} T_max' if self.budget else 'any cost'

    @property
    def executor_settings(self) -> ExecutorSettings:
        """The settings of what runs the trials."""
        return parse_executor(self.executor)

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """The lengths of trainings, as fractions of the config's own schedule, rising."""

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what the trials are, as plain data."""
        values = {k: v for k, v in asdict(self).items() if k not in EXECUTION_KEYS}
        for key in ('confirm_seeds', 'linked_keys', 'own_lr', 'extend', 'keep_total_batch'):
            if not values.get(key, True):  # a record from before this key existed continues
                del values[key]
        if not self.plans_by_budget:
            del values['budget']
        elif self.budget_t_max is None:  # a time ends a search, and does not choose what is trained
            values['budget'] = None
        processes = self.executor_settings.processes
        if processes > 1:  # each has the config's batch size, so together they have another one
            values['executor.gpus_per_trial'] = processes
        return {'type': self.kind, **values}

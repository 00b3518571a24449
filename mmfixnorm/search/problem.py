"""One search: its config, settings, data and work dir, checked before anything runs.

Its identity is everything that decides its results; a work dir belongs to one identity.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfixnorm.config import HOOK_NAMES, dicts_in, load_config, training_length, turns_by_angle, with_names
from mmfixnorm.data_checks.paths import check_checkpoint, check_exists, data_paths, local_starts
from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import flatten, get_key, is_key, with_value
from mmfixnorm.search._utils.total_batch import TotalBatch, counts_to_keep, total_batch
from mmfixnorm.search._utils.vis_backends import name_trial
from mmfixnorm.search.methods import method_of, parse_settings
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.methods.ramp import needs_ramp, with_range
from mmfixnorm.search.methods.sampled import SampledSearch
from mmfixnorm.search.planner import planned_stages
from mmfixnorm.search.settings import ANGLE_RANGE, SearchSettings
from mmfixnorm.search.trial.schedule import lengthen_iterations, scale_schedule, shortened_length
from mmfixnorm.type_names import type_name

#: Parts of a config that say where and how a training runs and what it shows, not what it computes.
_EXECUTION = frozenset({'search', 'work_dir', 'resume', 'launcher', 'log_level', 'log_processor', 'local_rank'})
_SHOWING = ('visualizer', 'vis_backends', 'default_hooks.visualization', 'default_hooks.logger')
_EXECUTION_LEAVES = frozenset({'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor'})
#: Parts of a config that a training is made of. A number elsewhere says how trainings are compared, or is a variable of
#: the file, whose value stands where it is used.
_TRAINED = (
    *('model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'),
    *('default_hooks', 'custom_hooks', 'strategy'),
)
_DATA = 'data at '
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')  # of an object in a config: it differs in each run
_HOOKS = 'config.custom_hooks'  # alone it is an empty list
_HOOK = re.compile(r'config\.custom_hooks\.(\d+)\.(.*)')
_CHECKING_HOOK = re.compile(r'\bClassCheckHook\b')
_FIRST_NAMES = {name: names[-1] for names in HOOK_NAMES.values() for name in names}
#: Stands in an identity for data that are not on this machine.
NO_DATA = repr('not here')
# Entries of a folder tree that are listed; enough to notice another data set.
_LISTING_LIMIT = 20_000


@dataclass(frozen=True)
class SearchProblem:
    """A search that can run: its config, checked.

    Attributes:
        filename: The config that was given.
        cfg: The same, resolved, with ``cfg_options`` merged.
        cfg_options: Dotted keys changed on the command line.
        settings: Its ``search`` block.
        work_dir: Folder of the record and of the trials.
    """

    filename: str
    cfg: Config
    cfg_options: dict[str, Any]
    settings: SearchSettings
    work_dir: Path

    @cached_property
    def identity(self) -> dict[str, str]:
        """Everything that the results of this search may depend on, as flat plain data.

        :func:`differences` says which of it decides results.
        """
        tuned = {key for keys in self.settings.tuned_keys.values() for key in keys}
        config = {f'config.{key}': value for key, value in flatten(self.cfg.to_dict()) if key not in tuned}
        lr, linked = self._linked
        config |= {f'config.{key}': f'{value / lr!r} times the learning rate' for key, value in linked.items()}
        settings = {f'search.{key}': value for key, value in self.settings.identity().items()}
        data = {f'{_DATA}{key}': value for key, value in describe_data(self.cfg, but=self.work_dir).items()}
        everything = sorted({**settings, **config, **data}.items())
        return {k: _ADDRESS.sub('', repr(_first_name(v))) for k, v in everything if decides_results(k)}

    @property
    def trials_dir(self) -> Path:
        """Folder with one folder per trial."""
        return self.work_dir / 'trials'

    def trial_dir(self, key: str) -> Path:
        """Return the folder of one trial."""
        return self.trials_dir / key

    def cost(self, fraction: float) -> float:
        """Return the length of a training in T_max, by its real number of epochs or iterations."""
        return shortened_length(self.cfg, fraction) / training_length(self.cfg)[0]

    def planned_costs(self) -> list[tuple[str, int, float]]:
        """List every stage as ``(name, trainings, cost in T_max)``."""
        stages = planned_stages(self.settings)
        return [(name, n, n * self.cost(fraction) if fraction else 0.0) for name, n, fraction in stages]

    @property
    def planned_cost(self) -> float:
        """What the search costs at most, in T_max."""
        of_stages = sum(cost for _, _, cost in self.planned_costs())
        return of_stages if self.settings.budget_t_max is None else min(of_stages, self.settings.budget_t_max)

    def config_with(self, point: Point) -> Config:
        """Return the resolved config with the values of a point at the keys that are tuned."""
        plain = self.cfg.to_dict()
        for key, value in self.tuned(point).items():  # mmengine merges nothing into a tuple or a list of numbers
            plain = with_value(plain, key, value)
        return Config(plain)

    def tuned(self, point: Point) -> dict[str, float]:
        """Return the dotted keys that are tuned or move with the learning rate, with their values."""
        keys = self.settings.tuned_keys
        tuned = {key: value for name, value in point.values.items() for key in keys.get(name, ())}
        lr, linked = self._linked
        return {**tuned, **{key: value * (point.lr / lr) for key, value in linked.items()}}

    @cached_property
    def _linked(self) -> tuple[float, dict[str, float]]:
        """The config's own learning rate, and the numbers that move with it by their dotted keys."""
        plain = self.cfg.to_dict()
        lr = get_key(plain, self.settings.lr_keys[0], named_by='search.lr_key')
        return lr, {key: get_key(plain, key, named_by='search.linked_keys') for key in self.settings.linked_keys}

    @property
    def total_batch(self) -> TotalBatch | None:
        """The total batch that the config is meant for beside what its processes make; None if it does not say."""
        return total_batch(self.cfg, self.filename, self.settings.executor_settings.processes)

    @cached_property
    def accumulative_counts(self) -> int | None:
        """Iterations to each update that ``search.keep_total_batch`` makes of the config's own; None if it is off.

        Raises:
            ConfigError: No number keeps the total batch.
        """
        if not self.settings.keep_total_batch:
            return None
        return counts_to_keep(self.cfg, self.filename, self.settings.executor_settings.processes)

    @property
    def _iterations_to_one(self) -> int:
        """Iterations of a trial to one of the config, in a training by iterations that keeps the total batch."""
        own = self.cfg.optim_wrapper.get('accumulative_counts', 1)
        return (self.accumulative_counts or own) // own

    def length(self, fraction: float = 1.0) -> int:
        """Return the length of a trial in its epochs or iterations."""
        length, (_, unit) = shortened_length(self.cfg, fraction), training_length(self.cfg)
        return length if unit == 'epochs' else length * self._iterations_to_one

    def seed_of(self, spec: Spec) -> int | None:
        """Return the seed of a training; None if it has another one each time."""
        for seed in (spec.seed, self.settings.seed):
            if seed is not None:
                return seed
        return (self.cfg.get('randomness') or {}).get('seed')

    def trial_config(self, spec: Spec) -> Config:
        """Return the config that a trial trains: values, schedule, seed and work dir set."""
        cfg = scale_schedule(self.config_with(spec.point), spec.fraction)
        seed = self.seed_of(spec)
        if seed is not None:
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
        if self.accumulative_counts not in (None, cfg.optim_wrapper.get('accumulative_counts', 1)):
            cfg.optim_wrapper.accumulative_counts = self.accumulative_counts
            times = self._iterations_to_one
            hook = dict(type='UpdateParamSchedulerHook', interval=times)
            cfg.setdefault('default_hooks', {})['param_scheduler'] = hook
            cfg = lengthen_iterations(cfg, times)
        cfg.work_dir = str(self.trial_dir(spec.key) / 'run')
        cfg.launcher = 'none'
        cfg.resume = False  # the trial decides, by what it finds in its work dir
        cfg.pop('search', None)
        trial = {'search': self.work_dir.name, 'trial': spec.key, 'stage': spec.stage, **spec.point.values}
        name_trial(cfg, self.work_dir, trial)
        _confine_checkpoints(cfg, keep_all=self.settings.keep_weights == 'all')
        return cfg

    def trial_task(
        self, spec: Spec, *, attempt: int, fingerprint: str, fork_alphas: Sequence[float] = ()
    ) -> dict[str, Any]:
        """Return the content of ``spec.json`` for an attempt at a trial; ``fork_alphas`` may continue from it."""
        return {
            **spec.to_dict(),
            'attempt': attempt,
            'fingerprint': fingerprint,
            'metric': self.settings.metric,
            'rule': self.settings.rule,
            'select': self.settings.select,
            'alpha_keys': list(self.settings.alpha_keys) if spec.point.alpha is not None else [],
            'fork_alphas': list(fork_alphas),
        }


def _first_name(value: Any) -> Any:
    """Return the first name that a hook had, and any other value as it is: records of then stay valid."""
    return _FIRST_NAMES.get(value, value) if isinstance(value, str) else value


def decides_results(key: str) -> bool:
    """Return whether an entry of an identity can change a result; the others say where and how trainings run."""
    if not key.startswith('config.'):
        return True
    name = key.removeprefix('config.')
    return not (
        name.split('.')[0] in _EXECUTION
        or name.rsplit('.', 1)[-1] in _EXECUTION_LEAVES
        or any(f'{name}.'.startswith(f'{part}.') for part in _SHOWING)
    )


def differences(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List the entries in which two identities differ and that decide results, settings of the search first.

    Data are compared where both identities describe them: a search can be looked at on a machine without its data.
    """
    was, now = _without_checks(was), _without_checks(now)
    keys = []
    for key in sorted({*was, *now}):
        both = key in was and key in now
        if was.get(key) == now.get(key) or not decides_results(key):
            continue
        if key.startswith(_DATA) and not (both and NO_DATA not in (was[key], now[key])):
            continue
        keys.append(key)
    return sorted(keys, key=lambda k: not k.startswith('search.'))


def _without_checks(identity: Mapping[str, str]) -> dict[str, str]:
    """Leave out the hooks that only check, and number the hooks after them as if they were not there."""
    hooks = [match for key in identity if (match := _HOOK.match(key))]
    checks = sorted({int(m[1]) for m in hooks if m[2] == 'type' and _CHECKING_HOOK.search(identity[m[0]])})
    kept = {key: value for key, value in identity.items() if not _HOOK.match(key) and key != _HOOKS}
    for match in hooks:
        number = int(match[1])
        if number not in checks:
            number -= sum(check < number for check in checks)
            kept[f'{_HOOKS}.{number}.{match[2]}'] = identity[match[0]]
    return kept


def load_problem(
    filename: str | os.PathLike[str],
    *,
    work_dir: str | os.PathLike[str] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    workers: int | None = None,
    needs_data: bool = True,
) -> SearchProblem:
    """Read a config with a ``search`` block and check everything that can be checked before a trial runs.

    Args:
        filename: The config.
        work_dir: Default ``work_dirs/<config stem>_search``.
        cfg_options: Dotted keys to change, e.g. ``{'search.num_splits': 3}``.
        workers: Trials at a time, instead of ``search.workers``.
        needs_data: Whether the data must be on this machine, as they must be to train.

    Raises:
        ConfigError: Settings, keys, schedule, metric or data are not usable.
    """
    # A driver imports no toolbox, so a config with classes becomes what its trials are given: one with names.
    cfg = with_names(load_config(filename, cfg_options=cfg_options, import_custom_modules=False))
    settings = parse_settings(cfg.get('search'))
    if workers is not None:
        if workers < 1:
            raise ConfigError(f'--workers: must be an integer >= 1, got {workers}')
        settings = replace(settings, workers=workers)
    _check_keys(cfg, settings)
    _check_schedulers(cfg)
    settings = _with_own_lr(cfg, settings)
    if turns_by_angle(cfg):
        _check_angles(settings)
    if isinstance(settings, SampledSearch):
        settings = _with_space_of(cfg, settings)
    if check := method_of(settings).check:
        check(settings)
    named_by = 'search.schedule_fraction' + ('' if hasattr(settings, 'schedule_fraction') else 's')
    for fraction in settings.fractions:
        scale_schedule(cfg, fraction, named_by=named_by)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        if cfg.get(key) is None:
            raise ConfigError(f'{key}: a search needs validation to compare trials, got None')
    if needs_data:
        check_data(cfg)
    stem = Path(filename).stem
    folder = Path(work_dir) if work_dir else Path('work_dirs') / f'{stem}_search'
    problem = SearchProblem(
        filename=os.fspath(filename),
        cfg=cfg,
        cfg_options=dict(cfg_options or {}),
        settings=settings,
        work_dir=folder.absolute(),
    )
    _ = problem.accumulative_counts  # it raises
    return problem


def _confine_checkpoints(cfg: Config, *, keep_all: bool) -> None:
    hooks = cfg.setdefault('default_hooks', {})
    hook = hooks.setdefault('checkpoint', {'type': 'CheckpointHook', 'interval': 1})  # what mmengine adds by itself
    if hook is None:
        return
    hook.pop('out_dir', None)  # one folder for all trials: they would overwrite each other's
    if not keep_all:
        kept = hook.get('max_keep_ckpts', 2)
        hook['max_keep_ckpts'] = max(kept, 2) if kept > 0 else 2  # a kill may tear the newest one


def _check_keys(cfg: Config, settings: SearchSettings) -> None:
    plain = cfg.to_dict()
    named = [(_setting(name), key) for name, keys in settings.tuned_keys.items() for key in keys]
    _check_space_keys(plain, settings)
    if twice := {key for _, key in named} & {*settings.linked_keys}:
        raise ConfigError(f'search.linked_keys: {sorted(twice)[0]!r} is tuned itself; take it out of the list')
    named += [('search.linked_keys', key) for key in settings.linked_keys]
    for setting, key in named:
        value = get_key(plain, key, named_by=setting)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f'{setting}: {key!r} must be a number in the config, got {value!r}')
    if settings.linked_keys and not get_key(plain, settings.lr_keys[0], named_by='search.lr_key') > 0:
        raise ConfigError(f'search.linked_keys: {settings.lr_keys[0]} must be > 0 in the config, to have a ratio to it')


def _check_schedulers(cfg: Config) -> None:
    for scheduler in dicts_in(cfg.get('param_scheduler')):
        if type_name(scheduler.get('type', '')).startswith('OneCycle') and scheduler.get('param_name', 'lr') == 'lr':
            raise ConfigError(
                f'param_scheduler: {type_name(scheduler["type"])} takes the learning rate from its eta_max, whatever '
                'search.lr_key is set to, so there is nothing to tune; write it as LinearLR and CosineAnnealingLR'
            )


def _with_own_lr(cfg: Config, settings: SearchSettings) -> SearchSettings:
    """Fill in what a search needs of its config: the learning rate, and the range of one that is an angle."""
    if not settings.needs_own_lr:
        return settings
    own = {key: get_key(cfg.to_dict(), key, named_by='search.lr_key') for key in settings.lr_keys}
    key, lr = next(iter(own.items()))
    if len({*own.values()}) > 1:
        raise ConfigError(
            f'search.lr_key: a search that starts from the learning rate of the config needs one, got {own}; name one '
            'key, and list the others in search.linked_keys, where they keep their ratio to it'
        )
    if not lr > 0:
        raise ConfigError(f'{key}: must be > 0 in the config, which a search starts from, got {lr!r}')
    if settings.own_lr not in (None, lr):
        raise ConfigError(f'search.own_lr: is {key} of the config, {lr:g}, got {settings.own_lr:g}; leave it out')
    if needs_ramp(settings) and turns_by_angle(cfg):
        settings = with_range(settings, ANGLE_RANGE)
    check_room_for_ramp(settings)
    return replace(settings, own_lr=float(lr))


def _check_angles(settings: SearchSettings) -> None:
    for name in ('lrs', 'lr_range'):
        rates = getattr(settings, name, None)
        if isinstance(rates, tuple) and max(rates) > math.pi:
            raise ConfigError(
                f"search.{name}: with update='angle' the learning rate is an angle of at most pi, in radians, got "
                f'{max(rates):g}; usual angles are near 0.02'
            )


def check_room_for_ramp(settings: SearchSettings) -> None:
    """Check that the budget of a search that plans by it has room for a training after the ramp.

    Raises:
        ConfigError: It has none.
    """
    budget = settings.budget_t_max
    if needs_ramp(settings) and settings.plans_by_budget and budget is not None and budget <= 1:
        raise ConfigError(
            f"search.budget: must be > 1 with search.lr_range='auto', as the ramp of the learning rate comes before a "
            f'training of 1 T_max, got {budget:g}; 1.5 has room for both'
        )


def _setting(name: str) -> str:
    """Return the setting that names the keys of a tuned number."""
    return f'search.space.{name}' if is_key(name) else f'search.{name}_key'


def _check_space_keys(plain: Mapping[str, Any], settings: SearchSettings) -> None:
    """Check that each key of ``search.space`` is one that a training can be tuned by, and is tuned once."""
    tuned_keys = settings.tuned_keys
    others = {key: _setting(name) for name, keys in tuned_keys.items() if not is_key(name) for key in keys}
    others |= dict.fromkeys(settings.linked_keys, 'search.linked_keys')
    for key in filter(is_key, tuned_keys):
        setting, root = _setting(key), key.split('.')[0]
        get_key(plain, key, named_by=setting)
        if key in others:
            raise ConfigError(f'{setting}: {key!r} is tuned by {others[key]} as well; take it out of one of them')
        if key in ('train_cfg.max_epochs', 'train_cfg.max_iters'):
            raise ConfigError(
                f'{setting}: the length of the trainings is what costs are counted in, and cannot be tuned; '
                'the schedule fractions of the search shorten it'
            )
        if not decides_results(f'config.{key}') or root not in _TRAINED:
            raise ConfigError(
                f'{setting}: {key!r} changes nothing in a training; tune a number below {", ".join(_TRAINED)} (but for '
                'how data are loaded and shown), and name a variable of the file at the key where it is used'
            )


def _with_space_of(cfg: Config, settings: SampledSearch) -> SampledSearch:
    """Return the settings with what the config says of the numbers of the space: which of them are integers."""
    plain = cfg.to_dict()
    space = {key: of.beside(get_key(plain, key, named_by=_setting(key))) for key, of in settings.space.items()}
    return replace(settings, space=space)


def check_data(cfg: Any) -> None:
    """Check that the data of the config exist, and the weights that it starts from.

    Raises:
        ConfigError: A path does not exist; the message names its key.
    """
    for key, path in data_paths(cfg).items():
        check_exists(key, path)
    for key, path in local_starts(cfg).items():
        check_checkpoint(path, key)


def check_can_be_written(cfg: Config) -> None:
    """Check that a config can be written for a trial, and reads back as it is.

    Raises:
        ConfigError: It cannot; the message names the keys, such as the key of a lambda.
    """
    plain = {k: _ADDRESS.sub('', repr(v)) for k, v in flatten(cfg.to_dict())}
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, 'config.py')
            file.write_text(Config(cfg.to_dict(), format_python_code=False).pretty_text, encoding='utf-8')
            # Without its imports: a driver has no torch.
            again = Config.fromfile(file, import_custom_modules=False).to_dict()
    except Exception as err:  # whatever the text of a config raises when it is run
        odd = [key for key, value in flatten(cfg.to_dict()) if not _is_plain(value)]
        raise ConfigError(
            f'{", ".join(odd) or "the config"}: cannot be written into the config of a trial and read back '
            f'({type(err).__name__}: {err}); use numbers, strings, lists and dicts, and names of registered classes'
        ) from err
    read = {k: _ADDRESS.sub('', repr(v)) for k, v in flatten(again)}
    if differing := sorted(k for k in {*plain, *read} if plain.get(k) != read.get(k)):
        raise ConfigError(
            f'{", ".join(differing[:5])}: differs when it is read back from the config of a trial; use numbers, '
            'strings, lists and dicts, and names of registered classes'
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # a name in the text, which the text does not import
    return value is None or isinstance(value, (bool, int, str, list, tuple, dict))


def missing_data(cfg: Any) -> list[str]:
    """List the config keys of data, and of weights to start from, that are not on this machine."""
    paths = {**data_paths(cfg), **local_starts(cfg)}
    return [key for key, path in paths.items() if not os.path.exists(os.path.expanduser(path))]


def describe_data(cfg: Any, *, but: Path | None = None) -> dict[str, str]:
    """Describe shortly what the data sets of a config read, to notice a change.

    A ``data_root`` is described only where the data set names nothing inside it: other files there decide nothing.

    Args:
        cfg (Config): A resolved config.
        but (Path, optional): A folder to leave out, the search's own work dir.

    Raises:
        ConfigError: A file or folder cannot be read; the message names its key.
    """
    paths = data_paths(cfg)
    roots = {key: key.removesuffix('data_root') for key in paths if key.endswith('.data_root')}
    unread = {root for root, prefix in roots.items() if any(k.startswith(prefix) for k in {*paths} - {root})}
    return {key: _describe(key, path, but) for key, path in paths.items() if key not in unread}


def _describe(key: str, path: str, but: Path | None) -> str:
    if not os.path.exists(path):
        return 'not here'
    try:
        if os.path.isfile(path):
            return f'file of {os.path.getsize(path)} bytes, content {_digest_of_file(path)}'
        names = [name for _, name in zip(range(_LISTING_LIMIT), _listing(path, but), strict=False)]
    except OSError as err:
        raise ConfigError(
            f'{key}: cannot read {err.filename!r} ({err.strerror}); a training reads it as well: make it readable, or '
            'take it out of the data'
        ) from err
    # A name that is not UTF-8 is escaped, as Python escapes it where it lists the folder.
    digest = hashlib.sha256('\n'.join(names).encode(errors='surrogateescape')).hexdigest()[:12]
    more = ' or more' if len(names) == _LISTING_LIMIT else ''
    return f'folder of {len(names)}{more} entries, listing {digest}'


def _digest_of_file(path: str) -> str:
    # By content: an annotation file with one box moved is as long as before. A second for COCO's.
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _listing(path: str, but: Path | None, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield names and sizes below a folder in a fixed order; names starting with a dot are left out.

    A link to a folder above itself is named and not followed.
    """
    above |= {os.path.realpath(path)}
    folders = []
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.name.startswith('.') or (but is not None and os.path.abspath(entry.path) == str(but)):
            continue
        if entry.is_dir():
            if but is None or not but.is_relative_to(os.path.abspath(entry.path)):  # else it came with the search
                yield entry.path
            if os.path.realpath(entry.path) not in above:
                folders.append(entry.path)
        else:
            yield f'{entry.path} {entry.stat(follow_symlinks=False).st_size}'
    for folder in folders:
        yield from _listing(folder, but, above)

"""One search: its config, settings, data and work dir, checked before anything runs.

Its identity is everything that decides its results; a work dir belongs to one identity.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmfixnorm.config import load_config
from mmfixnorm.data_checks.paths import check_exists, data_paths
from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import flatten, get_key
from mmfixnorm.search.methods import method_of, parse_settings
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.planner import planned_stages
from mmfixnorm.search.settings import SearchSettings
from mmfixnorm.search.trial.schedule import scale_schedule, shortened_length, training_length

#: Parts of a config that say where and how a training runs, not what it computes.
_EXECUTION = frozenset({'search', 'work_dir', 'resume', 'launcher', 'log_level'})
_EXECUTION_LEAVES = frozenset({'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor'})
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')  # of a function in a config: it differs in each run
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
        return [(name, n, n * self.cost(fraction)) for name, n, fraction in planned_stages(self.settings)]

    def config_with(self, point: Point) -> Config:
        """Return the resolved config with the values of a point at the keys that are tuned."""
        cfg = copy.deepcopy(self.cfg)
        cfg.merge_from_dict(self.tuned(point))
        return cfg

    def tuned(self, point: Point) -> dict[str, float]:
        """Return the dotted keys that are tuned, with their values."""
        keys = self.settings.tuned_keys
        return {key: value for name, value in point.values.items() for key in keys.get(name, ())}

    def trial_config(self, spec: Spec) -> Config:
        """Return the config that a trial trains: values, schedule, seed and work dir set."""
        cfg = scale_schedule(self.config_with(spec.point), spec.fraction)
        seed = self.settings.seed if spec.seed is None else spec.seed
        if seed is not None:
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
        cfg.work_dir = str(self.trial_dir(spec.key) / 'run')
        cfg.launcher = 'none'
        cfg.resume = False  # the trial decides, by what it finds in its work dir
        cfg.pop('search', None)
        _confine_checkpoints(cfg, keep_all=self.settings.keep_weights == 'all')
        return cfg

    def trial_task(self, spec: Spec, *, attempt: int, fingerprint: str) -> dict[str, Any]:
        """Return the content of ``spec.json`` for an attempt at a trial."""
        return {
            **spec.to_dict(),
            'attempt': attempt,
            'fingerprint': fingerprint,
            'metric': self.settings.metric,
            'rule': self.settings.rule,
            'select': self.settings.select,
            'alpha_keys': list(self.settings.alpha_keys) if spec.point.alpha is not None else [],
        }

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the results of this search, as flat plain data."""
        tuned = {key for keys in self.settings.tuned_keys.values() for key in keys}
        config = {
            f'config.{key}': value
            for key, value in flatten(self.cfg.to_dict())
            if key.split('.')[0] not in _EXECUTION
            and key.rsplit('.', 1)[-1] not in _EXECUTION_LEAVES
            and key not in tuned
        }
        settings = {f'search.{key}': value for key, value in self.settings.identity().items()}
        data = {f'data at {key}': value for key, value in describe_data(self.cfg).items()}
        everything = sorted({**settings, **config, **data}.items())
        return {k: _ADDRESS.sub('', repr(v)) for k, v in everything}


def load_problem(
    filename: str | os.PathLike[str],
    *,
    work_dir: str | os.PathLike[str] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> SearchProblem:
    """Read a config with a ``search`` block and check everything that can be checked before a trial runs.

    Args:
        filename: The config.
        work_dir: Default ``work_dirs/<config stem>_search``.
        cfg_options: Dotted keys to change, e.g. ``{'search.num_splits': 3}``.
        workers: Trials at a time, instead of ``search.workers``.

    Raises:
        ConfigError: Settings, keys, schedule, metric or data are not usable.
    """
    cfg = load_config(filename, cfg_options=cfg_options, import_custom_modules=False)
    settings = parse_settings(cfg.get('search'))
    if workers is not None:
        if workers < 1:
            raise ConfigError(f'--workers: must be an integer >= 1, got {workers}')
        settings = replace(settings, workers=workers)
    _check_keys(cfg, settings)
    if check := method_of(settings).check:
        check(settings)
    for fraction in settings.fractions:
        scale_schedule(cfg, fraction)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        if cfg.get(key) is None:
            raise ConfigError(f'{key}: a search needs validation to compare trials, got None')
    check_data(cfg)
    stem = Path(filename).stem
    folder = Path(work_dir) if work_dir else Path('work_dirs') / f'{stem}_search'
    return SearchProblem(
        filename=os.fspath(filename),
        cfg=cfg,
        cfg_options=dict(cfg_options or {}),
        settings=settings,
        work_dir=folder.absolute(),
    )


def _confine_checkpoints(cfg: Config, *, keep_all: bool) -> None:
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if hook is None:
        return
    hook.pop('out_dir', None)  # one folder for all trials: they would overwrite each other's
    if not keep_all:
        kept = hook.get('max_keep_ckpts', 2)
        hook.max_keep_ckpts = max(kept, 2) if kept > 0 else 2  # a kill may tear the newest one


def _check_keys(cfg: Config, settings: SearchSettings) -> None:
    named = [(f'search.{name}_key', key) for name, keys in settings.tuned_keys.items() for key in keys]
    plain = cfg.to_dict()
    for setting, key in named:
        value = get_key(plain, key, named_by=setting)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f'{setting}: {key!r} must be a number in the config, got {value!r}')


def check_data(cfg: Any) -> None:
    """Check that every data path of the config exists.

    Raises:
        ConfigError: A path does not exist; the message names its key.
    """
    for key, path in data_paths(cfg).items():
        check_exists(key, path)


def describe_data(cfg: Any) -> dict[str, str]:
    """Return a short description of what is at each data path, to notice a change."""
    return {key: _describe(path) for key, path in data_paths(cfg).items()}


def _describe(path: str) -> str:
    if os.path.isfile(path):
        return f'file of {os.path.getsize(path)} bytes, content {_digest_of_file(path)}'
    names = [name for _, name in zip(range(_LISTING_LIMIT), _listing(path), strict=False)]
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12]
    more = ' or more' if len(names) == _LISTING_LIMIT else ''
    return f'folder of {len(names)}{more} entries, listing {digest}'


def _digest_of_file(path: str) -> str:
    # By content: an annotation file with one box moved is as long as before. A second for COCO's.
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _listing(path: str) -> Iterator[str]:
    """Yield names and sizes below a folder in a fixed order; names starting with a dot are left out."""
    folders = []
    for entry in sorted(os.scandir(path), key=lambda e: e.name):
        if entry.name.startswith('.'):
            continue
        if entry.is_dir():
            yield entry.path
            folders.append(entry.path)
        else:
            yield f'{entry.path} {entry.stat(follow_symlinks=False).st_size}'
    for folder in folders:
        yield from _listing(folder)

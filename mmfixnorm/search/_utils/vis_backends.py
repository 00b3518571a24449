"""What a trial's visualizer is told of its trial, so that the tables of other programs show the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfixnorm.type_names import type_name


def name_trial(cfg: Mapping[str, Any], work_dir: Path, trial: Mapping[str, Any]) -> None:
    """Name a trial to the MLflow and W&B backends of its config, in place; what the config sets itself stays.

    Args:
        cfg (Config): The config of the trial.
        work_dir (Path): Of the search. Where the config names no ``tracking_uri``, MLflow's runs are in ``mlruns``
            there, those of all trials together.
        trial (Mapping): ``search``, ``trial``, ``stage``, and the numbers that are tuned.
    """
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or ():
        kind = type_name(backend.get('type', ''))
        if kind == 'MLflowVisBackend':
            texts = {name: str(value) for name, value in trial.items()}
            backend.setdefault('exp_name', trial['search'])
            backend.setdefault('run_name', trial['trial'])
            backend.setdefault('tracking_uri', f'file://{work_dir / "mlruns"}')
            backend['tags'] = {**texts, **(backend.get('tags') or {})}
            backend['params'] = {**trial, **(backend.get('params') or {})}
        elif kind == 'WandbVisBackend':
            options = dict(backend.get('init_kwargs') or {})
            options.setdefault('group', trial['search'])
            options.setdefault('name', trial['trial'])
            options['config'] = {**trial, **(options.get('config') or {})}
            options['tags'] = [*(options.get('tags') or ()), trial['search'], trial['stage']]
            backend['init_kwargs'] = options

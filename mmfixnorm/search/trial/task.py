"""What a trial is asked to do: ``config.py`` and ``spec.json`` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

from mmengine.config import Config

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import write_json, write_text
from mmfixnorm.search.methods.base import Spec
from mmfixnorm.search.methods.values import describe, values_of
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.trial.folder import CONFIG_FILE, SPEC_FILE


def write_task(problem: SearchProblem, spec: Spec, *, attempt: int, fingerprint: str) -> None:
    """Write what the next attempt at a trial reads, into the trial's folder."""
    settings, trial_dir = problem.settings, problem.trial_dir(spec.key)
    trial_dir.mkdir(parents=True, exist_ok=True)
    # Not formatted by yapf: that takes longer than all else that a trial asks of its driver.
    config = Config(problem.trial_config(spec).to_dict(), format_python_code=False)
    write_text(trial_dir / CONFIG_FILE, config.pretty_text)
    task = {
        **asdict(spec),
        'attempt': attempt,
        'fingerprint': fingerprint,
        'metric': settings.metric,
        'rule': settings.rule,
        'select': settings.select,
        'alpha_keys': list(settings.alpha_keys) if spec.alpha is not None else [],
    }
    write_json(trial_dir / SPEC_FILE, task)


def check_folder(trial_dir: Path, spec: Spec, fingerprint: str) -> None:
    """Check that what is in a trial's folder was trained at the values of ``spec``.

    It can be otherwise if the record of a search was lost whose points are proposed from results:
    made again with other versions of the libraries, the points are others.

    Raises:
        ConfigError: It was trained at other values, or cannot be told; nothing is changed.
    """
    path = trial_dir / SPEC_FILE
    if not path.exists():
        return
    try:
        task = json.loads(path.read_text(encoding='utf-8'))
        owner, found = task['fingerprint'], Spec(**{f.name: task[f.name] for f in fields(Spec) if f.name in task})
    except (ValueError, TypeError, KeyError) as err:
        raise ConfigError(
            f'{path}: not a valid spec ({err}); nothing was changed; delete that file, and the trial goes on '
            'from its last checkpoint'
        ) from err
    if owner != fingerprint:
        return  # of another search: its result will be refused
    if values_of(found) != values_of(spec):
        raise ConfigError(
            f'{path}: was trained with {describe(found)}, expected {describe(spec)}; nothing was changed; '
            'move the folder away to train this point again, or put back the record that belongs to it'
        )

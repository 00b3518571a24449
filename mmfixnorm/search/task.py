"""What a trial was asked to do: ``spec.json`` in its folder."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.result import SPEC_FILE
from mmfixnorm.search.stages import Spec
from mmfixnorm.search.values import describe, values_of


def check_folder(trial_dir: Path, spec: Spec, fingerprint: str) -> None:
    """Check that what is in a trial's folder was trained at the values of ``spec``.

    It can be otherwise if the record of a search was lost whose points are proposed from results:
    made again with other versions of the libraries, the points are others.

    Raises:
        ConfigError: It was trained at other values; nothing is changed.
    """
    path = trial_dir / SPEC_FILE
    if not path.exists():
        return
    task = json.loads(path.read_text(encoding='utf-8'))
    if task['fingerprint'] != fingerprint:
        return  # of another search: its result will be refused
    found = Spec(**{f.name: task[f.name] for f in fields(Spec) if f.name in task})
    if values_of(found) != values_of(spec):
        raise ConfigError(
            f'{path}: was trained with {describe(found)}, expected {describe(spec)}; nothing was changed; '
            'move the folder away to train this point again, or put back the record that belongs to it'
        )

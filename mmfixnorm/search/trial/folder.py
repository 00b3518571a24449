"""What a trial hands back: ``result.json`` in its folder, and the spec it was given."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import write_json

RESULT_FILE = 'result.json'
SPEC_FILE = 'spec.json'
CONFIG_FILE = 'config.py'
LOG_FILE = 'log.txt'

#: done: has a value. diverged: trained, but to nothing; a result, ranked below all values.
#: failed: its process ended otherwise; worth another attempt. broken: the config is wrong, so
#: every trial would end like this. cancelled: ended by the driver.
OUTCOMES = ('done', 'diverged', 'failed', 'broken', 'cancelled')


@dataclass(frozen=True)
class TrialResult:
    """The end of one attempt at one trial.

    Attributes:
        key: The trial.
        attempt: Which attempt, from 1.
        fingerprint: The search that the trial belongs to.
        outcome: One of :data:`OUTCOMES`.
        value: The metric; None unless ``outcome`` is ``'done'``.
        message: Why it ended like this, for every outcome but ``'done'``.
        built_lrs: Learning rates that the built optimizer's groups start from.
        built_alphas: Alphas of the built model's layers, in the order of ``search.alpha_key``.
        built_weight_decays: Weight decays of the built optimizer's groups that are trained.
        curve: ``[step, value]`` of each validation; a value that is not finite is None.
        length: Epochs or iterations trained.
        seconds: Wall-clock time of the attempt.
    """

    key: str
    attempt: int
    fingerprint: str
    outcome: str
    value: float | None = None
    message: str = ''
    built_lrs: list[float] = field(default_factory=list)
    built_alphas: list[float] = field(default_factory=list)
    built_weight_decays: list[float] = field(default_factory=list)
    curve: list[list[Any]] = field(default_factory=list)
    length: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f'outcome must be one of {OUTCOMES}, got {self.outcome!r}')
        finite = isinstance(self.value, (int, float)) and math.isfinite(self.value)
        if (self.outcome == 'done') != finite:
            raise ValueError(f'outcome {self.outcome!r} does not go with value {self.value!r}')
        if not (isinstance(self.key, str) and isinstance(self.fingerprint, str)):
            raise ValueError(f'key and fingerprint must be strings, got {self.key!r}')
        if not isinstance(self.attempt, int):
            raise ValueError(f'attempt must be an integer, got {self.attempt!r}')

    def write(self, trial_dir: Path) -> None:
        """Write ``result.json``, atomically."""
        write_json(trial_dir / RESULT_FILE, asdict(self))


def read_result(trial_dir: Path, *, key: str, attempt: int, fingerprint: str) -> TrialResult | None:
    """Read the result of this attempt; None if there is none, or one of an earlier attempt.

    Raises:
        ConfigError: The file is corrupt or belongs to something else; it is left as it is.
    """
    path = trial_dir / RESULT_FILE
    advice = (
        'nothing was changed; move that file away and give the same command again, '
        'and the trial goes on from its last checkpoint'
    )
    try:
        result = TrialResult(**json.loads(path.read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as err:
        raise ConfigError(f'{path}: not a valid result ({err}); {advice}') from err
    if (result.key, result.fingerprint) != (key, fingerprint):
        raise ConfigError(
            f'{path}: is the result of trial {result.key!r} of search {result.fingerprint!r}, '
            f'expected {key!r} of {fingerprint!r}; {advice}, or use another --work-dir'
        )
    return result if result.attempt == attempt else None

"""Check in another process whether the imports of a config work and its model can be built.

The driver of a search builds nothing, so it imports no toolbox; its trials do. The process
is started as a trial is, so it finds modules where a trial finds them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmfixnorm.config import PARTS
from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import explain_missing


def check_custom_imports(cfg: Any) -> None:
    """Check that a trial will be able to import what its config names, and to build the model of a toolbox.

    Raises:
        ConfigError: An import fails, or the model cannot be built; the message says what is missing.
    """
    imports = cfg.get('custom_imports')
    if not imports:
        return
    builds = cfg.get('default_scope') in PARTS and cfg.get('model')
    text = Config(cfg.to_dict(), format_python_code=False).pretty_text if builds else ''
    command = [sys.executable, '-m', 'mmfixnorm.search.trial.imports', json.dumps(imports)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise ConfigError(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        raise ConfigError(f'custom_imports: importing {imports["imports"]} failed:\n{done.stderr.strip()}')


def build_model_of(text: str) -> None:
    """Build the model of a config that is given as text."""
    from mmfixnorm.launch import build_model  # late: a check of imports alone needs no torch

    # What the driver has in memory, so nothing is read again: the imports are done.
    build_model(Config.fromstring(text, '.py'))


def main() -> int:
    """Import what the one argument names and build the model of the config on stdin; print why it cannot be done."""
    text = sys.stdin.read()
    try:
        import_modules_from_strings(**json.loads(sys.argv[1]))
        if text:
            build_model_of(text)
    except ImportError as err:
        told = explain_missing(err, 'custom_imports') or f'custom_imports: {err.__context__ or err}'
    except ConfigError as err:
        told = f'model: {err}'
    else:
        return 0
    sys.stdout.write(f'{" ".join(told.split())}\n')
    return 2


if __name__ == '__main__':
    sys.exit(main())

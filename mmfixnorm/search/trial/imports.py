"""Check in another process whether the ``custom_imports`` of a config can be imported.

The driver of a search builds nothing, so it does not import toolboxes; its trials do. The process
is started as a trial is, so it finds modules where a trial finds them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from mmengine.utils import import_modules_from_strings

from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import explain_missing


def check_custom_imports(cfg: Any) -> None:
    """Check that a trial will be able to import what its config names.

    Raises:
        ConfigError: An import fails; the message says what is missing.
    """
    imports = cfg.get('custom_imports')
    if not imports:
        return
    command = [sys.executable, '-m', 'mmfixnorm.search.trial.imports', json.dumps(imports)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise ConfigError(done.stdout.strip().splitlines()[-1])
    if done.returncode:
        raise ConfigError(f'custom_imports: importing {imports["imports"]} failed:\n{done.stderr.strip()}')


def main() -> int:
    """Import what the one argument names; print why it cannot be done."""
    try:
        import_modules_from_strings(**json.loads(sys.argv[1]))
    except ImportError as err:
        sys.stdout.write(f'{explain_missing(err, "custom_imports") or f"custom_imports: {err.__context__ or err}"}\n')
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())

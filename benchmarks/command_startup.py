"""Wall time in which the command ``mmfixnorm`` starts, beside Python alone and beside ``import torch``.

    python benchmarks/command_startup.py --runs 5

Prints one JSON line for each command line: the median in seconds, and its ratios to ``python -c pass`` and to
``python -c "import torch"``. A first run, which leaves bytecode, is not counted. The command lines take turns, so that
a disturbance hits all of them; on a busy machine compare the ratios. ``search status`` reads the record of a search
that was begun and has no trial yet.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CONFIG = Path(__file__).parents[1] / 'tests/tiny/search.py'
COMMAND = ['-m', 'mmfixnorm']
EMPTY, TORCH = ('-c', 'pass'), ('-c', 'import torch')


def command_lines(config: str) -> list[tuple[str, ...]]:
    """Return the arguments of Python for each of them."""
    return [
        EMPTY,
        TORCH,
        ('-c', 'import mmengine.config'),  # what every command that reads a config has to pay
        (*COMMAND, '--version'),
        (*COMMAND, '--help'),
        (*COMMAND, 'train', '--help'),
        (*COMMAND, 'search', '--help'),
        (*COMMAND, 'search', 'status', config),
        (*COMMAND, 'search', 'plan', config),
        (*COMMAND, 'analyze', 'search-progress', '--help'),
    ]


def seconds(arguments: Sequence[str], cwd: str, *, status: int = 0) -> float:
    """Run Python once; return its wall time."""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - begin
    if done.returncode != status:
        raise RuntimeError(f'{arguments} ended with {done.returncode}, not {status}: {done.stderr}')
    return wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(CONFIG, Path(folder, 'config.py'))
        # Hands out the first trials and ends at once: a record, and nothing trained.
        seconds([*COMMAND, 'search', 'run', 'config.py', '--executor', 'manual'], folder, status=3)
        walls: dict[tuple[str, ...], list[float]] = {line: [] for line in command_lines('config.py')}
        for _ in range(1 + args.runs):
            for line, runs in walls.items():
                runs.append(seconds(line, folder))
    medians = {line: statistics.median(runs[1:]) for line, runs in walls.items()}
    for line, median in medians.items():
        ratios = {'of_pass': round(median / medians[EMPTY], 2), 'of_torch': round(median / medians[TORCH], 3)}
        print(json.dumps({'command': ' '.join(('python', *line)), 'seconds': round(median, 3), **ratios}), flush=True)


if __name__ == '__main__':
    main()

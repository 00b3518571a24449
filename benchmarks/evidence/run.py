"""Run the experiments behind docs/evidence.md.

    python benchmarks/evidence/run.py table1-residual fig4 --workers 2
    python benchmarks/evidence/report.py

Each name is a table or a figure; without one all are run, in the order in which they build on each other. What
is in ``results`` is not run again, and an interrupted command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.lab import run_experiments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help=f'of {", ".join(EXPERIMENTS)}')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/evidence'))
    args = parser.parse_args()
    if unknown := set(args.names) - set(EXPERIMENTS):
        parser.error(f'no such experiment: {", ".join(sorted(unknown))}; there are {", ".join(EXPERIMENTS)}')
    run_experiments(EXPERIMENTS, args.names or list(EXPERIMENTS), args.workers, args.work_dir.absolute())


if __name__ == '__main__':
    main()

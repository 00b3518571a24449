"""docs/clusters.md shows the job that a trial of the ImageNet config is, word for word."""

import re
import shlex
from pathlib import Path

from mmfixnorm.search.executors import base, slurm_script
from mmfixnorm.search.executors.slurm import SlurmQueue
from mmfixnorm.search.problem import load_problem

ROOT = Path(__file__).parents[3]
CONFIG = 'configs/imagenet/resnet50-d_fixnorm_16xb64-120e_imagenet.py'
SHARED = '/shared/fixnorm'


def job_of_a_trial(monkeypatch):
    """The command and the script that the executor of the config gives to sbatch."""
    monkeypatch.chdir(ROOT)
    for module in (base, slurm_script):
        monkeypatch.setattr(module.sys, 'executable', 'python')
    monkeypatch.setattr(SlurmQueue, 'cluster', 'mycluster')
    problem = load_problem(CONFIG, needs_data=False)
    monkeypatch.setattr('os.getcwd', lambda: SHARED)
    settings = problem.settings.executor_settings
    command = ('python', '-m', 'mmfixnorm.search.trial')
    executor = settings.build(workers=1, command=command, timeout_s=None)
    trial_dir = Path(SHARED, 'work_dirs', f'{Path(CONFIG).stem}_search', 'trials', 'r0-k0')
    handle = str(trial_dir / 'attempt-1.claim')
    return f"sbatch {shlex.join(executor._options(trial_dir, handle))} <<'EOF'\n{executor._script(handle)}EOF\n"


def test_the_page_has_the_job_of_a_trial_on_two_nodes(monkeypatch):
    page = (ROOT / 'docs' / 'clusters.md').read_text()
    (shown,) = re.findall(r'<!-- begin job -->\n```text\n(.*?)```\n<!-- end job -->', page, re.DOTALL)
    assert shown == job_of_a_trial(monkeypatch)

"""The driver of a search builds nothing, so it does without torch and the toolboxes."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors import local
from mmfixnorm.search.trial.imports import check_custom_imports

ROOT = Path(__file__).parents[2]
LIMIT_MB = 200

A_SEARCH = r"""
import re, runpy, sys
main = runpy.run_path(sys.argv[1])['main']
status = main(['run', *sys.argv[4:]], trial_command=[sys.executable, '-S', sys.argv[2], sys.argv[3]])
heavy = {'torch', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg'} & {*sys.modules}
print(status, sorted(heavy))
# Not ru_maxrss: that counts what the process was before its exec, a copy of this one.
print(int(re.search(r'VmHWM:\s*(\d+) kB', open('/proc/self/status').read())[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_a_search_runs_to_its_report_without_torch(write_config, small, tmp_path):
    config = write_config(small, extra="custom_imports = dict(imports=['mmfixnorm'])\n")
    tool, fake = ROOT / 'tools' / 'fixnorm_search.py', Path(__file__).with_name('fake_trial.py')
    command = [sys.executable, '-c', A_SEARCH, tool, fake, 'plain', config, '--work-dir', tmp_path / 'w']
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    *_, ended, memory = done.stdout.splitlines()
    assert ended == '0 []'
    assert int(memory) < LIMIT_MB
    assert (tmp_path / 'w' / 'report.html').exists()


REGISTERED = "from mmengine.registry import MODELS; print(bool(MODELS.get('FixNormLinear')), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ('module', 'printed'),
    [
        ('mmfixnorm', 'False False'),
        ('mmfixnorm.engine', 'True True'),
        ('mmfixnorm.cls', 'True True'),
    ],
)
def test_importing_the_package_registers_nothing_and_its_engine_does(module, printed):
    code = f'import sys, {module}; {REGISTERED}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == printed


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        ('no_such_module', "custom_imports: No module named 'no_such_module'"),
        ('needs_mmdet', r"mmdet is not installed: pip install 'mmfixnorm\[onedl\]'"),
        ('has_a_bug', r"custom_imports: importing \['has_a_bug'\] failed:\n(.*\n)*ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_before_anything_runs(tmp_path, monkeypatch, module, message):
    (tmp_path / 'needs_mmdet.py').write_text("raise ModuleNotFoundError('No module', name='mmdet')\n")
    (tmp_path / 'has_a_bug.py').write_text('1 / 0\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        check_custom_imports({'custom_imports': {'imports': [module], 'allow_failed_imports': False}})


@pytest.mark.parametrize(
    ('count', 'listed', 'gpus'),
    [(0, None, []), (2, None, ['0', '1']), (2, '5,7', ['5', '7']), (1, '3,9', ['3'])],
)
def test_gpus_are_named_as_cuda_visible_devices_names_them(monkeypatch, count, listed, gpus):
    monkeypatch.setattr(local, '_count_gpus', lambda: count)
    if listed is None:
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    else:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', listed)
    assert local.visible_gpus() == gpus


def test_torch_is_asked_for_the_gpus_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(local, '_GPU_DEVICES', ('/dev/null',))  # as if there were a GPU's device file
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert local.visible_gpus() == []
    monkeypatch.setattr(sys, 'executable', 'false')
    with pytest.raises(ConfigError, match='torch cannot count the GPUs'):
        local.visible_gpus()

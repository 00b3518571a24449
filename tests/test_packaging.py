"""The wheel: what it carries, and that it works in an environment of its own."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from mmfixnorm import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_mmcv_has_its_ops() -> None:
    # Detection and segmentation need them; an mmcv without them installs just as silently.
    import mmcv.ops  # noqa: F401


def test_every_entry_of_the_model_index_leads_to_a_config() -> None:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    for metafile in index['Import']:
        models = yaml.safe_load((ROOT / metafile).read_text())['Models']
        missing = [model['Config'] for model in models if not (ROOT / model['Config']).is_file()]
        assert models
        assert not missing


def test_pinned_versions_satisfy_what_the_package_asks_for() -> None:
    from packaging.requirements import Requirement

    def read(name: str) -> list[Requirement]:
        lines = (ROOT / 'requirements' / name).read_text().splitlines()
        return [Requirement(line) for line in lines if line and not line.startswith('#')]

    pins = {pin.name: str(pin.specifier).removeprefix('==') for pin in read('constraints.txt')}
    wanted = [r for name in ('runtime', 'cls', 'onedl', 'data') for r in read(f'{name}.txt')]
    assert not [str(r) for r in wanted if not r.specifier.contains(pins[r.name])]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as ``python -m build`` does it."""
    out = tmp_path_factory.mktemp('dist')
    # Without isolation nothing is downloaded. From a copy, so that no build/ is left behind.
    source = tmp_path_factory.mktemp('source') / 'mmfixnorm'
    files = subprocess.check_output(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, text=True
    )
    for name in filter(None, files.split('\0')):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(list(out.glob('*.tar.gz'))) == 1
    (found,) = out.glob('*.whl')
    return found


@pytest.mark.slow
def test_the_wheel_carries_the_package_with_configs_tools_and_index(wheel: Path) -> None:
    assert wheel.name == f'mmfixnorm-{__version__}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {'mmfixnorm/py.typed', 'mmfixnorm/.mim/model-index.yml'}
    for folder, prefix in (('mmfixnorm', ''), ('configs', 'mmfixnorm/.mim/')):
        expected |= {
            prefix + str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob('*.py') if '.mim' not in path.parts
        }
    expected |= {f'mmfixnorm/.mim/tools/{name}' for name in ('train.py', 'dist_train.sh')}
    assert not expected - names
    assert not [name for name in names if name.startswith(('tests', 'configs', 'tools'))]


@pytest.mark.slow
def test_the_wheel_installs_and_its_configs_are_found(wheel: Path, tmp_path: Path) -> None:
    # Everything but mmfixnorm itself comes from the present environment.
    venv.create(tmp_path / 'env', with_pip=True)
    python = str(tmp_path / 'env/bin/python')
    subprocess.run([python, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', str(wheel)], check=True)
    (tmp_path / 'own.py').write_text(
        "_base_ = 'mmfixnorm::digits/resnet8_fixnorm_1xb64-20e_digits.py'\ntrain_cfg = dict(max_epochs=3)\n"
    )
    code = """
import sys; sys.path.append(sys.argv[1])  # after the installed wheel
import mmfixnorm
from mmengine.utils import get_installed_path
from mmfixnorm.launch import load_config
cfg = load_config('own.py')
print(mmfixnorm.__file__, get_installed_path('mmfixnorm'), cfg.train_cfg.max_epochs, sep='\\n')
"""
    done = subprocess.run(
        [python, '-I', '-c', code, sysconfig.get_path('purelib')],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    file, installed, epochs = done.stdout.split('\n')[-4:-1]
    assert Path(file).is_relative_to(tmp_path)
    assert Path(installed).is_relative_to(tmp_path)
    assert epochs == '3'

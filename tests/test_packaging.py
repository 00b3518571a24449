"""The wheel: what it carries, and that it works in an environment of its own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from mmfixnorm import __version__
from mmfixnorm.cli import COMMANDS
from mmfixnorm.cli.analyze import COMMANDS as FIGURES

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
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, so that what is built leaves nothing behind here."""
    source = tmp_path_factory.mktemp('source') / 'mmfixnorm'
    files = subprocess.check_output(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, text=True
    )
    for name in filter(None, files.split('\0')):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope='module')
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel built from it as ``python -m build`` does it."""
    out = tmp_path_factory.mktemp('dist')
    # Without isolation nothing is downloaded.
    subprocess.run(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(out), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert len(list(out.glob('*.tar.gz'))) == len(list(out.glob('*.whl'))) == 1
    return out


@pytest.fixture(scope='module')
def wheel(dist: Path) -> Path:
    (found,) = dist.glob('*.whl')
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


class Installed:
    """An environment with this package alone, or with the packages of the present one behind it."""

    def __init__(self, folder: Path, *what: object, alone: bool = False, cwd: Path | None = None) -> None:
        self.folder = folder
        self.python = str(folder / 'bin/python')
        venv.create(folder, with_pip=False)
        (packages,) = folder.glob('lib/python*/site-packages')
        if not alone:
            (packages / 'present.pth').write_text(sysconfig.get_path('purelib') + '\n')
        # Without isolation and index nothing is downloaded.
        options = ['--no-deps', '--no-index', '--no-build-isolation', '-q']
        pip = [sys.executable, '-m', 'pip', '--python', self.python, 'install', *options]
        done = subprocess.run([*pip, *map(str, what)], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.pip, self.warnings = pip, done.stderr

    def run(self, *command: object, cwd: Path, status: int = 0) -> str:
        """Run a program of the environment, by its name in ``bin``; return what it printed."""
        program, *arguments = map(str, command)
        env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        path = f'{self.folder / "bin"}{os.pathsep}{env["PATH"]}'
        done = subprocess.run(
            [str(self.folder / 'bin' / program), *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**env, 'PATH': path},
            timeout=300,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope='module')
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp('alone'), wheel, alone=True)


@pytest.fixture(scope='module')
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp('installed'), wheel)


@pytest.mark.slow
def test_the_wheel_installs_and_its_configs_are_found(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(
        "_base_ = 'mmfixnorm::digits/resnet8_fixnorm_1xb64-20e_digits.py'\ntrain_cfg = dict(max_epochs=3)\n"
    )
    code = """
import mmfixnorm
from mmengine.utils import get_installed_path
from mmfixnorm.cli.analyze.model_complexity import find_metafile
from mmfixnorm.launch import load_config
cfg = load_config('own.py')
print(mmfixnorm.__file__, get_installed_path('mmfixnorm'), find_metafile(), cfg.train_cfg.max_epochs, sep='\\n')
"""
    *_, file, root, metafile, epochs = installed.run('python', '-I', '-c', code, cwd=tmp_path).splitlines()
    assert all(Path(path).is_relative_to(installed.folder) for path in (file, root, metafile))
    assert epochs == '3'


@pytest.mark.slow
def test_the_command_of_the_wheel_reads_command_lines_without_any_other_package(
    alone: Installed, tmp_path: Path
) -> None:
    assert alone.run('mmfixnorm', '--version', cwd=tmp_path) == f'mmfixnorm {__version__}\n'
    for words in [*((name,) for name in COMMANDS), *(('analyze', name) for name in FIGURES)]:
        shown = alone.run('mmfixnorm', *words, '--help', cwd=tmp_path)
        assert shown.startswith(f'usage: mmfixnorm {" ".join(words)} [-h]')
    for script in sorted((alone.folder).glob('lib/python*/site-packages/mmfixnorm/.mim/tools/**/*.py')):
        if script.parent.name != 'dataset_converters':
            assert alone.run('python', script, '--help', cwd=tmp_path).startswith(f'usage: {script.name} [-h]')


INSTALL = re.search(r'^## Install\n.*?```shell\n(.*?)```', (ROOT / 'README.md').read_text(), re.MULTILINE | re.DOTALL)
LINES = [shlex.split(line, comments=True) for line in INSTALL[1].splitlines()] if INSTALL else []


@pytest.fixture(scope='module')
def clone(source: Path, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit, and the built archive in its folder."""
    clone = shutil.copytree(
        source, tmp_path_factory.mktemp('clone') / 'mmfixnorm', ignore=shutil.ignore_patterns('.mim')
    )
    git = ['git', '-c', 'user.name=test', '-c', 'user.email=test@localhost']
    for words in (['init', '-q'], ['add', '-A'], ['commit', '-q', '-m', 'all']):
        subprocess.run([*git, *words], cwd=clone, check=True)
    (archive,) = dist.glob('*.tar.gz')
    shutil.copy(archive, clone)
    return clone


@pytest.mark.slow
@pytest.mark.parametrize('line', LINES, ids=lambda line: line[-1])
def test_each_line_of_the_readme_installs_the_command(line: list[str], clone: Path, tmp_path: Path) -> None:
    program, action, target = line
    assert (program, action) == ('pip', 'install')
    # Of packages only names are checked here: nothing is downloaded.
    environment = Installed(tmp_path / 'env', target.replace('ADDRESS', f'file://localhost{clone}'), cwd=clone)
    assert 'does not provide the extra' not in environment.warnings
    assert environment.run('mmfixnorm', '--version', cwd=tmp_path) == f'mmfixnorm {__version__}\n'
    where = environment.run('python', '-I', '-c', 'import mmfixnorm; print(mmfixnorm.__file__)', cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.folder)


def test_no_page_installs_the_package_from_an_index_first() -> None:
    # The package is on none. Once it is installed, `mmfixnorm[extra]` brings more.
    assert len(LINES) == 3
    begun = (ROOT / 'docs/get_started.md').read_text()
    targets = [line[-1] for line in LINES] + re.findall(r'^pip install .*"(\S*\[\S*)"', begun, re.MULTILINE)
    assert len(targets) == 5
    assert all(re.match(r'\.|mmfixnorm\[onedl\] @ ', target) for target in targets)
    assert f'./mmfixnorm-{__version__}.tar.gz[onedl]' in targets


@pytest.mark.slow
def test_extras_of_an_installed_package_need_no_index_for_it(alone: Installed) -> None:
    done = subprocess.run([*alone.pip, 'mmfixnorm[analysis]'], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.fixture
def search_folder(tmp_path: Path) -> Path:
    shutil.copyfile(ROOT / 'tests/tiny/search.py', tmp_path / 'config.py')
    return tmp_path


PLANNED, BEGUN = 'in all: 15 trainings, 11 T_max', 'no stage has finished yet'


@pytest.mark.slow
def test_the_command_of_the_wheel_plans_and_begins_a_search(installed: Installed, search_folder: Path) -> None:
    search = ['mmfixnorm', 'search']
    assert PLANNED in installed.run(*search, 'plan', 'config.py', cwd=search_folder)
    manual = ['run', 'config.py', '--executor', 'manual']
    commands = installed.run(*search, *manual, cwd=search_folder, status=3)
    trial = search_folder / 'work_dirs/config_search/trials/r0-k0'
    assert f'{installed.python} -m mmfixnorm.search.trial {trial}\n' in commands
    assert BEGUN in installed.run(*search, 'status', 'config.py', cwd=search_folder)
    (tools,) = installed.folder.glob('lib/python*/site-packages/mmfixnorm/.mim/tools')
    assert BEGUN in installed.run('python', tools / 'fixnorm_search.py', 'status', 'config.py', cwd=search_folder)


@pytest.mark.slow
def test_mim_runs_the_scripts_of_an_editable_install(
    source: Path, search_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Of a wheel onedl-mim 0.5.1 takes the first file, by name, for the package; that is none of its modules.
    editable = Installed(tmp_path_factory.mktemp('editable'), '-e', source)
    mim = ['python', '-m', 'mim', 'run', 'mmfixnorm']
    shown = editable.run(*mim, 'fixnorm_search', 'plan', 'config.py', cwd=search_folder)
    assert f'Use the script {source}/tools/fixnorm_search.py' in shown
    assert PLANNED in shown
    assert PLANNED in editable.run('mmfixnorm', 'search', 'plan', 'config.py', cwd=search_folder)
    linked = source / 'mmfixnorm/.mim/tools/fixnorm_search.py'
    assert linked.samefile(source / 'tools/fixnorm_search.py')
    assert PLANNED in editable.run('python', linked, 'plan', 'config.py', cwd=search_folder)


def test_the_hooks_of_pre_commit_have_the_pinned_versions() -> None:
    pins = set((ROOT / 'requirements/constraints.txt').read_text().splitlines())
    (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    used = {package for hook in repository['hooks'] for package in hook['additional_dependencies']}
    assert {package.partition('=')[0] for package in used} >= {'ruff', 'mypy'}
    assert used <= pins


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    makefile = (ROOT / 'Makefile').read_text()
    (targets,) = [line.split()[1:] for line in makefile.splitlines() if line.startswith('.PHONY:')]
    shown = subprocess.run(['make', '-s'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=2) for line in shown.splitlines()]
    assert [(first, target) for first, target, _ in lines] == [('make', target) for target in targets]


def test_the_forms_for_issues_are_complete_and_ask_for_commands_that_exist() -> None:
    forms = [file for file in (ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml') if file.name != 'config.yml']
    assert len(forms) == 3
    for file in forms:
        form = yaml.safe_load(file.read_text())
        assert form['name']
        assert form['description']
        assert any(part.get('validations', {}).get('required') for part in form['body'])
        assert len({part['id'] for part in form['body']}) == len(form['body'])
        for command in re.findall(r'`mmfixnorm ([a-z]+)', file.read_text()):
            assert command in COMMANDS

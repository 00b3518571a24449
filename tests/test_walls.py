"""The walls between the parts of the package, held by reading their imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'mmfixnorm'
MM = {'mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg'}
HEADS = {'mmfixnorm.cls', 'mmfixnorm.det', 'mmfixnorm.seg'}
PEERS = {'mmfixnorm.peers'}  # a config asks for them; nothing else does
COMMAND = {'mmfixnorm.cli'}  # may import everything; nothing imports it
# part -> what none of its files may import, not even inside a function
WALLS = {
    'core': MM | HEADS | PEERS | {'mmfixnorm.engine', 'mmfixnorm.search', 'mmfixnorm.launch'},
    'engine': MM - {'mmengine'} | HEADS | PEERS | {'mmfixnorm.search'},
    'peers': MM - {'mmengine'} | HEADS | {'mmfixnorm.search', 'mmfixnorm.launch'},
    'cls': PEERS | {'mmdet', 'mmseg', 'mmfixnorm.det', 'mmfixnorm.seg', 'mmfixnorm.search'},
    'det': PEERS | {'mmpretrain', 'mmseg', 'mmfixnorm.cls', 'mmfixnorm.seg', 'mmfixnorm.search'},
    'seg': PEERS | {'mmpretrain', 'mmdet', 'mmfixnorm.cls', 'mmfixnorm.det', 'mmfixnorm.search'},
    'search': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'analysis')},
    'analysis': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'launch')},
    'data_checks': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'search', 'launch')},
    'config.py': MM - {'mmengine'} | HEADS | {'torch', 'mmfixnorm.core', 'mmfixnorm.engine', 'mmfixnorm.search'},
    'config_audit.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.search'},
    'convert': MM - {'mmengine'} | HEADS | PEERS,
    'swap_block.py': MM - {'mmengine'} | HEADS | {'torch'} | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'search')},
    'launch.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.core', 'mmfixnorm.search'},
    'fold.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.search'},
    '__init__.py': MM | HEADS | PEERS | {'mmfixnorm.search', 'optuna', 'plotly'},
    'errors.py': MM | HEADS | PEERS | {'torch', 'mmfixnorm.core', 'mmfixnorm.engine', 'mmfixnorm.search'},
}


def imported_modules(source: str, package: str) -> set[str]:
    """Full names of all modules that a source file imports; ``package`` is the one it is in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split('.')[: len(package.split('.')) - node.level + 1]
            base = '.'.join([*(parents if node.level else []), *filter(None, [node.module])])
            names |= {base} | {f'{base}.{alias.name}' for alias in node.names}
    return names


def crossings(source: str, package: str, forbidden: set[str]) -> set[str]:
    return {
        name
        for name in imported_modules(source, package)
        if any(name == wall or name.startswith(f'{wall}.') for wall in forbidden)
    }


@pytest.mark.parametrize('part', WALLS)
def test_no_part_reaches_over_its_walls(part: str) -> None:
    root = PACKAGE / part
    files = [root] if root.suffix else sorted(root.rglob('*.py'))
    found = {}
    for file in files:
        package = '.'.join(file.parent.relative_to(PACKAGE.parent).parts)
        if crossed := crossings(file.read_text(), package, WALLS[part] | COMMAND):
            found[file.name] = crossed
    assert not found


def test_every_part_but_the_command_has_walls() -> None:
    parts = {path.name for path in PACKAGE.iterdir() if path.suffix == '.py' or (path / '__init__.py').is_file()}
    assert parts - WALLS.keys() == {'cli', '__main__.py', 'version.py'}


@pytest.mark.parametrize(
    'source',
    [
        'import mmengine.model',
        'from mmengine import Config',
        'def f():\n    import mmengine',
        'from .. import engine',
        'from ..engine.hooks import FixNormHook',
        'from mmfixnorm import engine',
    ],
)
def test_every_kind_of_import_is_seen(source: str) -> None:
    assert crossings(source, 'mmfixnorm.core', {'mmengine', 'mmfixnorm.engine'})


@pytest.mark.parametrize('source', ['from .layers import WNLinear', 'import mmenginex'])
def test_an_import_on_this_side_of_the_wall_is_let_through(source: str) -> None:
    assert not crossings(source, 'mmfixnorm.core', WALLS['core'])


BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_without(modules: set[str], code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python in which some modules are not installed."""
    script = BLOCK.format(blocked=modules) + code
    return subprocess.run(
        [sys.executable, '-c', script, *argv],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=120,
    )


@pytest.mark.slow
def test_the_engine_imports_with_torch_and_mmengine_alone() -> None:
    others = MM - {'mmengine'} | {'optuna', 'plotly', 'sklearn'}
    done = run_without(others, 'import mmfixnorm.engine')
    assert done.returncode == 0, done.stderr


def test_the_package_itself_needs_nothing() -> None:
    done = run_without(MM | {'torch', 'numpy', 'rich', 'optuna'}, 'import mmfixnorm; print(mmfixnorm.__version__)')
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_core_needs_torch_alone() -> None:
    done = run_without(MM | {'optuna', 'plotly', 'numpy'}, 'import mmfixnorm.core')
    assert done.returncode == 0, done.stderr


TOOLBOXES = {  # what to install, the part of this package, a config
    'mmpretrain': ('onedl-mmpretrain', 'mmfixnorm.cls', 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'),
    'mmdet': ('onedl-mmdetection', 'mmfixnorm.det', 'tests/tiny/detection.py'),
    'mmseg': ('onedl-mmsegmentation', 'mmfixnorm.seg', 'tests/tiny/segmentation.py'),
}
EACH_CONFIG = """
import sys
from mmengine.registry import MODELS, init_default_scope
from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import load_config
for config in sys.argv[1:]:
    try:
        cfg = load_config(config)
    except ConfigError as err:
        print('refused:', err)
        continue
    init_default_scope(cfg.default_scope)
    print('built:', type(MODELS.build(cfg.model)).__module__)
"""


@pytest.mark.slow
@pytest.mark.parametrize('missing', TOOLBOXES)
def test_without_one_toolbox_the_others_work_and_the_message_says_what_to_install(missing: str) -> None:
    fork, part, _ = TOOLBOXES[missing]
    configs = [config for _, _, config in TOOLBOXES.values()]
    done = run_without({missing}, EACH_CONFIG + f'import {part}', *configs)
    lines = [line for line in done.stdout.splitlines() if line.startswith(('built:', 'refused:'))]
    for name, line in zip(TOOLBOXES, lines, strict=True):
        if name == missing:
            assert line.startswith(f"refused: {missing} is not installed: pip install 'mmfixnorm[onedl]' (or {fork},")
        else:
            assert line.startswith(f'built: {name}.models.')
    # In a script of one's own: the import itself says it.
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f'ImportError: {part} needs {missing}: pip install "mmfixnorm[onedl]" ({fork})')

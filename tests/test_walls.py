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
# The parts that only scripts of tools/ are made of, and those that need mmengine.
TOOLS = {f'mmfixnorm.{part}' for part in ('analysis', 'convert', 'fold', 'plot')}
ON_MMENGINE = {f'mmfixnorm.{part}' for part in ('config', 'data_checks', 'engine', 'failures', 'launch', 'type_names')}
COMMAND = {'mmfixnorm.cli'}  # may import everything; nothing imports it
# part -> what none of its files may import, not even inside a function
WALLS = {
    'core': MM | HEADS | PEERS | TOOLS | ON_MMENGINE | {'mmfixnorm.search'},
    'engine': MM - {'mmengine'} | HEADS | PEERS | TOOLS | {'mmfixnorm.search', 'mmfixnorm.launch'},
    'peers': MM - {'mmengine'} | HEADS | TOOLS | {'mmfixnorm.search', 'mmfixnorm.launch'},
    'cls': PEERS | {'mmdet', 'mmseg', 'mmfixnorm.det', 'mmfixnorm.seg', 'mmfixnorm.search'},
    'det': PEERS | {'mmpretrain', 'mmseg', 'mmfixnorm.cls', 'mmfixnorm.seg', 'mmfixnorm.search'},
    'seg': PEERS | {'mmpretrain', 'mmdet', 'mmfixnorm.cls', 'mmfixnorm.det', 'mmfixnorm.search'},
    'search': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'analysis')},
    'analysis': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'launch')},
    'data_checks': MM - {'mmengine'} | HEADS | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'search', 'launch')},
    'config.py': MM - {'mmengine'} | HEADS | {'torch', 'mmfixnorm.core', 'mmfixnorm.engine', 'mmfixnorm.search'},
    'failures.py': MM - {'mmengine'} | HEADS | {'torch'} | {f'mmfixnorm.{p}' for p in ('config', 'core', 'search')},
    'type_names.py': MM - {'mmengine'} | HEADS | {'torch'} | {f'mmfixnorm.{p}' for p in ('config', 'core', 'engine')},
    'convert': MM - {'mmengine'} | HEADS | PEERS,
    'convert/audit.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.search'},
    'plot': MM | HEADS | {'torch'} | {f'mmfixnorm.{p}' for p in ('core', 'engine', 'search', 'analysis', 'launch')},
    'launch.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.core', 'mmfixnorm.search'},
    'lr_range.py': MM - {'mmengine'} | HEADS | {'mmfixnorm.core', 'mmfixnorm.search'},
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


# part of search -> which other parts of search it may import, lowest first; nothing imports a part below itself in here
SEARCH = {
    '_utils': set(),
    'events.py': set(),
    'trial': {'_utils'},
    'executors': {'_utils', 'trial.folder'},
    'settings.py': {'_utils', 'executors'},
    'methods': {'_utils', 'settings'},
    'budget.py': {'methods', 'settings'},
    'planner.py': {'budget', 'methods', 'settings'},
    'problem.py': {'_utils', 'methods', 'planner', 'settings', 'trial.schedule'},
    'record': {'_utils', 'executors.claim', 'methods', 'planner', 'problem', 'settings', 'trial.folder', 'trial.forks'},
    'driver.py': {'_utils', 'events', 'executors', 'methods', 'planner', 'problem', 'record', 'trial.folder'},
    'report': {'_utils', 'methods', 'problem', 'record', 'settings', 'trial.folder', 'trial.schedule'},
    'terminal': {
        '_utils',
        'events',
        'executors',
        'methods',
        'planner',
        'problem',
        'record',
        'settings',
        'trial.folder',
    }
    | {'trial.schedule'},
}


def runtime_imports(source: str, package: str) -> set[str]:
    """Modules that a file imports when it runs: without those under ``if TYPE_CHECKING``."""
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == 'TYPE_CHECKING')]
    return imported_modules(ast.unparse(tree), package)


def upward_imports(part: str, source: str, package: str = 'mmfixnorm.search') -> set[str]:
    """Imports of parts of search that this one may not know."""
    own = part.removesuffix('.py')
    modules = {
        m.removeprefix('mmfixnorm.search.') for m in runtime_imports(source, package) if 'mmfixnorm.search.' in m
    }
    return {m for m in modules if not any(f'{m}.'.startswith(f'{known}.') for known in SEARCH[part] | {own})}


@pytest.mark.parametrize('part', SEARCH)
def test_the_parts_of_search_import_downwards_only(part: str) -> None:
    root = PACKAGE / 'search' / part
    for file in [root] if root.suffix else sorted(root.rglob('*.py')):
        package = '.'.join(file.parent.relative_to(PACKAGE.parent).parts)
        assert not upward_imports(part, file.read_text(), package), file


def test_every_part_of_search_has_its_row_and_may_import_lower_rows_only() -> None:
    parts = {p.name for p in (PACKAGE / 'search').iterdir() if p.name not in ('__init__.py', '__pycache__')}
    assert parts == set(SEARCH)
    order = [part.removesuffix('.py') for part in SEARCH]
    for row, (part, known) in enumerate(SEARCH.items()):
        assert {k.partition('.')[0] for k in known} <= set(order[:row]), part


@pytest.mark.parametrize(
    ('part', 'source'),
    [
        ('executors', 'from mmfixnorm.search.methods.base import Spec'),
        ('executors', 'def f():\n    from mmfixnorm.search import planner'),
        ('methods', 'from mmfixnorm.search.record.study import Attempt'),
        ('record', 'import mmfixnorm.search.report'),
        ('trial', 'from mmfixnorm.search.executors.claim import Claim'),
        ('report', 'from mmfixnorm.search.terminal.console import print_state'),
    ],
)
def test_an_upward_import_is_seen(part: str, source: str) -> None:
    assert upward_imports(part, source)


def test_the_package_of_a_trial_is_empty() -> None:
    assert (PACKAGE / 'search/trial/__init__.py').read_text() == ''


def test_no_folder_has_more_than_twelve_files() -> None:
    folders = {p for p in PACKAGE.rglob('*') if p.is_dir() and not {'__pycache__', '.mim'} & set(p.parts)}
    counts = {str(f.relative_to(PACKAGE)): len(list(f.glob('*.py'))) for f in folders}
    assert not {folder: count for folder, count in counts.items() if count > 12}


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

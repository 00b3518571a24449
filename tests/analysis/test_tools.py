"""``mmfixnorm analyze`` on real trainings and searches, end to end."""

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path

import pytest
import torch

from mmfixnorm.analysis.runs import read_run
from mmfixnorm.cli import build_parser, main
from tests.pages import figures_of

ROOT = Path(__file__).parents[2]
TOY = ROOT / 'tests/tools/toy.py'
WD = f"""
_base_ = ['{TOY}']
optim_wrapper = dict(_delete_=True, optimizer=dict(type='SGD', lr=0.2, weight_decay=0.4))
custom_hooks = [dict(type='WeightNormLoggerHook', interval=1, fc=False)]
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
train_cfg = dict(max_epochs=6)
"""


def html_traces(path: Path) -> list[dict]:
    """The data of the figure in a page, which must need no network."""
    (figure,) = figures_of(path.read_text())
    return figure['data']


def trace(path: Path, name: str) -> dict:
    (found,) = [t for t in html_traces(path) if t.get('name') == name and t.get('showlegend') is not False]
    return found


@pytest.fixture
def train(tmp_path: Path, monkeypatch, forget_runs) -> Callable[[Sequence[str]], None]:
    """Run ``mmfixnorm train`` in the temporary folder, with the toy task importable."""
    monkeypatch.syspath_prepend(str(TOY.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')

    def run(*argv: object) -> None:
        forget_runs()
        assert main(['train', *map(str, argv)]) == 0

    return run


@pytest.fixture
def toy_wd(tmp_path: Path) -> Path:
    """The toy task under weight decay, strong enough to shrink the norm, as a config."""
    path = tmp_path / 'toy_wd.py'
    path.write_text(WD)
    return path


def test_weight_norm_draws_what_the_weights_really_have(train, toy_wd, tool, tmp_path):
    train(toy_wd, '--work-dir', 'wd')
    status, out, err = tool('weight_norm', 'wd', '--out', 'figures/fig1_left.png')
    assert (status, err) == (0, '')
    assert (tmp_path / 'figures/fig1_left.png').read_bytes().startswith(b'\x89PNG')
    drawn = trace(tmp_path / 'figures/fig1_left.html', 'wd')
    assert drawn['x'] == [i / 4 for i in range(1, 25)]
    norms = dict(zip(drawn['x'], drawn['y']))
    for epoch in (1, 6):
        weights = torch.load(tmp_path / f'wd/epoch_{epoch}.pth', weights_only=False)['state_dict']
        assert norms[epoch] == pytest.approx(weights['conv.weight'].double().norm().item(), rel=1e-6)
    assert f'{drawn["y"][0]:.4g} -> ' in out
    assert out.endswith('figure: figures/fig1_left.png\nfigure: figures/fig1_left.html\n')


def test_a_resumed_run_is_drawn_as_an_uninterrupted_one(train, toy_wd, tool, tmp_path):
    train(toy_wd, '--work-dir', 'whole')
    train(toy_wd, '--work-dir', 'resumed', '--cfg-options', 'train_cfg.max_epochs=4')
    train(toy_wd, '--work-dir', 'resumed', '--resume', 'resumed/epoch_2.pth')
    assert read_run('resumed').series('train', 'weight_norm') == read_run('whole').series('train', 'weight_norm')
    status, _, err = tool('accuracy', 'whole', 'resumed', '--metric', 'hit_rate', '--out', 'fig')
    assert (status, err) == (0, '')
    whole, resumed = (trace(tmp_path / 'fig.html', name) for name in ('whole', 'resumed'))
    assert whole['x'] == [1, 2, 3, 4, 5, 6]
    assert (resumed['x'], resumed['y']) == (whole['x'], whole['y'])


@pytest.fixture
def digits_runs(train, tmp_path) -> dict[str, dict]:
    """Three trainings of mmpretrain on digits, two epochs each; work dir -> last checkpoint."""
    digits = runpy.run_path(str(ROOT / 'tools/dataset_converters/digits.py'))['main']
    assert digits(['--out', str(tmp_path / 'data/digits')]) == 0
    short = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=2']
    for name, method, seed in (('alg1', 'alg1', 0), ('fixnorm', 'fixnorm', 0), ('fixnorm-1', 'fixnorm', 1)):
        config = ROOT / f'configs/digits/resnet8_{method}_1xb64-20e_digits.py'
        train(config, '--work-dir', name, '--cfg-options', *short, f'randomness.seed={seed}')
    names = ('alg1', 'fixnorm', 'fixnorm-1')
    return {n: torch.load(tmp_path / n / 'epoch_2.pth', weights_only=False)['state_dict'] for n in names}


@pytest.mark.slow
def test_classifier_scale_and_accuracy_draw_two_methods_and_two_seeds(digits_runs, tool, tmp_path):
    labels = ['--labels', 'Algo 1', '@FixNorm-FC', '@FixNorm-FC']
    status, out, err = tool('classifier_scale', *digits_runs, *labels, '--out', 'fig2_right')
    assert (status, err) == (0, '')
    page = tmp_path / 'fig2_right.html'
    seeds = [digits_runs[name]['head.fc.g'].item() for name in ('fixnorm', 'fixnorm-1')]
    plain = digits_runs['alg1']['head.fc.weight'].double().norm().item()
    assert trace(page, 'Algo 1')['y'][-1] == pytest.approx(plain, rel=1e-6)
    assert trace(page, '@FixNorm-FC')['y'][-1] == pytest.approx(sum(seeds) / 2, rel=1e-6)
    assert trace(page, '@FixNorm-FC: bound of g')['y'] == pytest.approx([10**0.5] * 2)
    band = [t['y'][-1] for t in html_traces(page) if t.get('hoverinfo') == 'skip'][:2]
    assert sorted(band) == pytest.approx(sorted(seeds), rel=1e-6)
    risks = [t['y'] for t in html_traces(page) if t.get('yaxis') == 'y2' and t.get('name')]
    assert len(risks) == 2
    assert all(-1 <= value <= 1 for risk in risks for value in risk)
    assert f'Algo 1: ‖W_FC‖ or g {plain:.4g}; MCBR (val) ' in out

    status, _, err = tool('accuracy', *digits_runs, *labels, '--band', 'std', '--out', 'fig2_left.png')
    assert (status, err) == (0, '')
    text = next((tmp_path / 'alg1').glob('*/*.log')).read_text()
    printed = [float(value) for value in re.findall(r'Epoch\(val\).*accuracy/top1: ([\d.]+)', text)]
    assert trace(tmp_path / 'fig2_left.html', 'Algo 1')['y'] == pytest.approx(printed, abs=1e-4)
    assert (tmp_path / 'fig2_left.png').exists()


def test_lr_alpha_grid_draws_a_grid(fake_search, tool, tmp_path):
    grid = fake_search("type='GridSearch', lrs=[0.4, 1.0, 1.6], alphas=[0.5, 1.0, 2.0]", name='grid')
    status, out, err = tool('lr_alpha_grid', grid, '--out', 'fig4')
    assert (status, err) == (0, '')
    assert 'alpha 0.5: best lr 1 (' in out
    assert "Tukey's test of non-additivity (one value a cell): F(1, 3) = " in out
    (table,) = [t for t in html_traces(tmp_path / 'fig4.html') if t['type'] == 'heatmap']
    assert (table['x'], table['y'][0]) == (['lr = 0.4', 'lr = 1', 'lr = 1.6'], 'α = 0.5')
    assert table['z'][2][1] == pytest.approx(90 - 10 * log(1 / 1.1) ** 2 - log(2 / 4) ** 2, abs=1e-6)
    assert 'Tukey&#x27;s test of non-additivity' in (tmp_path / 'fig4.html').read_text()
    assert (tmp_path / 'fig4.png').exists()


def test_search_progress_draws_several_searches(fake_search, tool, tmp_path):
    searches = [
        fake_search('lr_range=(0.2, 3.2)', name='search'),
        fake_search("type='GridSearch', lrs=[1.0]", name='g'),
    ]
    status, out, err = tool('search_progress', *searches, '--labels', 'FixNorm', 'WD', '--out', 'fig5')
    assert (status, err) == (0, '')
    assert 'FixNorm: best accuracy/top1 90, ' in out
    page = tmp_path / 'fig5.html'
    assert (trace(page, 'FixNorm')['x'][-1], trace(page, 'FixNorm')['y'][-1]) == (11.0, 90.0)
    assert trace(page, 'round 0')['x'] == [0.8, 1.4, 2.0, 2.6, 3.2]
    assert trace(page, 'best after searching alpha')['y'] == [90.0]
    assert (tmp_path / 'fig5.png').exists()


@pytest.mark.slow
def test_a_search_with_real_trainings_is_drawn(monkeypatch, tool, tmp_path):
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests/search'))
    monkeypatch.syspath_prepend(str(ROOT / 'tests/search'))
    config = ROOT / 'tests/search/toy_config.py'
    assert main(['search', 'run', str(config), '--work-dir', 'grid', '--workers', '2']) == 0
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / 'grid/trials').glob('*/result.json'))]
    for name in ('lr_alpha_grid', 'search_progress'):
        status, _, err = tool(name, 'grid', '--out', name)
        assert (status, err) == (0, '')
    (table,) = [t for t in html_traces(tmp_path / 'lr_alpha_grid.html') if t['type'] == 'heatmap']
    assert table['z'] == [[result['value'] for result in results]]
    assert trace(tmp_path / 'search_progress.html', 'grid')['y'][-1] == max(result['value'] for result in results)


@pytest.mark.parametrize(
    ('name', 'argv', 'message'),
    [
        ('weight_norm', ['no/such/run'], 'no/such/run: no log of a training here'),
        ('accuracy', ['.', '.', '--labels', 'a', 'a'], 'is given twice'),
        ('classifier_scale', ['a', 'b', '--labels', 'x'], '--labels: must be one for each of the 2 work dirs, got 1'),
        ('lr_alpha_grid', ['.'], 'no record of a search here'),
        ('search_progress', ['.'], 'no record of a search here'),
    ],
)
def test_a_mistake_ends_with_status_2_and_one_line(tool, name, argv, message):
    status, out, err = tool(name, *argv)
    assert (status, out) == (2, '')
    assert message in err
    assert err.count('\n') == 1


@pytest.mark.parametrize(
    'name', ['weight_norm', 'accuracy', 'classifier_scale', 'lr_alpha_grid', 'search_progress'], ids=str
)
def test_each_command_says_what_it_draws(tool, capsys, name):
    with pytest.raises(SystemExit, match='0'):
        tool(name, '--help')
    assert 'Fig. ' in capsys.readouterr().out


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match=r'pip install "mmfixnorm\[analysis\]"'):
        runpy.run_path(str(ROOT / 'mmfixnorm/analysis/__init__.py'))


def test_the_commands_of_the_documentation_are_understood():
    text = (ROOT / 'docs/figures.md').read_text().replace('\\\n', ' ')
    # By the script in tools/analysis, or by the command: mmfixnorm analyze.
    found = re.findall(r'^(?:python tools/analysis/|mmfixnorm analyze )(\S+)(.*)', text, re.MULTILINE)
    commands = [[name.removesuffix('.py').replace('_', '-'), *shlex.split(rest)] for name, rest in found]
    images = re.findall(r'\]\(images/figures/(\w+)\.png\)', text)
    parsed = [build_parser().parse_args(['analyze', *command]) for command in commands]
    assert [Path(args.out).name for args in parsed] == images
    assert len(images) == 6

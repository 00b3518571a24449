"""The learning rate of a child from the checkpoint of its base: the numbers, what they are taken from, and refusals."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmfixnorm.config import load_config
from mmfixnorm.convert import convert
from mmfixnorm.convert.angle import schedule_for_lr
from mmfixnorm.convert.audit import prepared_model
from mmfixnorm.convert.lr_from import LearningRate, _pretrained
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings

WD = Path(__file__).parents[2] / 'configs/digits/resnet8_wd_1xb64-20e_digits.py'  # lr 0.1, SGD
STACKED = """
model = dict(head=dict(_delete_=True, type='StackedLinearClsHead', num_classes=10, in_channels=32, mid_channels=[8],
             loss=dict(type='CrossEntropyLoss')))
"""


def norm(state, names):
    return math.sqrt(sum(state[name].double().square().sum().item() for name in names))


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """Writes a plain config and a checkpoint of it, whose weights are scaled by factors of their own."""
    monkeypatch.chdir(tmp_path)

    def write(text='', factor=0.5):
        Path('plain.py').write_text(f'_base_ = [{str(WD)!r}]\n{text}')
        torch.manual_seed(11)
        state = prepared_model(load_config('plain.py')).state_dict()
        state = {k: v * factor * (1 + torch.rand(())) if v.ndim > 1 else v for k, v in state.items()}
        torch.save(dict(state_dict=state, meta={}), 'trained.pth')
        return state

    return write


def convert_from(*args, out='new.py', **kwargs):
    return convert('plain.py', out, size=16, lr_from='trained.pth', **kwargs)


@pytest.mark.parametrize('text', ['', STACKED], ids=['by its key', 'replaced'])
def test_lr_is_the_base_s_times_the_square_of_the_norms(plain, text):
    state = plain(text)
    done = convert_from()
    child = load_config('new.py')
    torch.manual_seed(0)
    start = prepared_model(child).state_dict()  # of another seed: joint norms of fresh weights hardly differ
    expected = 0.1 * (norm(start, done.in_set) / norm(state, done.in_set)) ** 2
    assert child.optim_wrapper.optimizer.lr == pytest.approx(expected, rel=0.05)
    assert child.optim_wrapper.optimizer.weight_decay == 0.0
    numbers = re.search(r'# lr: 0.1 \* \(([\d.]+) / ([\d.]+)\)\^2 = ([\d.]+)\.', done.text)
    start_norm, final_norm, lr = map(float, numbers.groups())
    assert final_norm == pytest.approx(norm(state, done.in_set), rel=1e-3)
    assert lr == child.optim_wrapper.optimizer.lr == pytest.approx(0.1 * (start_norm / final_norm) ** 2, rel=5e-3)
    text = ' '.join(done.text.replace('\n# ', ' ').split())
    assert f'the {len(done.in_set)} weights of the set start with the norm' in text
    assert 'initialised with seed 0' in text
    assert 'in trained.pth they have' in text


def test_without_it_and_with_it_nothing_but_lr_differs(plain):
    plain()
    convert('plain.py', 'without.py', size=16)
    convert_from()
    without, new = (Config.fromfile(path).to_dict() for path in ('without.py', 'new.py'))
    lrs = [cfg['optim_wrapper']['optimizer'].pop('lr') for cfg in (without, new)]
    assert lrs[0] == 0.1 != lrs[1]
    assert without == new


def test_the_same_seed_gives_the_same_lr_whatever_was_drawn_before(plain):
    plain()
    lrs = []
    for i in range(2):
        torch.manual_seed(100 + i)
        before = torch.get_rng_state()
        convert_from(out=f'{i}.py')
        assert torch.equal(torch.get_rng_state(), before)
        lrs.append(load_config(f'{i}.py').optim_wrapper.optimizer.lr)
    assert lrs[0] == lrs[1]


LOADS = {
    'load_from': "load_from = 'start.pth'\n",
    'model': "model = dict(init_cfg=dict(type='Pretrained', checkpoint='start.pth'))\n",
}


@pytest.mark.parametrize('text', LOADS.values(), ids=LOADS)
def test_the_norm_at_the_start_is_that_of_the_loaded_weights(plain, text):
    state = plain(text)
    torch.save(dict(state_dict={k: v * 3 if v.ndim > 1 else v for k, v in state.items()}, meta={}), 'start.pth')
    done = convert_from(lr_range=(0.1, 2.0))
    assert load_config('new.py').optim_wrapper.optimizer.lr == 0.9  # three times the norm
    assert 'loaded from start.pth' in ' '.join(done.text.replace('\n# ', ' ').split())
    assert done.notes == ()


def test_a_backbone_alone_may_be_loaded(plain):
    state = plain(
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='start.pth', prefix='backbone.')))"
    )
    torch.save(dict(state_dict=state, meta={}), 'start.pth')
    done = convert_from()
    head = done.in_set.index('head.fc.weight')
    backbone = norm(state, [*done.in_set[:head], *done.in_set[head + 1 :]])
    start, final = math.hypot(backbone, 0.01 * math.sqrt(320)), norm(state, done.in_set)  # Normal of 0.01, 10 x 32
    assert load_config('new.py').optim_wrapper.optimizer.lr == pytest.approx(0.1 * (start / final) ** 2, rel=0.01)


def test_an_lr_outside_the_range_of_the_search_is_said(plain):
    plain(factor=0.05)
    done = convert_from()
    assert re.match(r'lr [\d.]+ is outside search.lr_range \(0.05, 0.8\), .*--lr-range', done.notes[0])
    assert parse_settings(load_config('new.py').search).lr_range == (0.05, 0.8)


def test_averaged_weights_do_not_count(plain):
    state = plain()
    average = {k: v * 0.5 if v.ndim > 1 else v for k, v in state.items()}
    ema = {f'module.{k}': v for k, v in state.items()} | {'steps': torch.tensor(4)}
    convert_from(out='plain_weights.py')
    torch.save(dict(state_dict=average, ema_state_dict=ema), 'trained.pth')
    convert_from(out='averaged.py')
    lrs = [load_config(path).optim_wrapper.optimizer.lr for path in ('plain_weights.py', 'averaged.py')]
    assert lrs[0] == lrs[1]


@pytest.mark.parametrize(
    'scheduler, changed',
    [
        (dict(type='CosineAnnealingLR', T_max=20, eta_min=0.01), dict(eta_min=0.03)),
        (dict(type='PolyLR', power=0.9, eta_min=1e-4), dict(eta_min=3e-4)),
        (dict(type='OneCycleLR', eta_max=0.1, total_steps=9), dict(eta_max=0.3)),
        (dict(type='ReduceOnPlateauLR', monitor='loss', min_value=0.01), dict(min_value=0.03)),
        (dict(type='CosineAnnealingLR', T_max=20, eta_min_ratio=0.01), None),
        (dict(type='MultiStepLR', milestones=[3]), None),
        (dict(type='CosineAnnealingMomentum', T_max=20, eta_min=0.85), None),
    ],
)
def test_what_a_schedule_has_in_units_of_lr_keeps_its_proportion(scheduler, changed):
    cfg = Config(
        dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)), param_scheduler=[copy.deepcopy(scheduler)])
    )
    assert schedule_for_lr(cfg, 0.3) == (None if changed is None else [{**scheduler, **changed}])
    assert cfg.param_scheduler[0].to_dict() == scheduler


def test_the_schedule_of_the_child_is_scaled_with_its_comment(plain):
    state = plain(
        "param_scheduler = [dict(type='CosineAnnealingLR', T_max=20, eta_min=0.01)]\nload_from = 'start.pth'\n"
    )
    torch.save(dict(state_dict={k: v * 2 if v.ndim > 1 else v for k, v in state.items()}, meta={}), 'start.pth')
    done = convert_from()
    assert load_config('new.py').param_scheduler == [dict(type='CosineAnnealingLR', T_max=20, eta_min=0.04)]
    assert (
        '# As in the base config, with what was in units of its learning rate in the same proportion to lr.'
        in done.text
    )
    assert load_config('new.py').search.linked_keys == ['param_scheduler.0.eta_min']


def test_three_digits_are_kept():
    rate = LearningRate(base=0.1, start_norm=2.0, final_norm=3.0, start='', checkpoint='', num_weights=1)
    assert rate.lr == 0.0444


def spoiled(change):
    state = torch.load('trained.pth', weights_only=False)
    change(state)
    torch.save(state, 'trained.pth')


ADAM = "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001))\n"


@pytest.mark.parametrize(
    'text, change, kwargs, message',
    [
        (ADAM, None, {}, "--lr-from: lr / .* is the effective learning rate of SGD alone, .*type is 'AdamW'"),
        ('', None, dict(update='angle'), '--lr-from: with --update angle the learning rate is the angle itself'),
        ('', lambda s: s['state_dict'].pop('head.fc.weight'), {}, 'lacks 1 of the 10 weights .*: .head.fc.weight.;'),
        (
            '',
            lambda s: s['state_dict'].update({'head.fc.weight': torch.ones(7, 32)}),
            {},
            r'head.fc.weight has the shape \(7, 32\) there and \(10, 32\) in the model',
        ),
        ('', lambda s: s.update(optimizer=dict(fix_norm={})), {}, 'was written by a run with norm fixing'),
        ('', lambda s: s.update(fix_norm={}), {}, 'was written by a run with norm fixing'),
        (
            '',
            lambda s: s['state_dict']['head.fc.weight'].fill_(math.nan),
            {},
            '--lr-from trained.pth: the weights of the set must have a finite norm > 0, got nan',
        ),
        ('', lambda _: Path('trained.pth').write_text('no'), {}, None),
        ("load_from = 'gone.pth'\n", None, {}, r'--lr-from: .*W_0.* is the norm .*\(gone.pth\): .*put the file there'),
        ("load_from = 'plain.py'\n", None, {}, r'--lr-from: .*W_0.* load_from plain.py: not a checkpoint \(\w+: '),
        (
            "param_scheduler = [dict(type='Own', begin=0)]\n",
            None,
            {},
            r"param_scheduler\[0\].type: 'Own' is unknown to --lr-from",
        ),
    ],
)  # fmt: skip
def test_what_has_no_such_lr_is_refused_and_nothing_is_written(plain, text, change, kwargs, message):
    plain(text)
    if change and message:
        spoiled(change)
    elif change:
        change(None)
        message = '--lr-from: trained.pth: not a checkpoint'
    with pytest.raises(ConfigError, match=message):
        convert_from(**kwargs)
    assert sorted(path.name for path in Path().iterdir()) == ['plain.py', 'trained.pth']


def test_a_file_that_is_not_there_is_named(plain):
    plain()
    with pytest.raises(ConfigError, match="--lr-from: no such checkpoint: 'other.pth'"):
        convert('plain.py', 'new.py', size=16, lr_from='other.pth')


def test_weights_that_a_backbone_of_timm_finds_itself_are_no_initialisation():
    backbone = dict(type='TIMMBackbone', model_name='resnet18', pretrained=True)
    assert _pretrained(dict(backbone=backbone)) == ['the weights of resnet18']
    assert _pretrained(dict(backbone=dict(backbone, pretrained=False))) == []

"""mmfixnorm convert on stock configs of the three toolboxes, as their packages install them."""

import json
import math
import runpy
from pathlib import Path

import pytest

from mmfixnorm.cli.convert import main
from mmfixnorm.convert.audit import prepared_model
from mmfixnorm.core import FixNormConv2d, FixNormLinear
from mmfixnorm.launch import load_config
from mmfixnorm.search._utils.keys import get_key
from mmfixnorm.search.methods import parse_settings

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs/digits'
# The cheap ones of those that benchmarks/convert_stock.py converts and trains; a detector of this project's own is
# converted in tests/convert, and trained in tests/configs.
CHEAP = [
    'mmpretrain/resnet/resnet18_8xb32_in1k',
    'mmpretrain/mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k',
    'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024',
]


@pytest.fixture
def convert(in_tmp):
    return lambda *argv: main([str(arg) for arg in argv])


@pytest.fixture(scope='module')
def stock():
    return runpy.run_path(str(ROOT / 'benchmarks/convert_stock.py'))


@pytest.mark.slow
@pytest.mark.parametrize('name', CHEAP)
def test_a_stock_config_is_converted_passes_the_audit_and_trains_with_its_norm_held(
    convert, stock, capsys, name
) -> None:
    size, config = stock['STOCK'][name], stock['stock_config'](name)
    # The tool writes nothing that does not pass the audit.
    assert convert(config, '-o', 'new.py', '--size', size, '--alpha', 2) == 0, capsys.readouterr()
    assert 'all scale-invariant' in capsys.readouterr().out
    assert len(Path('new.py').read_text().splitlines()) < 30
    cfg = load_config('new.py')
    settings = parse_settings(cfg.search)
    assert all(get_key(cfg.to_dict(), key, named_by='') == 2.0 for key in settings.alpha_keys)
    run = stock['train'](cfg, size)
    assert all(map(math.isfinite, run['losses']))
    assert run['untrained'] == []
    assert run['norms'] == pytest.approx([run['norms'][0]] * 21, rel=1e-5)


ONE_CLASS = (
    'backbone=dict(depth=18, init_cfg=None), neck=dict(in_channels=[64, 128, 256, 512]), bbox_head=dict(num_classes=1)'
)
MULTI_LABEL = "head=dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=4, in_channels=512)"
TASKS = "a=dict(type='LinearClsHead', num_classes=3), b=dict(type='LinearClsHead', num_classes=5)"
MULTI_TASK = f"head=dict(_delete_=True, type='MultiTaskHead', in_channels=512, task_heads=dict({TASKS}))"
KINDS = [  # what is special, stock config, changes to its model, pixels, the layers with a bound
    (
        'levels joined before the loss',
        'mmdet/yolox/yolox_tiny_8xb8-300e_coco',
        '',
        64,
        {f'bbox_head.multi_level_conv_cls.{level}' for level in range(3)},
    ),
    ('one class', 'mmdet/gfl/gfl_r50_fpn_1x_coco', ONE_CLASS, 64, {'bbox_head.gfl_cls'}),
    (
        'two stages, frozen BN, masks',
        'mmdet/mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco',
        '',
        64,
        {'roi_head.bbox_head.fc_cls', 'roi_head.mask_head.conv_logits'},
    ),
    (
        'a head that feeds another',
        'mmseg/ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024',
        '',
        32,
        {'decode_head.0.conv_seg', 'decode_head.1.conv_seg'},
    ),
    ('re-parametrised', 'mmpretrain/repvgg/repvgg-A0_8xb32_in1k', '', 64, {'head.fc'}),
    ('the classifier in the backbone', 'mmpretrain/inception_v3/inception-v3_8xb32_in1k', '', 96, {'backbone.fc'}),
    ('several labels', 'mmpretrain/resnet/resnet18_8xb16_cifar10', MULTI_LABEL, 32, {'head.fc'}),
    (
        'several tasks',
        'mmpretrain/resnet/resnet18_8xb16_cifar10',
        MULTI_TASK,
        32,
        {'head.task_heads.a.fc', 'head.task_heads.b.fc'},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize('name, model, size, classifiers', [row[1:] for row in KINDS], ids=[row[0] for row in KINDS])
def test_each_kind_of_network_gets_its_bound_where_it_classifies(
    convert, stock, capsys, name, model, size, classifiers
) -> None:
    Path('plain.py').write_text(f'_base_ = [{str(stock["stock_config"](name))!r}]\nmodel = dict({model})\n')
    assert convert('plain.py', '-o', 'new.py', '--size', size) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert 'all scale-invariant' in out
    assert 'were not checked' not in out
    layers = prepared_model(load_config('new.py')).named_modules()
    assert {layer for layer, module in layers if isinstance(module, (FixNormLinear, FixNormConv2d))} == classifiers


@pytest.mark.parametrize('name', ['stock', 'families'])
def test_the_docs_have_the_measured_lines(stock, capsys, name) -> None:
    assert stock['main'](['--table', str(ROOT / f'benchmarks/convert_{name}_cpu_202611.jsonl')]) == 0
    text = (ROOT / 'docs/convert.md').read_text()
    begin, end = f'<!-- begin {name} -->\n', f'<!-- end {name} -->\n'
    assert text[text.index(begin) + len(begin) : text.index(end)] == capsys.readouterr().out


GREY = dict(num_classes=10, mean=[120.0], std=[58.0], to_rgb=False)
ONE_CHANNEL = dict(backbone=dict(in_channels=1), head=dict(num_classes=10))
GREY_CONFIGS = [  # stock config, changes to its model, pixels
    pytest.param('mmpretrain/resnet/resnet18_8xb32_in1k', ONE_CHANNEL, 32, id='resnet18', marks=pytest.mark.slow),
    pytest.param('mmpretrain/lenet/lenet5_mnist', {}, 32, id='lenet5'),
]


@pytest.mark.parametrize('name, model, size', GREY_CONFIGS)
def test_a_config_for_grey_images_is_converted(convert, stock, capsys, name, model, size) -> None:
    text = f'_base_ = [{str(stock["stock_config"](name))!r}]\nmodel = {model!r}\n'
    Path('grey.py').write_text(text + (f'data_preprocessor = {GREY!r}\n' if model else ''))
    assert convert('grey.py', '-o', 'new.py', '--size', size) == 0, capsys.readouterr()
    assert 'all scale-invariant' in capsys.readouterr().out


def test_the_benchmark_leaves_out_what_its_file_has(stock, tmp_path, capsys) -> None:
    out = tmp_path / 'done.jsonl'
    out.write_text(''.join(json.dumps(dict(config=name)) + '\n' for name in stock['STOCK']))
    before = out.read_text()
    assert stock['main'](['--out', str(out)]) == 0
    assert out.read_text() == before
    assert capsys.readouterr().out == ''
    assert set(CHEAP) < set(stock['STOCK'])
    assert all(stock['stock_config'](name).is_file() for name in stock['STOCK'])


def test_the_tool_says_what_it_did_and_names_the_key_of_a_mistake(convert, capsys) -> None:
    wd = DIGITS / 'resnet8_wd_1xb64-20e_digits.py'
    assert convert(wd, '-o', 'new.py', '--size', 16, '--lr-range', 0.1, 1.6) == 0
    out = capsys.readouterr().out
    assert 'new.py: 10 weights in the norm-fixing set, all scale-invariant; 0 layers weight-normalised,' in out
    assert load_config('new.py').search.lr_range == (0.1, 1.6)
    assert convert(wd, '-o', 'angle.py', '--size', 16, '--update', 'angle') == 0
    assert load_config('angle.py').optim_wrapper.optimizer.lr == 0.02
    by_angle = load_config('angle.py').search
    assert (by_angle.type, by_angle.lr_range) == ('LRFitSearch', (0.004, 0.064))
    assert load_config('new.py').search.type == 'FixNormSearch'
    assert 'new.py' not in capsys.readouterr().out
    # A relative path is kept relative, so that both files can move together.
    Path('plain.py').write_text(f'_base_ = [{str(wd)!r}]')
    Path('sub').mkdir()
    assert convert('plain.py', '-o', 'sub/new.py', '--size', 16) == 0
    assert "_base_ = ['../plain.py']" in Path('sub/new.py').read_text()
    for argv, message in (
        ([wd, '-o', 'new.py'], 'new.py: it already exists'),
        (['no.py', '-o', 'other.py'], "no such config file: 'no.py'"),
        (['new.py', '-o', 'other.py'], 'it is already FixNorm'),
        ([wd, '-o', 'other.py', '--alpha', -1], '--alpha: must be > 0 and finite, got -1'),
        ([wd, '-o', 'other.py', '--alpha', 'inf'], '--alpha: must be > 0 and finite, got inf'),
        (
            [wd, '-o', 'other.py', '--update', 'angle', '--lr-range', 0.01, 4],
            '--lr-range: with --update angle these are',
        ),
        ([wd, '-o', 'other.py', '--lr-from', 'no.pth'], "--lr-from: no such checkpoint: 'no.pth'"),
    ):
        assert convert(*argv) == 2
        assert message in capsys.readouterr().err
    assert not Path('other.py').exists()


def test_the_tool_says_how_many_scales_are_held_and_takes_one_way_with_frozen_bn(convert, capsys) -> None:
    wd = DIGITS / 'resnet8_wd_1xb64-20e_digits.py'
    Path('stored.py').write_text(f'_base_ = [{str(wd)!r}]\nmodel = dict(backbone=dict(norm_eval=True))\n')
    for flags, message in (
        ([], '10 weights in the norm-fixing set, all scale-invariant; 9 layers weight-normalised (9 with their scale'),
        (['--train-bn'], '10 weights in the norm-fixing set, all scale-invariant; 0 layers weight-normalised, 1 with'),
        (['--keep-norm-eval'], '9 weights left out\n    left out, 9: BN on stored statistics'),
    ):
        assert convert('stored.py', '-o', 'new.py', '--size', 16, '--force', *flags) == 0
        assert message in capsys.readouterr().out
    with pytest.raises(SystemExit, match='2'):
        convert('stored.py', '-o', 'new.py', '--train-bn', '--keep-norm-eval')
    assert 'not allowed with argument' in capsys.readouterr().err

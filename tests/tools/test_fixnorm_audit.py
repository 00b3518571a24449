"""mmfixnorm audit on the tiny configs of the three toolboxes, and on every FixNorm config."""

import json
from pathlib import Path

import pytest

from mmfixnorm.cli.audit import main
from mmfixnorm.convert import audit_config
from mmfixnorm.convert.audit import prepared_model
from mmfixnorm.launch import load_config

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
TINY = [DIGITS, ROOT / 'tests/tiny/detection.py', ROOT / 'tests/tiny/base_oc.py']
# Some need a map of more than one pixel in front of their last norm.
SIZES = {'imagenet': 64, 'coco': 128, 'cityscapes': 64}
# RetinaNet with ResNet-50 takes minutes; this one is thinner, with the same layers and norm layers in FPN and head.
THINNER = {
    'neck.out_channels': 32,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 32,
    'bbox_head.num_classes': 4,
}
SMALLER = {'backbone.depth': 18, 'neck.in_channels': [64, 128, 256, 512], **THINNER}
OPTIONS = {'coco': {f'model.{key}': value for key, value in SMALLER.items()}}
ALL = sorted(path for path in (ROOT / 'configs').rglob('*_fixnorm*_*.py') if '_base_' not in path.parts)


def model_of(path):
    """Folder, model and method, without the schedule."""
    return path.parent.name, path.stem[: path.stem.index('_', path.stem.index('_fixnorm') + 1)]


MODELS = {model_of(path): path for path in ALL if '-grid' not in path.stem}


@pytest.mark.parametrize('path', TINY, ids=lambda path: path.stem)
def test_a_fixnorm_config_passes(path, tmp_path):
    out = tmp_path / 'report.json'
    assert main([str(path), '--size', '64', '--json', str(out)]) == 0
    report = json.loads(out.read_text())
    assert report['passes']
    assert report['groups'][0]['weights'] == report['norm_fixing_set']
    assert all(record['scale_invariant'] for record in report['weights'])


ONE, FOUR = dict(mean=[127.5], std=[58.0], bgr_to_rgb=False), dict(mean=None, std=None, bgr_to_rgb=False)
CHANNELS = [  # config, channels of its images, the changes
    (DIGITS, 1, {'data_preprocessor.mean': [70.0], 'data_preprocessor.std': [90.0], 'data_preprocessor.to_rgb': False}),
    (DIGITS, 4, {'data_preprocessor.mean': None, 'data_preprocessor.std': None, 'data_preprocessor.to_rgb': False}),
    (TINY[1], 1, {f'model.data_preprocessor.{key}': value for key, value in ONE.items()}),
    (TINY[2], 4, {f'model.data_preprocessor.{key}': value for key, value in FOUR.items()}),
]


@pytest.mark.parametrize('path, channels, options', CHANNELS, ids=lambda value: getattr(value, 'stem', None))
def test_images_have_the_channels_of_the_model(path, channels, options):
    cfg = load_config(path, cfg_options={'model.backbone.in_channels': channels, **options})
    assert next(iter(prepared_model(cfg).backbone.parameters())).shape[1] == channels
    audit = audit_config(cfg, images=2, size=64, explain=False)
    assert audit.passes
    assert len(audit.norm_fixing_set) >= 10


def test_a_set_with_a_plain_classifier_fails_with_status_1(capsys, tmp_path):
    head = (
        "dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=32, loss=dict(type='CrossEntropyLoss'))"
    )
    config = tmp_path / 'plain_head.py'
    config.write_text(f'_base_ = [{str(DIGITS)!r}]\nmodel = dict(head={head})\n')
    assert main([str(config), '--size', '32']) == 1
    shown = capsys.readouterr().out
    assert 'FAILED: 1 of 10' in shown
    assert 'head.fc.weight: no norm layer follows: it feeds a softmax or sigmoid classifier' in shown


@pytest.mark.parametrize(
    ('argv', 'message'),
    [(['nowhere.py'], 'no such config file'), ([str(DIGITS), '--device', 'gpu'], "--device: 'gpu' cannot be used")],
)
def test_a_mistake_has_status_2(capsys, argv, message):
    assert main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('path', MODELS.values(), ids=lambda path: path.stem)
def test_the_set_of_every_fixnorm_config_is_scale_invariant(path):
    cfg = load_config(path, cfg_options=OPTIONS.get(path.parent.name))
    audit = audit_config(cfg, images=2, size=SIZES.get(path.parent.name, 64), explain=False)
    assert audit.norm_fixing_set
    assert audit.failing == ()


def test_configs_of_one_model_have_one_model():
    def audited(path):
        cfg = load_config(path)
        cfg.optim_wrapper.pop('optimizer')
        head = cfg.model.get('head') or cfg.model.get('bbox_head') or cfg.model.decode_head
        head.pop('alpha')  # tuned for each schedule
        cfg.model.get('auxiliary_head', {}).pop('alpha', None)
        return cfg.model.to_dict(), cfg.optim_wrapper.to_dict()

    for path in ALL:
        if '-grid' not in path.stem and MODELS[model_of(path)] != path:
            assert audited(path) == audited(MODELS[model_of(path)]), path

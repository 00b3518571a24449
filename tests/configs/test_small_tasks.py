"""The small detectors and segmentors: what their configs say, and a real training step of each."""

import importlib
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfixnorm.core import WeightNormalized
from mmfixnorm.core.layer_kinds import stored_statistics_layers
from mmfixnorm.core.layers import fill_scales
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norms import global_norm
from mmfixnorm.search.methods import parse_settings

ROOT = Path(__file__).parents[2]
FOLDERS = ('digits', 'bccd', 'camvid')
PATHS = sorted(p for f in FOLDERS for m in ('retinanet', 'base-oc') for p in (ROOT / 'configs' / f).glob(f'{m}_*.py'))
NAME = re.compile(
    r'(?P<model>retinanet_r18-thin-fpn|base-oc_r18-thin-d(?P<stride>[48]))_(?P<method>wd|fixnorm|angle)'
    r'_1xb(?P<batch>\d+)-(?P<iters>\d+)i_(?P<data>digits-det|digits-seg|bccd|camvid)'
)
DATA_ROOT = {'digits-det': 'digits_det', 'digits-seg': 'digits_seg', 'bccd': 'bccd', 'camvid': 'camvid'}
NUM_CLASSES = {'digits-det': 10, 'digits-seg': 11, 'bccd': 3, 'camvid': 11}
WRAPPER = {
    'optim_wrapper.type': 'FixNormOptimWrapper',
    'optim_wrapper.constructor': 'FixNormOptimWrapperConstructor',
    'optim_wrapper.optimizer.weight_decay': 0.0,
}
#: What FixNorm sets and weight decay does not, besides `search` and the numbers that are tuned.
DIFFERENCES = {
    'mmdet': WRAPPER | {'model.bbox_head.type': 'FixNormRetinaHead'},
    'mmseg': WRAPPER | {'model.decode_head.type': 'FixNormBaseOCHead', 'model.auxiliary_head.type': 'FixNormFCNHead'},
}
ANGLE = {'optim_wrapper.update': 'angle', 'optim_wrapper.per': 'layer'}
ALPHAS = {
    'mmdet': ('model.bbox_head.alpha',),
    'mmseg': ('model.decode_head.alpha', 'model.auxiliary_head.alpha'),
}
METRIC = {'mmdet': 'coco/bbox_mAP', 'mmseg': 'mIoU'}

every_config = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)


def parts(path: Path) -> re.Match:
    match = NAME.fullmatch(path.stem)
    assert match is not None
    return match


def scenes() -> list:
    painter = runpy.run_path(str(ROOT / 'tools/dataset_converters/digits.py'))
    painter['scenes'].__globals__['SCENES'] = {'train': 4}
    return [scene for _, _, scene in painter['scenes']()]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Four scenes of digits under the file names and with the number of classes of each data set."""
    out = tmp_path_factory.mktemp('data')
    # The names in the files differ, what is in them does not: every digit is of the first class.
    for i, scene in enumerate(scenes()):
        image, mask = Image.fromarray(scene.image), Image.fromarray(np.where(scene.owner < 0, 1, 0).astype(np.uint8))
        targets = {
            f'digits_det/train/{i}.png': image,
            f'bccd/images/{i}.png': image,
            f'digits_seg/leftImg8bit/train/digits/{i}_leftImg8bit.png': image,
            f'digits_seg/gtFine/train/digits/{i}_gtFine_labelTrainIds.png': mask,
            f'camvid/img/train/{i}.jpg': image.resize((240, 180)),
            f'camvid/ann/train/{i}.png': mask.resize((240, 180), Image.Resampling.NEAREST),
        }
        for name, content in targets.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            content.save(out / name)
    for root, classes in (('digits_det', '0123456789'), ('bccd', ['RBC', 'WBC', 'Platelets'])):
        (out / root / 'annotations').mkdir()
        (out / root / 'annotations/instances_train.json').write_text(json.dumps(coco(classes)))
    return out


def coco(classes) -> dict:
    content = {'categories': [{'id': k + 1, 'name': name} for k, name in enumerate(classes)]}
    content['images'] = [{'id': i, 'file_name': f'{i}.png', 'width': 96, 'height': 96} for i in range(4)]
    boxes = [(i, box) for i, scene in enumerate(scenes()) for box in scene.boxes]
    content['annotations'] = [
        dict(id=k + 1, image_id=i, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0, segmentation=[])
        for k, (i, box) in enumerate(boxes)
    ]
    return content


def model_of(cfg: Config) -> nn.Module:
    """The model as it is when training starts."""
    importlib.import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    model = importlib.import_module(f'{cfg.default_scope}.registry').MODELS.build(cfg.model)
    model.init_weights()
    fill_scales(model)
    return model.train()


def test_each_data_set_has_every_method_with_the_same_name():
    found = {(m['data'], m['method']) for m in map(parts, PATHS)}
    assert found == {(data, method) for data in DATA_ROOT for method in ('wd', 'fixnorm', 'angle')}
    assert len({re.sub('_(wd|fixnorm|angle)_', '_', p.stem) for p in PATHS}) == len(DATA_ROOT)


@every_config
def test_the_name_says_what_is_inside(path):
    cfg, name = Config.fromfile(path), parts(path)
    assert cfg.train_dataloader.batch_size == int(name['batch']) == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_iters == int(name['iters']) == cfg.param_scheduler[-1].end
    assert cfg.train_cfg.max_iters % cfg.train_cfg.val_interval == 0
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.data_root == f'data/{DATA_ROOT[name["data"]]}'
    assert len(cfg.train_dataloader.dataset.metainfo.classes) == NUM_CLASSES[name['data']]
    if name['stride']:
        assert 4 * np.prod(cfg.model.backbone.strides) == int(name['stride'])


@every_config
def test_the_schedule_is_a_short_warm_up_and_one_cosine_to_the_end(path):
    warmup, cosine = Config.fromfile(path).param_scheduler
    assert (warmup.begin, warmup.end, cosine.T_max) == (0, cosine.begin, cosine.end - cosine.begin)
    assert warmup.end == 0.05 * cosine.end


@every_config
def test_train_val_and_test_are_three_sets(path):
    cfg = Config.fromfile(path)
    sets = [cfg[f'{split}_dataloader'].dataset for split in ('train', 'val', 'test')]
    where = [d.get('ann_file') or (d.data_prefix.img_path, d.data_prefix.seg_map_path) for d in sets]
    assert all(split in str(place) for split, place in zip(('train', 'val', 'test'), where))
    if cfg.default_scope == 'mmdet':
        for split, dataset in zip(('val', 'test'), sets[1:]):
            assert cfg[f'{split}_evaluator'].ann_file == f'{cfg.data_root}/{dataset.ann_file}'


@every_config
def test_its_search_block_is_valid_and_its_own_lr_and_alpha_lie_inside(path, flat):
    cfg = Config.fromfile(path)
    if parts(path)['method'] == 'wd':
        assert 'search' not in cfg
        return
    settings = parse_settings(cfg.search)
    assert settings.kind == 'FixNormSearch'
    assert settings.lr_range[0] <= cfg.optim_wrapper.optimizer.lr <= settings.lr_range[1]
    assert (settings.metric, settings.alpha_keys) == (METRIC[cfg.default_scope], ALPHAS[cfg.default_scope])
    assert {flat(cfg.to_dict())[key] for key in settings.alpha_keys} <= set(settings.alphas)


@pytest.mark.parametrize('path', [p for p in PATHS if parts(p)['method'] != 'wd'], ids=lambda path: path.stem)
def test_a_method_differs_from_weight_decay_in_what_it_claims_alone(path, flat):
    method = parts(path)['method']
    baseline = Config.fromfile(path.with_name(path.name.replace(f'_{method}_', '_wd_')))
    ours, theirs = flat(Config.fromfile(path).to_dict()), flat(baseline.to_dict())
    changed = {k: ours.get(k) for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)}
    tuned = {'optim_wrapper.optimizer.lr', *ALPHAS[baseline.default_scope]}
    rest = {k: v for k, v in changed.items() if not k.startswith('search.') and k not in tuned}
    assert rest == DIFFERENCES[baseline.default_scope] | (ANGLE if method == 'angle' else {})


@every_config
def test_what_no_norm_layer_follows_is_weight_normalised_but_for_the_segmentor_of_weight_decay(path, load):
    cfg = load(path)
    model = model_of(cfg)
    assert stored_statistics_layers(model) == {}
    followed, last = set(), None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            last = name
        elif isinstance(module, _BatchNorm):
            followed.add(last)
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    bare = {name for name, m in convs.items() if name not in followed and not isinstance(m, WeightNormalized)}
    if (cfg.default_scope, parts(path)['method']) == ('mmseg', 'wd'):
        context = {f'decode_head.object_context.{part}' for part in ('value_project', 'out_project')}
        assert bare == {'decode_head.conv_seg', 'auxiliary_head.conv_seg', *context}
    else:
        assert bare == set()


@every_config
def test_one_training_step_on_generated_scenes(path, folder, load):
    cfg = load(path)
    model = model_of(cfg)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    cfg.train_dataloader.dataset.data_root = str(folder / DATA_ROOT[parts(path)['data']])
    cfg.train_dataloader.batch_size = 4
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fixed = [t.detach().clone() for t in flagged(optim_wrapper.optimizer)]

    losses = model.train_step(batch, optim_wrapper)

    assert torch.isfinite(losses['loss'])
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    head = 'bbox_head.retina_cls' if cfg.default_scope == 'mmdet' else 'decode_head.conv_seg'
    assert {f'{head}.weight', f'{head}.bias'} <= moved
    assert any(name.startswith('backbone.') for name in moved)
    if parts(path)['method'] != 'wd':
        after = flagged(optim_wrapper.optimizer)
        assert global_norm(after).item() == pytest.approx(global_norm(fixed).item(), rel=1e-6)
        assert len(after) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    else:
        assert fixed == []


@pytest.mark.parametrize(
    'data, folder_name, counts', [('bccd', 'bccd', (205, 87, 72)), ('camvid', 'camvid_small', (367, 101, 233))]
)
def test_the_real_sets_are_read_whole(data, folder_name, counts, real_data, load):
    cfg = load(next(p for p in PATHS if parts(p)['data'] == data))
    importlib.import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    registry = importlib.import_module(f'{cfg.default_scope}.registry').DATASETS
    for split, count in zip(('train', 'val', 'test'), counts):
        wanted = {**cfg[f'{split}_dataloader'].dataset, 'data_root': str(real_data / folder_name)}
        dataset = registry.build(wanted)
        assert len(dataset) == count
        sample = dataset[0]
        assert sample['inputs'].ndim == 3
        if data == 'camvid':
            found = set(np.unique(sample['data_samples'].gt_sem_seg.data))
            assert found <= {*range(NUM_CLASSES[data]), 255}
        else:
            assert set(sample['data_samples'].gt_instances.labels.tolist()) <= set(range(NUM_CLASSES[data]))

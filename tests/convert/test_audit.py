"""The audit of a config: the size of its images, and the batches that it generates."""

import copy
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

import mmfixnorm.peers  # noqa: F401  # registers its constructors
from mmfixnorm.cls import generated_batch
from mmfixnorm.config import load_config
from mmfixnorm.convert import audit
from mmfixnorm.convert.audit import audit_config, load_weights, model_of, norm_fixing_set, with_scope
from mmfixnorm.det.generated_batch import generate_batch, what_it_needs
from mmfixnorm.engine import FixNormHook, FixNormOptimWrapperConstructor
from mmfixnorm.errors import ConfigError

ARCH = dict(embed_dims=16, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=16)
RESNET = Config(
    dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=4, in_channels=512),
        ),
    )
)


def test_images_that_are_too_small_are_enlarged_once_unless_a_size_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(generated_batch, 'SIZE', 32)  # the last maps have one value, and one image has no variance
    audit = audit_config(RESNET, images=1, explain=False, brief=True)
    assert audit.size == audit.to_dict()['size'] == 64
    with pytest.raises(ConfigError, match=r'32 x 32 pixels .* more than 1 value per channel .*: --size 64'):
        audit_config(RESNET, images=1, size=32, explain=False, brief=True)


def test_a_model_of_one_size_is_measured_with_the_images_that_it_is_trained_on() -> None:
    lenet = load_config('mmpretrain::lenet/lenet5_mnist.py')
    assert audit_config(lenet, explain=False, brief=True).size == 32
    lenet.pop('train_dataloader')
    with pytest.raises(ConfigError, match=r'224 x 224 pixels .* cannot be multiplied .* one size only.*: --size PX'):
        audit_config(lenet, explain=False, brief=True)


@MODELS.register_module()
class FilledByItsCheckpointAlone(nn.Module):
    """As mmseg's SAN, which without its checkpoint calls a method that its base class does not have."""

    def init_weights(self) -> None:
        super().init_weights()


def test_a_model_that_cannot_initialise_its_weights_is_refused_in_a_line() -> None:
    cfg = Config(dict(default_scope='mmseg', model=dict(type='mmengine.FilledByItsCheckpointAlone')))
    with pytest.raises(ConfigError, match=r"cannot initialise .* no attribute 'init_weights' \(raised in .*\)$"):
        audit_config(cfg)


def test_a_model_that_refuses_every_other_size_is_measured_at_its_own() -> None:
    mixer = copy.deepcopy(RESNET)
    mixer.model.backbone = dict(type='MlpMixer', arch=ARCH, img_size=128, patch_size=32)
    mixer.model.neck.dim = 1
    mixer.model.head.in_channels = 16
    report = audit_config(mixer, explain=False, brief=True)
    assert report.size == 128
    assert not any(record.scale_invariant for record in report.report.weights)


def test_a_transformer_for_large_images_is_measured_with_those_of_the_usual_size() -> None:
    """Its model at the size of the config would take 16 times the tokens; its config is not changed."""
    mixer = copy.deepcopy(RESNET)
    mixer.model.backbone = dict(type='MlpMixer', arch=ARCH, img_size=(512, 512), patch_size=32)
    mixer.model.neck.dim = 1
    mixer.model.head.in_channels = 16
    small = audit.with_usual_images(mixer)
    assert (small.model.backbone.img_size, mixer.model.backbone.img_size) == (224, (512, 512))
    assert audit.with_usual_images(small) is small
    assert audit_config(mixer, explain=False, brief=True).size == 224
    assert audit_config(mixer, size=512, explain=False, brief=True).size == 512


def test_a_model_that_suits_no_size_is_not_measured_for_ever(monkeypatch) -> None:
    """Too small at what its training loads, and one size only above: each error leads to the other."""

    def refuses(model, toolbox, images, side, *args, **kwargs):
        sides.append(side)
        raise audit._SizeError(f'{side} x {side}', None if side > 32 else 64)

    sides: list[int] = []
    lenet = load_config('mmpretrain::lenet/lenet5_mnist.py')  # trained on 32 pixels
    monkeypatch.setattr(generated_batch, 'SIZE', 48)
    monkeypatch.setattr(audit, '_in_its_precision', refuses)
    with pytest.raises(ConfigError, match='64 x 64'):
        audit_config(lenet, explain=False, brief=True)
    assert sides == [48, 32, 64]


@pytest.mark.parametrize(
    ('usual', 'side', 'images'),
    [
        ((4, 128), 128, 4),
        ((4, 128), 256, 4),
        ((4, 128), 257, 3),
        ((4, 128), 640, 2),  # BEiT with UPerNet takes no other size, and four images took more than 21 GB
        ((3, 224), 448, 3),
        ((2, 192), 1024, 2),
    ],
)
def test_large_images_are_fewer_but_two(usual, side, images) -> None:
    toolbox = SimpleNamespace(IMAGES=usual[0], SIZE=usual[1])
    assert audit.images_of(toolbox, side) == images


class LineDetDataProcessor(nn.Module):
    """The preprocessor of detectors of lanes has this name."""


def test_a_detector_of_lines_is_told_that_it_gets_none() -> None:
    model = nn.Module()
    model.data_preprocessor = LineDetDataProcessor()
    assert what_it_needs(model) == 'lines, as lanes are'
    model.data_preprocessor = nn.Identity()
    assert what_it_needs(model) == ''


@pytest.mark.parametrize(
    ('config', 'masks'),
    [('rtmdet/rtmdet_tiny_8xb32-300e_coco', False), ('mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco', True)],
)
def test_boxes_have_masks_where_the_model_has_something_for_masks(config, masks) -> None:
    model = model_of(load_config(f'mmdet::{config}.py')).train()
    batch = generate_batch(model, images=2, size=(64, 64), dtype=torch.float32, seed=0)
    assert [('masks' in sample.gt_instances) for sample in batch['data_samples']] == [masks] * 2
    losses = model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    assert all(
        torch.isfinite(torch.as_tensor(loss)).all()
        for value in losses.values()
        for loss in (value if isinstance(value, list) else [value])
    )


@pytest.mark.parametrize(
    'heads',
    [
        # As HTC on COCO: a mask of all 183 beside boxes of 80 classes.
        dict(bbox_head=dict(num_classes=3), semantic_head=dict(num_classes=50)),
        # As Panoptic FPN: what the semantic head predicts is the stuff and one class for all things.
        dict(
            bbox_head=dict(num_classes=3),
            semantic_head=dict(num_classes=48, num_things_classes=3, num_stuff_classes=47),
            panoptic_fusion_head=dict(num_classes=50, num_things_classes=3, num_stuff_classes=47),
        ),
    ],
    ids=['semantic', 'panoptic'],
)
def test_a_semantic_mask_may_have_more_classes_than_the_boxes(heads) -> None:
    model = nn.Module()
    model.data_preprocessor, model.backbone = nn.Identity(), nn.Conv2d(3, 4, 3)
    for name, counts in heads.items():
        model.add_module(name, nn.Identity())
        vars(getattr(model, name)).update(counts)
    batch = generate_batch(model, images=8, size=(64, 64), dtype=torch.float32, seed=0)
    labels = torch.cat([sample.gt_instances.labels for sample in batch['data_samples']])
    masks = torch.stack([sample.gt_sem_seg.sem_seg for sample in batch['data_samples']])
    assert (int(labels.max()), int(masks.max())) == (2, 49)


class Decoder(nn.Module):
    """The parts of a DETR that its queries have: their number, at two places, their tables, and another table."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.num_queries = queries
        self.query_embed, self.class_embed = nn.Embedding(queries, 4), nn.Embedding(7, 4)
        self.denoising = nn.Module()
        self.denoising.num_matching_queries = self.denoising.num_proposals = queries  # the latter of Sparse R-CNN


@pytest.mark.parametrize(('queries', 'left'), [(900, 50), (50, 50), (20, 20)])
def test_a_copy_works_with_few_queries(queries, left) -> None:
    torch.manual_seed(0)
    model = Decoder(queries).double()
    table = model.query_embed.weight.detach().clone()
    for _ in range(2):
        audit.adapt(model, SimpleNamespace())
        assert model.num_queries == model.query_embed.num_embeddings == left
        assert model.denoising.num_matching_queries == model.denoising.num_proposals == left
        assert torch.equal(model.query_embed.weight, table[:left])
        assert model.class_embed.weight.shape == (7, 4)


@pytest.mark.parametrize('init_cfg', [dict(type='Pretrained', checkpoint='none.pth'), dict(checkpoint='none.pth')])
def test_no_checkpoint_is_read_whose_initialisation_names_one_with_or_without_a_type(init_cfg) -> None:
    """PVT's configs name no type."""
    cfg = copy.deepcopy(RESNET)
    cfg.model.backbone.init_cfg = init_cfg
    audit.prepared_model(cfg)
    cfg.model.backbone.init_cfg = [dict(type='Kaiming', layer='Conv2d'), init_cfg]
    audit.prepared_model(cfg)


def test_a_norm_that_needs_a_process_group_is_built_without_one() -> None:
    cfg = copy.deepcopy(RESNET)
    cfg.model.backbone.norm_cfg = dict(type='MMSyncBN', requires_grad=True)
    norms = [module for module in model_of(cfg).modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == 20
    assert cfg.model.backbone.norm_cfg.type == 'MMSyncBN'


@MODELS.register_module()
class LeftAsTheMemoryWas(nn.Module):
    """As mmdet's TridentConv, which only a checkpoint fills."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.Tensor(4, 3, 3, 3)), nn.Parameter(torch.empty(4))
        self.linear = nn.Linear(3, 2)


@pytest.mark.skipif(not hasattr(torch.utils, 'deterministic'), reason='torch < 2.2 cannot tell what nothing has set')
def test_a_weight_that_nothing_initialises_is_drawn() -> None:
    cfg = Config(dict(default_scope='mmseg', model=dict(type='mmengine.LeftAsTheMemoryWas')))
    junk = [torch.full((4, 3, 3, 3), 1e30) for _ in range(100)]
    del junk
    torch.manual_seed(0)
    model = audit.prepared_model(cfg)
    bound = 1 / (3 * 9) ** 0.5
    assert 0.8 * bound < model.weight.abs().max() <= bound
    assert not model.bias.any()
    assert model.linear.weight.abs().max() <= 1 / 3**0.5
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # its default


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OwnConstructor(FixNormOptimWrapperConstructor):
    """A subclass under a name of its own."""


@HOOKS.register_module()
class OwnHook(FixNormHook):
    """A subclass with another default."""

    def __init__(self, exclude=('^fc',)) -> None:
        super().__init__(exclude=exclude)


def _by(constructor) -> dict:
    return dict(optim_wrapper=dict(constructor=constructor))


PEER = 'PerLayerGroupsOptimWrapperConstructor'
SETS = [
    (_by('OwnConstructor'), ['conv', 'fc']),
    (_by('mmengine.OwnConstructor'), ['conv', 'fc']),
    (_by(OwnConstructor), ['conv', 'fc']),
    (_by(PEER), ['conv', 'fc']),
    (_by(f'mmfixnorm.peers.lr_correction.{PEER}'), ['conv', 'fc']),
    (_by('DecayedGroupsOptimWrapperConstructor'), None),  # has the groups, and fixes no norm
    (dict(_by('DecayedGroupsOptimWrapperConstructor'), custom_hooks=[dict(type='OwnHook')]), ['conv']),
    (dict(custom_hooks=[dict(type='OwnHook')]), ['conv']),
    (dict(custom_hooks=[dict(type='mmengine.OwnHook', exclude=())]), ['conv', 'fc']),
    (dict(custom_hooks=[dict(type=OwnHook)]), ['conv']),
    (_by('Unknown'), None),
]


@pytest.mark.parametrize(('cfg', 'layers'), SETS, ids=str)
def test_a_subclass_of_the_constructor_or_of_the_hook_has_a_set_too(cfg, layers) -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, 2)))
    expected = None if layers is None else [f'{layer}.weight' for layer in layers]
    assert norm_fixing_set(model, Config(cfg)) == expected


def test_a_hook_that_cannot_be_built_is_told_by_its_name() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='OwnHook', without='fc')]))
    with pytest.raises(ConfigError, match=r"custom_hooks: OwnHook: .*unexpected keyword argument 'without'"):
        norm_fixing_set(nn.Sequential(nn.Linear(2, 2)), cfg)


class OwnClassifier(nn.Module):
    """Not of a toolbox, nor a subclass of one of its classes."""


FIXNORM_MODEL = dict(type='FixNormModel', fixnorm=dict(plain_type='mmpretrain.ImageClassifier'))
SCOPES = [  # the scope and the model of a config, and the toolbox that is found
    (None, dict(type='mmpretrain.ImageClassifier'), 'mmpretrain'),
    ('mmengine', dict(type='mmdet.models.detectors.RetinaNet'), 'mmdet'),
    (None, FIXNORM_MODEL, 'mmpretrain'),
    ('mmseg', dict(type='mmdet.RetinaNet'), 'mmseg'),
    (None, dict(type='ImageClassifier'), None),  # which mmengine does not find either
    (None, dict(type=OwnClassifier), None),
]


@pytest.mark.parametrize(('scope', 'model', 'toolbox'), SCOPES)
def test_the_toolbox_of_a_config_without_a_scope_is_that_of_its_model(scope, model, toolbox) -> None:
    cfg = Config(dict(default_scope=scope, model=model))
    assert with_scope(cfg).default_scope == toolbox
    assert cfg.default_scope == scope
    if toolbox is None:
        with pytest.raises(ConfigError, match=r"default_scope: must be one of .*, got None; set .* = 'mmdet'"):
            audit_config(cfg)


def test_a_subclass_has_the_toolbox_of_its_parent() -> None:
    from mmpretrain.models import ImageClassifier

    class Own(ImageClassifier):
        pass

    assert with_scope(Config(dict(model=dict(type=Own)))).default_scope == 'mmpretrain'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(model=None), 'model: must be a dict, got None'),
        (dict(model='resnet'), "model: must be a dict, got 'resnet'"),
        (dict(model=dict(type='mmengine.OwnNet', backbone='resnet50')), 'mmengine.OwnNet is not in'),
        (dict(model=dict(type='mmengine.OwnNet', backbone=[dict(type='ResNet')])), 'mmengine.OwnNet is not in'),
    ],
)
def test_a_model_of_another_form_is_no_traceback(change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        audit_config(Config(dict(default_scope='mmpretrain', **change)))


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_is_not_there_is_told_before_anything_is_built(device) -> None:
    with pytest.raises(ConfigError, match=rf"^--device: '{device}' cannot be used \(.+\); 'cpu' always can$"):
        audit_config(Config(dict(default_scope='mmpretrain')), device=device)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'hello, garbage here'])
def test_a_damaged_checkpoint_is_named(tmp_path, content) -> None:
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ConfigError, match=r'^--load-from .*a\.pth: not a checkpoint \(\w+: '):
        load_weights(nn.Linear(1, 1), str(tmp_path / 'a.pth'), named_by='--load-from')
    with pytest.raises(ConfigError, match=r'^load_from .*b\.pth: .*b\.pth can not be found'):
        load_weights(nn.Linear(1, 1), str(tmp_path / 'b.pth'), named_by='load_from')


@MODELS.register_module()
class LoadsWhileItIsBuilt(nn.Module):
    """As the backbones of timm, which download while they are built."""

    def __init__(self, pretrained=False) -> None:
        super().__init__()
        self.pretrained = pretrained


@pytest.mark.parametrize('pretrained', [True, 'torchvision://resnet50', False, None])
def test_nothing_is_downloaded_while_the_model_is_built(pretrained) -> None:
    model = dict(type='mmengine.LoadsWhileItIsBuilt', pretrained=pretrained)
    assert not model_of(Config(dict(default_scope='mmpretrain', model=model))).pretrained

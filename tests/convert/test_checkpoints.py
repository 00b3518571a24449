"""Plain checkpoints in converted configs, from the file to the first step, with real Runners."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import set_random_seed
from PIL import Image

from mmfixnorm.config import load_config
from mmfixnorm.convert import convert
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.launch import build_model, build_runner
from tests.tiny.data import pictures

TINY = Path(__file__).parents[1] / 'tiny'
SGD = "optim_wrapper = dict({delete}optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4))\n"
PHOTOS = """
_base_ = ['{configs}/_base_/default_runtime.py']
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[58.0] * 3)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='data', data_prefix='photos', pipeline=pipeline))
train_cfg = dict(by_epoch=False, max_iters=4)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2), logger=dict(interval=1))
val_evaluator = dict(type='Accuracy', topk=(1,))
"""
RESNET = "backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)"
CONVNEXT = (
    "backbone=dict(type='ConvNeXt', arch=dict(depths=[1, 1], channels=[16, 32]), stem_patch_size=2, "
    'out_indices=1, gap_before_final_norm=False)'
)
CLASSIFIER = PHOTOS + (
    "model = dict(type='ImageClassifier', {backbone}, neck=dict(type='GlobalAveragePooling'), "
    "head=dict(type='{head}', num_classes=2, in_channels=32{more}, loss=dict(type='CrossEntropyLoss')))\n"
)
DETECTOR = """
_base_ = ['{tiny}/detection.py']
model = dict(neck=dict(conv_cfg=None), bbox_head=dict(
    _delete_=True, type='RetinaHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
    anchor_generator=dict(
        type='AnchorGenerator', octave_base_scale=2, scales_per_octave=1, ratios=[1.0], strides=[8, 16])))
"""
SEGMENTER = """
_base_ = ['{tiny}/segmentation.py']
head = dict(type='FCNHead', channels=16, num_convs=1, concat_input=False, dropout_ratio=0.0, num_classes=3,
            norm_cfg=dict(type='BN'))
model = dict(decode_head=dict(_delete_=True, in_channels=16, in_index=1, **head),
             auxiliary_head=dict(_delete_=True, in_channels=8, in_index=0, **head))
"""
STACKED = CLASSIFIER.replace('{head}', 'StackedLinearClsHead').replace('{more}', ', mid_channels=[8]')
CLASSIFIER = CLASSIFIER.replace('{head}', 'LinearClsHead').replace('{more}', '')
# Task: its config, and how many layers of the child are weight-normalised, with and without a bound. Of ConvNeXt: the
# stem, one more downsampling and three in each block. Of the detector: 4 of the FPN, two towers of one, two outputs.
TASKS = {
    'by its key': (CLASSIFIER.replace('{backbone}', RESNET), 1),
    'replaced': (STACKED.replace('{backbone}', RESNET), 2),
    'convnext': (CLASSIFIER.replace('{backbone}', CONVNEXT), 9),
    'detector': (DETECTOR, 8),
    'segmenter': (SEGMENTER, 2),
}


@HOOKS.register_module(force=True)
class _AtTheFirstStep(Hook):
    """Keeps the weights that the training starts from."""

    weights: dict = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.weights:
            self.weights.update({k: v.clone() for k, v in runner.model.state_dict().items()})


@pytest.fixture
def first(monkeypatch):
    monkeypatch.setattr(_AtTheFirstStep, 'weights', {})
    return _AtTheFirstStep.weights


@pytest.fixture
def task(request, tiny_task, tmp_path):
    """The plain config of a task, in a folder with its data, and the file of a plain checkpoint."""
    text, normalized = TASKS[request.param]
    tiny_task({'detector': 'detection', 'segmenter': 'segmentation'}.get(request.param, 'detection'))
    for i, (image, _) in enumerate(pictures(4, seed=0)):
        file = tmp_path / f'data/photos/{"ab"[i % 2]}/{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:32, :32]).save(file)
    text = text.replace('{tiny}', str(TINY)).replace('{configs}', str(TINY.parents[1] / 'configs'))
    Path('plain.py').write_text(text + SGD.format(delete='' if 'CustomDataset' in text else '_delete_=True, '))
    set_random_seed(7)
    model = build_model(load_config('plain.py'))
    model.init_weights()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim >= 1 and not name.startswith('data_preprocessor'):
                tensor.mul_(1 + 0.3 * torch.rand_like(tensor))
    torch.save(dict(state_dict=model.state_dict(), meta={}), 'plain.pth')
    return model, normalized


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs.flatten()]
    return [tensor for part in outputs for tensor in flat(part)]


def outputs(model, part=lambda model, x: model(x, mode='tensor')):
    model.eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return torch.cat(flat(part(model, x)))


def norm(tensors):
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


def run(config, capsys, work_dir='run', **changes):
    cfg = load_config(config, cfg_options=changes)
    cfg.update(work_dir=work_dir, launcher='none', randomness=dict(seed=0))
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='_AtTheFirstStep')]
    for key in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{key}_{part}'] = None
    runner = build_runner(cfg)
    runner.train()
    return runner, capsys.readouterr().out


LOADS = {
    'load_from': "load_from = 'plain.pth'\n",
    'model': "model = dict(init_cfg=dict(type='Pretrained', checkpoint='plain.pth'))\n",
    'backbone': (
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='plain.pth', prefix='backbone.')))\n"
    ),
}


# The quick ones: every task by one way, and every way for one task.
CASES = [
    pytest.param(task, load, marks=[] if load == 'load_from' or task == 'replaced' else pytest.mark.slow)
    for task in TASKS
    for load in LOADS
]


@pytest.mark.parametrize('task, load', CASES, indirect=['task'])
def test_the_child_starts_as_the_plain_model_with_the_checkpoint(task, load, first, capsys, forget_runs):
    plain, normalized = task
    Path('tuned.py').write_text(f"_base_ = ['plain.py']\n{LOADS[load]}")
    done = convert('tuned.py', 'new.py', size=64)
    assert len(done.weight_normalized) + len(done.classifiers) == normalized
    forget_runs()
    runner, log = run('new.py', capsys, **{'train_cfg.max_iters': 2})
    state = torch.load('plain.pth', weights_only=False)['state_dict']
    prefix = 'backbone.' if load == 'backbone' else ''
    loaded = {name: value for name, value in state.items() if name.startswith(prefix)}
    assert all(torch.equal(first[name], value) for name, value in loaded.items())

    # Every scale is the norm of its weight: loaded, or initialised.
    model = build_model(load_config('new.py'))
    model.load_state_dict(first)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, WeightNormalized)}
    assert len(layers) == normalized
    assert {name: m.g.item() for name, m in layers.items()} == pytest.approx(
        {name: norm([m.weight]) for name, m in layers.items()}, rel=1e-6
    )
    assert all(m.g.item() < m.scale_bound for m in layers.values())
    part = {} if load != 'backbone' else dict(part=lambda model, x: model.backbone(x))
    torch.testing.assert_close(outputs(model, **part), outputs(plain, **part), rtol=1e-4, atol=1e-4)
    if load != 'backbone':
        assert 'do not match' not in log
        assert 'missing keys' not in log
    target = norm(first[name] for name in done.in_set)
    assert runner.optim_wrapper.norm_fixer.target == pytest.approx(target, rel=1e-6)
    if load != 'backbone':
        assert target == pytest.approx(norm(state[name] for name in done.in_set), rel=1e-6)


@pytest.mark.parametrize('load', ['load_from', 'backbone'])
@pytest.mark.parametrize('task', ['replaced'], indirect=True)
def test_a_resumed_run_takes_no_norm_of_the_checkpoint_again(task, load, first, capsys, forget_runs):
    Path('tuned.py').write_text(f"_base_ = ['plain.py']\n{LOADS[load]}")
    convert('tuned.py', 'new.py', size=64)
    forget_runs()
    whole, _ = run('new.py', capsys, 'whole')
    forget_runs()
    half, _ = run('new.py', capsys, 'half', **{'train_cfg.max_iters': 2})
    target = half.optim_wrapper.norm_fixer.target
    forget_runs()
    # The checkpoint that the run began from may be gone: nothing of it is needed, or it is another one by now.
    state = torch.load('plain.pth', weights_only=False)
    torch.save(dict(state, state_dict={k: v * 5 for k, v in state['state_dict'].items()}), 'plain.pth')
    again, _ = run('new.py', capsys, 'half', resume=True, load_from=None)
    assert again.optim_wrapper.norm_fixer.target == target == whole.optim_wrapper.norm_fixer.target
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.parametrize('task', ['by its key', 'segmenter'], indirect=True)
def test_a_head_for_other_classes_starts_fresh_and_only_that_is_said(task, first, capsys, forget_runs):
    _, normalized = task
    state = torch.load('plain.pth', weights_only=False)['state_dict']
    heads = [name.removesuffix('.weight') for name in state if name.endswith(('fc.weight', 'conv_seg.weight'))]
    assert len(heads) == normalized
    for head in heads:  # seven classes, of another size
        for part in ('weight', 'bias'):
            state[f'{head}.{part}'] = 9 * torch.ones(7, *state[f'{head}.{part}'].shape[1:])
    torch.save(dict(state_dict=state), 'plain.pth')
    Path('tuned.py').write_text(f"_base_ = ['plain.py']\n{LOADS['load_from']}")
    done = convert('tuned.py', 'new.py', size=64)
    forget_runs()
    runner, log = run('new.py', capsys, **{'train_cfg.max_iters': 1})
    assert {line.split()[3].rstrip(':') for line in log.splitlines() if line.startswith('size mismatch')} == {
        f'{head}.{part}' for head in heads for part in ('weight', 'bias')
    }
    assert 'missing keys' not in log
    for head in heads:
        assert first[f'{head}.g'].item() == pytest.approx(norm([first[f'{head}.weight']]), rel=1e-6)
        assert first[f'{head}.g'].item() < 2
    rest = [name for name in done.in_set if name.removesuffix('.weight') not in heads]
    assert all(torch.equal(first[name], state[name]) for name in rest)
    target = norm([*(state[name] for name in rest), *(first[f'{head}.weight'] for head in heads)])
    assert runner.optim_wrapper.norm_fixer.target == pytest.approx(target, rel=1e-6)


@pytest.mark.parametrize('task', ['by its key'], indirect=True)
def test_a_loaded_scale_above_its_bound_is_said_with_the_factor(task, first, capsys, forget_runs):
    state = torch.load('plain.pth', weights_only=False)['state_dict']
    bound = math.sqrt(2)  # of alpha = 1 for two classes
    state['head.fc.weight'] *= 4 * bound / state['head.fc.weight'].norm()
    torch.save(dict(state_dict=state), 'plain.pth')
    Path('tuned.py').write_text(f"_base_ = ['plain.py']\n{LOADS['load_from']}")
    for alpha in (1.0, 4.1):
        convert('tuned.py', f'alpha_{alpha:.0f}.py', size=64, alpha=alpha)
        forget_runs()
        _, log = run(f'alpha_{alpha:.0f}.py', capsys, f'run_{alpha}', **{'train_cfg.max_iters': 2})
        assert ("The scale g of ['head.fc (1 / 4)'] is above its bound" in log) == (alpha == 1.0)
    # What is resumed went on with such a scale before, and is not warned of again.
    forget_runs()
    _, log = run('alpha_1.py', capsys, 'run_1.0', resume=True, load_from=None)
    assert 'is above its bound' not in log

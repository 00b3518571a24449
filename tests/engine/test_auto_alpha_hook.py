"""The bound of `g` that follows the measured risk. As a program with a folder: what a process of two does under DDP."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement
from torch import nn

from mmfixnorm.core import FixNormLinear
from mmfixnorm.engine import AutoAlphaHook

HOOK = dict(type='AutoAlphaHook', free=0.3, interval=1, average=3)
NAMES = ('alpha', 'scale_per_risk', 'risks')


def unbounded():
    torch.manual_seed(0)
    return FixNormLinear(6, 3, alpha=math.inf)


class Watch(Hook):
    """Writes down, at the end of each iteration, what the rule works on."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen, self.features = [], None

    def before_train(self, runner):
        runner.model.head.fc.register_forward_pre_hook(lambda _, args: setattr(self, 'features', args[0].detach()))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        fc = runner.model.head.fc
        labels = [int(sample.gt_label) for sample in data_batch['data_samples']]
        risk = risk_by_loops(self.features, labels, fc.weight)
        self.seen.append(SimpleNamespace(risk=risk, alpha=fc.alpha, g=fc.g.item(), bound=fc.scale_bound))


def risk_by_loops(features, labels, weight):
    """Equation 9, one sample and one class at a time, in float64."""
    weight, risks = weight.detach().double(), []
    for x, k in zip(features.double(), labels):
        others = [weight[j] - weight[k] for j in range(len(weight)) if j != k]
        cosines = [(x @ d / (x.norm() * d.norm())).item() if x.any() else 0.0 for d in others]
        risks.append(sum(cosines) / len(others))
    return sum(risks) / len(risks)


def train(toy_runner, toy_classifier, name='run', hooks=(HOOK,), lr=0.3, **kwargs):
    watch = Watch()
    model = toy_classifier(fc=unbounded())
    runner = toy_runner(name, epochs=5, lr=lr, model=model, custom_hooks=[*hooks, watch], **kwargs)
    runner.train()
    return runner, watch.seen


def test_alpha_is_what_a_slow_computation_of_the_rule_gives(toy_runner, toy_classifier):
    _, seen = train(toy_runner, toy_classifier)
    ratio, bounded = None, 0
    for i, now in enumerate(seen):
        risk = sum(s.risk for s in seen[max(0, i - 2) : i + 1]) / min(3, i + 1)
        if i + 1 < 0.3 * 15 or (ratio is None and risk >= 0):
            assert now.alpha == math.inf
            continue
        ratio = ratio or now.g / -risk
        assert now.alpha == pytest.approx(ratio * -risk / math.sqrt(3), rel=1e-4)
        bounded += now.g == pytest.approx(now.bound, rel=1e-6)
    assert bounded > 2
    assert len({now.alpha for now in seen}) > 5


def test_g_is_never_above_its_bound_and_would_be_without_the_hook(toy_runner, toy_classifier):
    _, seen = train(toy_runner, toy_classifier)
    assert all(now.g <= now.bound * (1 + 1e-6) for now in seen)
    _, free = train(toy_runner, toy_classifier, 'free', hooks=())
    assert free[-1].g > 1.1 * seen[-1].g


def test_before_its_share_of_the_training_is_over_nothing_changes(toy_runner, toy_classifier):
    one, _ = train(toy_runner, toy_classifier, 'one', hooks=[dict(HOOK, free=1.0, interval=2)])  # 15 is no multiple
    two, _ = train(toy_runner, toy_classifier, 'two', hooks=())
    for p, q in zip(one.model.parameters(), two.model.parameters()):
        assert torch.equal(p, q)
    assert one.model.head.fc.alpha == math.inf


def test_a_risk_that_rises_lowers_the_bound_and_one_that_is_no_risk_leaves_it():
    hook = AutoAlphaHook()
    hook._classifier = layer = unbounded()
    layer.set_scale_(2.0)
    alphas = []
    for risk in (0.1, math.nan, -0.2, -0.3, -0.1, 0.0, math.nan):
        hook._set_bound(risk)
        alphas.append(layer.alpha * math.sqrt(3))
    assert alphas == pytest.approx([math.inf, math.inf, 2.0, 3.0, 1.0, 1.0, 1.0])


def test_a_scale_that_is_not_positive_gives_no_bound():
    hook = AutoAlphaHook()
    hook._classifier = layer = unbounded()
    layer.set_scale_(-1.0)
    hook._set_bound(-0.2)
    assert layer.alpha == math.inf


def test_measurements_are_as_far_apart_as_the_interval(toy_runner, toy_classifier):
    runner, seen = train(toy_runner, toy_classifier, hooks=[dict(HOOK, interval=4, average=10)])
    state = torch.load(f'{runner.work_dir}/epoch_5.pth', weights_only=False)['auto_alpha']
    assert state['risks'] == pytest.approx([seen[i].risk for i in (3, 7, 11)], abs=1e-5)


def test_alpha_reaches_the_vis_backends_once_there_is_a_bound(toy_runner, toy_classifier):
    runner, seen = train(toy_runner, toy_classifier)
    expected = [now.alpha for now in seen if math.isfinite(now.alpha)]
    data, _ = runner.message_hub.get_scalar('train/alpha').data
    assert data.tolist() == pytest.approx(expected)


@pytest.mark.parametrize('share', [0.3, 0.7], ids=['bounded', 'still_free'])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(toy_runner, toy_classifier, share):
    def build(name, **kwargs):
        hooks = [dict(HOOK, free=share, interval=4)]  # so that the first two steps after the resume only hold
        return toy_runner(name, epochs=5, lr=0.3, model=toy_classifier(fc=unbounded()), custom_hooks=hooks, **kwargs)

    straight = build('straight')
    straight.train()
    half = build('half')
    half.train_loop._max_epochs = 3  # as if it were killed, under the same schedule
    half.train()
    again = build('again', load_from=f'{half.work_dir}/epoch_3.pth', resume=True)
    again.train()
    one, two = (torch.load(f'{r.work_dir}/epoch_5.pth', weights_only=False) for r in (straight, again))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name
    assert tuple(one['auto_alpha']) == NAMES
    assert one['auto_alpha'] == two['auto_alpha']
    assert math.isfinite(one['auto_alpha']['alpha'])


def test_the_weights_of_a_checkpoint_compute_the_same_without_knowing_alpha(toy_runner, toy_classifier, toy_data):
    runner, seen = train(toy_runner, toy_classifier)
    assert seen[11].g == pytest.approx(seen[11].bound, rel=1e-6)  # the end of epoch 4
    checkpoint = torch.load(f'{runner.work_dir}/epoch_4.pth', weights_only=False)
    logits = []
    for alpha in (math.inf, checkpoint['auto_alpha']['alpha']):
        model = toy_classifier(fc=FixNormLinear(6, 3, alpha=alpha)).eval()
        model.load_state_dict(checkpoint['state_dict'])
        logits.append(model(toy_data().inputs))
    torch.testing.assert_close(*logits)


def test_resume_from_a_run_without_the_hook_is_refused(toy_runner, toy_classifier):
    first, _ = train(toy_runner, toy_classifier, 'first', hooks=())
    with pytest.raises(ValueError, match="no state 'auto_alpha'"):
        train(toy_runner, toy_classifier, 'second', load_from=f'{first.work_dir}/epoch_5.pth', resume=True)


@pytest.mark.parametrize(
    'fc, message',
    [
        (FixNormLinear(6, 3, alpha=2.0), r"none \(math.inf\), got FixNormLinear\(.*alpha=2.0\); .* alpha='auto'"),
        (nn.Linear(6, 3), r'none \(math.inf\), got Linear\('),
    ],
    ids=['number', 'plain'],
)
def test_a_layer_that_has_a_bound_or_can_have_none_is_refused(toy_runner, toy_classifier, fc, message):
    with pytest.raises(ValueError, match=message):
        toy_runner(model=toy_classifier(fc=fc), custom_hooks=[HOOK]).train()


def test_mixed_labels_are_refused(toy_runner, toy_classifier):
    model = toy_classifier(fc=unbounded())
    model.data_preprocessor.batch_augments = object()
    with pytest.raises(ValueError, match='remove model.data_preprocessor.batch_augments'):
        toy_runner(model=model, custom_hooks=[HOOK]).train()


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(free=0.0), r'free must be a share of the training in \(0, 1\], got 0.0'),
        (dict(free=math.nan), 'got nan'),
        (dict(free=10), 'got 10'),
        (dict(interval=0), 'interval and average must be >= 1, got 0 and 10'),
        (dict(average=-1), 'got 5 and -1'),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=f'AutoAlphaHook.*{message}'):
        AutoAlphaHook(**kwargs)


def auto_head():
    pytest.importorskip('mmpretrain')
    from mmfixnorm.cls import FixNormLinearClsHead

    return FixNormLinearClsHead(num_classes=3, in_channels=6, alpha='auto')


def loss(head):
    from mmpretrain.structures import DataSample

    return head.loss((torch.ones(2, 6),), [DataSample().set_gt_label(i) for i in range(2)])['loss']


def test_a_head_that_waits_for_alpha_is_trained_with_the_hook_only(toy_runner, toy_classifier):
    model = toy_classifier()
    model.head = auto_head()
    with pytest.raises(ValueError, match=r"alpha='auto' .* add dict\(type='AutoAlphaHook'\) to custom_hooks"):
        loss(model.head)
    runner = toy_runner(epochs=5, lr=0.3, model=model, custom_hooks=[HOOK])
    runner.train()
    assert math.isfinite(runner.model.head.alpha)
    assert torch.isfinite(loss(runner.model.head))


def test_another_word_for_alpha_is_refused():
    head = type(auto_head())
    with pytest.raises(ValueError, match="alpha must be > 0 or 'auto', got 'none'"):
        head(num_classes=3, in_channels=6, alpha='none')


@pytest.mark.slow
def test_two_processes_set_the_same_bound_from_the_mean_of_their_risks(tmp_path):
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', __file__, str(tmp_path)],
        check=True,
        cwd=root,
        env={**os.environ, 'PYTHONPATH': f'{root}:{root}/tests', 'OMP_NUM_THREADS': '1'},
        timeout=300,
    )
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=False) for rank in range(2))
    assert first['own'] != second['own']
    assert first['state'] == second['state']
    means = [(a + b) / 2 for a, b in zip(first['own'], second['own'])]
    assert first['state']['risks'] == pytest.approx(means[-10:], abs=1e-6)
    assert torch.equal(first['g'], second['g'])


def main(out):
    """Ten steps of a linear model under DDP; each process has half of each batch."""
    import torch.distributed as dist
    from gloo import leave_group
    from mmengine.model import MMDistributedDataParallel

    dist.init_process_group('gloo')
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), unbounded())
    model = MMDistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    hook, own = AutoAlphaHook(interval=1), []
    hub = SimpleNamespace(update_scalar=lambda name, value: None)
    runner = SimpleNamespace(model=model, iter=0, max_iters=20, message_hub=hub)
    hook.before_train(runner)
    generator = torch.Generator().manual_seed(1)
    for runner.iter in range(20):
        labels = torch.randint(3, (16,), generator=generator)
        inputs = torch.randn(16, 4, generator=generator) + torch.eye(3, 4)[labels] * 2
        x, y = inputs[rank::2], labels[rank::2]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            own.append(risk_by_loops(hook._features, y.tolist(), net[2].weight))
        samples = [BaseDataElement(gt_label=label.reshape(1)) for label in y]
        hook.after_train_iter(runner, runner.iter, dict(data_samples=samples))
    checkpoint: dict = {}
    hook.before_save_checkpoint(runner, checkpoint)
    assert math.isfinite(hook.alpha)
    torch.save(dict(own=own, state=checkpoint['auto_alpha'], g=net[2].g.detach()), f'{out}/{rank}.pth')
    leave_group()


if __name__ == '__main__':
    main(sys.argv[1])

"""What WeightNormLoggerHook logs of the steps, against float64 arithmetic on the weights around each."""

import functools
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import HOOKS

from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.errors import ConfigError

FIXNORM = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
PLAIN = dict(type='OptimWrapper')
DECAY = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1)
ADAMW = dict(type='AdamW', lr=0.01, weight_decay=0.1)
OF_STEP = ('angle', 'angle_median', 'angle_largest', 'radial_share')
REGIMES = {
    'fixnorm': FIXNORM,
    'fixnorm, AdamW': FIXNORM | dict(optimizer=dict(type='AdamW', lr=0.01)),
    'by angle': FIXNORM | dict(update='angle'),
    'per layer': dict(
        type='PerLayerFixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor', targets='equal'
    ),
    'weight decay': PLAIN | dict(optimizer=DECAY),
    'weight decay, AdamW': PLAIN | dict(optimizer=ADAMW),
    'FixNormHook': PLAIN,
}


@HOOKS.register_module(force=True)
class _Recorder(Hook):
    """Keeps the weights before the first iteration and after each."""

    priority = 'LOWEST'

    def __init__(self, history):
        self.history = history

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.history:
            self._keep(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._keep(runner)

    def _keep(self, runner):
        named = norm_fixing_parameters(runner.model)
        self.history.append({name: p.detach().double().ravel().clone() for name, p in named.items()})


def hooks(history, *others, **options):
    return [
        dict(type='WeightNormLoggerHook', **dict(interval=1) | options),
        *others,
        dict(type='_Recorder', history=history),
    ]


def lines(runner, part=None):
    """The lines of the vis backend: training lines, or those of the layers."""
    (path,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    parsed = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in parsed if ('iter' in line) is (part is None)]


def listen(runner):
    """Have the log write its messages of level INFO too."""
    for logger in (runner.logger, *runner.logger.handlers):
        logger.setLevel('INFO')


def angle(a, b):
    return math.acos(min(1.0, (a @ b / a.norm() / b.norm()).item()))


def joint(weights):
    return torch.cat([*weights.values()])


@pytest.mark.parametrize('wrapper', REGIMES.values(), ids=REGIMES)
def test_twenty_steps_are_logged_with_their_angles(toy_runner, wrapper, request):
    import mmfixnorm.peers  # noqa: F401

    history, others = [], []
    if request.node.callspec.id == 'FixNormHook':
        others = [dict(type='FixNormHook')]
    runner = toy_runner(epochs=7, wrapper=wrapper, custom_hooks=hooks(history, *others, start=True))
    runner.train()
    written, of_layers = lines(runner), lines(runner, 'layers')
    assert len(written) == len(of_layers) == 21
    for before, after, line, layers in zip(history, history[1:], written, of_layers):
        # Weights are float32: a step turns them as they are stored, and rounding by 1e-7 is not seen at these angles.
        expected = {name: angle(before[name], after[name]) for name in before}
        assert line['angle'] == pytest.approx(angle(joint(before), joint(after)), rel=1e-4)
        assert line['angle_largest'] == pytest.approx(max(expected.values()), rel=1e-4)
        assert line['angle_median'] == pytest.approx(sorted(expected.values())[1], rel=1e-4)
        assert {n: layers[f'angle/{n}'] for n in expected} == pytest.approx(expected, rel=1e-4)
        assert line['cosine_to_start'] == pytest.approx(math.cos(angle(joint(history[0]), joint(after))), abs=1e-6)
        assert 0 <= line['radial_share'] <= 1


def test_the_radial_share_is_of_the_step_before_norm_fixing(toy_runner):
    """Without norm fixing and with it, the first step that SGD proposes is the same, and across the weights."""
    shares = []
    for name, wrapper in dict(plain=PLAIN | dict(optimizer=DECAY), fixnorm=FIXNORM | dict(optimizer=DECAY)).items():
        history: list = []
        runner = toy_runner(name, epochs=1, wrapper=wrapper, custom_hooks=hooks(history))
        runner.train()
        shares.append(lines(runner)[0]['radial_share'])
        if name == 'plain':
            w = joint(history[0])
            d = joint(history[1]) - w
    assert shares[0] == pytest.approx(abs(w @ d).item() / (w.norm() * d.norm()).item(), rel=1e-4)
    assert shares[0] > 0.01  # the decay
    assert shares[1] != shares[0]  # the constructor sets the decay of the set to 0


def test_lines_between_two_measurements_have_no_angle(toy_runner):
    runner = toy_runner(custom_hooks=[dict(type='WeightNormLoggerHook', interval=2, start=True)])
    runner.train()
    for name in (*OF_STEP, 'cosine_to_start', 'weight_norm', 'effective_lr'):
        assert [line['step'] for line in lines(runner) if name in line] == [2, 3, 5, 6], name


def test_the_angle_is_measured_for_any_optimizer_and_only_if_it_is_wanted(toy_runner):
    runner = toy_runner(custom_hooks=[dict(type='WeightNormLoggerHook', interval=1, angle=False)])
    runner.train()
    assert all('weight_norm' in line and 'effective_lr' in line for line in lines(runner))
    keys = {key for line in [*lines(runner), *lines(runner, 'layers')] for key in line}
    assert not [key for key in keys if key.startswith(('angle', 'radial', 'cosine'))]


def test_an_iteration_that_accumulates_gradients_has_no_angle(toy_runner):
    history = []
    wrapper = FIXNORM | dict(accumulative_counts=2)
    runner = toy_runner(wrapper=wrapper, custom_hooks=hooks(history))
    runner.train()
    for name in OF_STEP:
        assert [line['step'] for line in lines(runner) if name in line] == [2, 4, 6], name
    assert [line['step'] for line in lines(runner, 'layers') if 'angle/head.fc.weight' in line] == [2, 4, 6]
    assert len([line for line in lines(runner) if 'weight_norm' in line]) == 6
    assert lines(runner)[3]['angle'] == pytest.approx(angle(joint(history[3]), joint(history[4])), rel=1e-4)


@pytest.mark.parametrize('fused', [False, True], ids=['plain', 'fused'])
def test_a_step_that_the_loss_scaler_skips_has_no_angle(toy_runner, toy_classifier, monkeypatch, fused):
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip(f'torch {torch.__version__} has no loss scaler for the CPU')
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    scaler = functools.partial(torch.amp.GradScaler, device='cpu', init_scale=8.0)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    model, history = toy_classifier(), []
    train_step = model.train_step

    def sometimes_infinite(data, optim_wrapper):
        factor = math.inf if len(history) in (2, 5) else 1.0  # iterations 2 and 5
        update = optim_wrapper.update_params
        with monkeypatch.context() as patch:
            patch.setattr(optim_wrapper, 'update_params', lambda loss, **kwargs: update(loss * factor, **kwargs))
            return train_step(data, optim_wrapper)

    model.train_step = sometimes_infinite
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, fused=fused)
    wrapper = FIXNORM | dict(type='FixNormAmpOptimWrapper', optimizer=optimizer)
    runner = toy_runner(model=model, wrapper=wrapper, custom_hooks=hooks(history))
    runner.train()
    assert torch.equal(joint(history[1]), joint(history[2]))
    assert [line['step'] for line in lines(runner) if 'angle' in line] == [1, 3, 4, 6]


def test_the_cosine_to_the_start_goes_on_after_a_resume(toy_runner):
    hook = [dict(type='WeightNormLoggerHook', interval=1, start=True)]
    straight = toy_runner('straight', epochs=3, custom_hooks=hook)
    straight.train()
    first = toy_runner('first', epochs=1, custom_hooks=hook)
    first.train()
    resume = dict(load_from=f'{first.work_dir}/epoch_1.pth', resume=True)
    second = toy_runner('second', epochs=3, custom_hooks=hook, **resume)
    second.train()
    expected = [line['cosine_to_start'] for line in lines(straight)]
    assert [line['cosine_to_start'] for runner in (first, second) for line in lines(runner)] == expected
    assert expected[-1] < expected[0] < 1
    assert 'weights_at_start' in torch.load(f'{second.work_dir}/epoch_3.pth', weights_only=False)


@pytest.mark.parametrize('options', [{}, dict(start=False)])
def test_a_checkpoint_has_no_start_by_default(toy_runner, options):
    runner = toy_runner(epochs=1, custom_hooks=[dict(type='WeightNormLoggerHook', **options)])
    runner.train()
    assert 'weights_at_start' not in torch.load(f'{runner.work_dir}/epoch_1.pth', weights_only=False)


def test_a_run_that_resumes_without_its_start_says_so_and_logs_no_cosine(toy_runner, capsys):
    first = toy_runner('first', epochs=1)
    first.train()
    resume = dict(load_from=f'{first.work_dir}/epoch_1.pth', resume=True)
    hook = [dict(type='WeightNormLoggerHook', interval=1, start=True)]
    second = toy_runner('second', custom_hooks=hook, **resume)
    second.train()
    assert 'does not have the weights at the start of its run' in capsys.readouterr().out
    assert not any('cosine_to_start' in line for line in lines(second))
    assert all('angle' in line for line in lines(second))


def test_a_start_of_other_weights_is_refused(toy_runner):
    hook = [dict(type='WeightNormLoggerHook', interval=1, start=True)]
    first = toy_runner('first', epochs=1, custom_hooks=hook)
    first.train()
    file = f'{first.work_dir}/epoch_1.pth'
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint['weights_at_start']['head.fc.weight']
    torch.save(checkpoint, file)
    second = toy_runner('second', custom_hooks=hook, load_from=file, resume=True)
    with pytest.raises(ConfigError, match=r'start of 1 weights of this model \(head\.fc\.weight, \.\.\.\)'):
        second.train()


def test_weights_loaded_without_resuming_are_the_start(toy_runner):
    hook = [dict(type='WeightNormLoggerHook', interval=1, start=True)]
    first = toy_runner('first', epochs=1, custom_hooks=hook)
    first.train()
    history = []
    loaded = dict(load_from=f'{first.work_dir}/epoch_1.pth')
    second = toy_runner('second', epochs=1, custom_hooks=hooks(history, start=True), **loaded)
    second.train()
    expected = math.cos(angle(joint(history[0]), joint(history[-1])))
    assert lines(second)[-1]['cosine_to_start'] == pytest.approx(expected, abs=1e-6)


def test_the_text_log_names_the_weight_that_turns_most_when_it_changes(toy_runner, capsys):
    history = []
    runner = toy_runner(custom_hooks=hooks(history, per_layer=False))
    listen(runner)
    runner.train()
    said = [line for line in capsys.readouterr().out.splitlines() if 'most of all weights' in line]
    expected, last = [], None
    for number, (before, after) in enumerate(itertools.pairwise(history), start=1):
        angles = {name: angle(before[name], after[name]) for name in before}
        name = max(angles, key=angles.__getitem__)
        if name != last:
            expected.append(
                f'Iteration {number}: the step turned {name} most of all weights, by {angles[name]:.3g} rad'
            )
        last = name
    assert [line.partition('INFO - ')[2] for line in said] == expected
    assert not lines(runner, 'layers')


def test_layers_that_all_turn_by_the_same_angle_have_no_first(toy_runner, capsys):
    runner = toy_runner(wrapper=FIXNORM | dict(update='angle'), custom_hooks=hooks([]))
    listen(runner)
    runner.train()
    assert 'most of all weights' not in capsys.readouterr().out

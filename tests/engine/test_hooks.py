import json
import logging
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from mmfixnorm.core import cross_boundary_risk
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norm_fixing import norm_fixing_parameters
from mmfixnorm.engine.hooks.cross_boundary_risk_hook import find_classifier
from mmfixnorm.errors import ConfigError
from mmfixnorm.peers import HyperballOptimWrapper, RotationalOptimWrapper  # noqa: F401  # registers them


def norm(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors]).norm().item()


def lines(runner):
    """What the vis backend wrote, line by line."""
    (path,) = Path(runner.work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(runner):
    """What the vis backend wrote: name -> values."""
    written: dict = {}
    for line in lines(runner):
        for name, value in line.items():
            written.setdefault(name, []).append(value)
    return written


def test_hook_does_what_the_wrapper_does(toy_runner):
    by_wrapper = toy_runner('wrapper')
    one = by_wrapper.train()
    by_hook = toy_runner('hook', wrapper=dict(type='OptimWrapper'), custom_hooks=[dict(type='FixNormHook')])
    two = by_hook.train()
    for p, q in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert norm(flagged(by_hook.optim_wrapper.optimizer)) == pytest.approx(
        by_wrapper.optim_wrapper.norm_fixer.target, rel=1e-6
    )


@HOOKS.register_module(force=True)
class _Stretch(Hook):
    """Writes to the weights behind the back of norm fixing."""

    priority = 'VERY_HIGH'

    def after_train_epoch(self, runner):
        with torch.no_grad():
            runner.model.backbone[0].weight.mul_(1.5)


@pytest.mark.parametrize('stretched', [True, False])
@pytest.mark.parametrize('wrapper', [dict(), dict(wrapper=dict(type='OptimWrapper'))], ids=['wrapper', 'hook'])
def test_a_norm_that_has_left_its_target_is_an_error_of_the_log(toy_runner, wrapper, stretched, capsys):
    hooks = [dict(type='_Stretch')] * stretched + [dict(type='FixNormHook')] * bool(wrapper)
    toy_runner(epochs=1, custom_hooks=hooks, **wrapper).train()
    assert ('The norm of the weights to fix is ' in capsys.readouterr().out) is stretched


def test_hook_and_wrapper_together_are_refused(toy_runner):
    with pytest.raises(ValueError, match="set up twice: FixNormHook.*type='FixNormOptimWrapper'"):
        toy_runner(custom_hooks=[dict(type='FixNormHook')]).train()


def test_hook_refuses_to_resume_a_run_without_norm_fixing(toy_runner):
    plain = dict(type='OptimWrapper')
    first = toy_runner('first', epochs=1, wrapper=plain)
    first.train()
    with pytest.raises(ValueError, match="no state 'fix_norm'"):
        toy_runner(
            'second',
            wrapper=plain,
            custom_hooks=[dict(type='FixNormHook')],
            load_from=f'{first.work_dir}/epoch_1.pth',
            resume=True,
        ).train()


@pytest.mark.parametrize('change', [dict(exclude=['backbone.3']), dict(fc=False)], ids=str)
@pytest.mark.parametrize('back', [False, True], ids=['less', 'more'])
def test_hook_refuses_to_resume_with_options_that_choose_another_set(toy_runner, change, back):
    def train(work_dir, options, **kwargs):
        hooks = [dict(type='FixNormHook', **options)]
        runner = toy_runner(work_dir, epochs=1, wrapper=dict(type='OptimWrapper'), custom_hooks=hooks, **kwargs)
        runner.train()
        return f'{runner.work_dir}/epoch_1.pth'

    ours, theirs = ({}, change)[:: -1 if back else 1]
    file = train('first', ours)
    changed = 'head.fc.weight' if 'fc' in change else 'backbone.3.weight'
    has = ('none of them', changed)[:: 1 if back else -1]
    with pytest.raises(ConfigError, match=f'the checkpoint has {has[0]}, this run has {has[1]}. Resume with the con'):
        train('second', theirs, load_from=file, resume=True)
    train('third', ours, load_from=file, resume=True)


def test_hook_names_unfit_layers_as_the_constructor_does(toy_runner, toy_classifier, capsys):
    model = toy_classifier(fc=nn.Linear(6, 3))
    toy_runner(
        wrapper=dict(type='OptimWrapper'), model=model, epochs=1, custom_hooks=[dict(type='FixNormHook')]
    ).train()
    assert "plain linear layers: ['head.fc']" in capsys.readouterr().out


# By hand: what stands in configs does not change with the table of the code.
FORMER_NAMES = [('WeightNormLoggerHook', 'WeightNormHook'), ('WNScaleInitHook', 'ScaleInitHook')]


@pytest.mark.parametrize('name, former', FORMER_NAMES)
def test_a_config_with_the_former_name_of_a_hook_builds_the_hook(name, former):
    hook = HOOKS.build(dict(type=former))
    assert type(hook) is type(HOOKS.build(dict(type=name)))
    assert type(hook).__name__ == name


def test_scale_init_hook_fills_scales_that_were_written_around(toy_runner, toy_classifier):
    seen = []

    @HOOKS.register_module(name='ScaleProbe', force=True)
    class ScaleProbe(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            layer = runner.model.head.fc
            seen.append(layer.g.item() / layer.weight.norm().item())

    for hooks in ([], [dict(type='WNScaleInitHook')]):
        model = toy_classifier()
        model._is_init = True
        with torch.no_grad():
            model.head.fc.weight.mul_(3)
        probe = [*hooks, dict(type='ScaleProbe')]
        toy_runner(wrapper=dict(type='OptimWrapper'), model=model, epochs=1, custom_hooks=probe).train()
    assert seen[0] == pytest.approx(1 / 3)
    assert seen[3] == pytest.approx(1)


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'FixNormOptimWrapper'])
def test_weight_without_a_direction_is_refused_before_training(toy_runner, toy_classifier, wrapper):
    model = toy_classifier()
    model._is_init = True
    nn.init.zeros_(model.head.fc.weight)
    cfg = dict(type=wrapper)
    if wrapper != 'OptimWrapper':
        cfg['constructor'] = 'FixNormOptimWrapperConstructor'
    with pytest.raises(ConfigError, match=r'model: head\.fc\.weight: .* > 0, got 0'):
        toy_runner(wrapper=cfg, model=model, custom_hooks=[dict(type='WNScaleInitHook')]).train()


def test_weight_norms_and_effective_lr_reach_the_vis_backends(toy_runner):
    runner = toy_runner(custom_hooks=[dict(type='WeightNormLoggerHook', interval=1)])
    model = runner.train()
    written = scalars(runner)
    target = runner.optim_wrapper.norm_fixer.target
    assert written['weight_norm'] == pytest.approx([target] * 6, rel=1e-5)
    assert written['effective_lr'] == pytest.approx([0.1 / target**2] * 6, rel=1e-5)
    for name, weight in norm_fixing_parameters(model).items():
        assert len(written[f'weight_norm/{name}']) == 6
        assert written[f'weight_norm/{name}'][-1] == pytest.approx(norm([weight]), rel=1e-5)


def test_weight_norm_of_a_run_without_fixing_is_seen_to_move(toy_runner):
    hooks = [dict(type='WeightNormLoggerHook', interval=1, per_layer=False, fc=False)]
    runner = toy_runner(wrapper=dict(type='OptimWrapper'), custom_hooks=hooks)
    model = runner.train()
    values = scalars(runner)['weight_norm']
    assert values[-1] == pytest.approx(norm(norm_fixing_parameters(model, fc=False).values()), rel=1e-5)
    assert abs(values[-1] / values[0] - 1) > 1e-3


@pytest.mark.parametrize('hook', ['WeightNormLoggerHook', 'CrossBoundaryRiskHook'])
def test_lines_between_two_measurements_have_none(toy_runner, hook):
    # Steps 2, 4 and, at the end of each epoch of 3 steps, 3 and 6; LoggerHook writes a line for each step.
    first = toy_runner('first', epochs=1, custom_hooks=[dict(type=hook, interval=2)])
    first.train()
    resumed = dict(load_from=f'{first.work_dir}/epoch_1.pth', resume=True)
    second = toy_runner('second', custom_hooks=[dict(type=hook, interval=2)], **resumed)
    second.train()
    names = dict(WeightNormLoggerHook=['weight_norm', 'effective_lr'], CrossBoundaryRiskHook=['mcbr', 'g', 'g_bound'])
    for name in names[hook]:
        steps = [line['step'] for runner in (first, second) for line in lines(runner) if name in line]
        assert steps == [2, 3, 5, 6], name


@pytest.mark.parametrize('optimizer', [dict(type='SGD', lr=0.1), dict(type='Adam', lr=0.1), dict(type='AdamW', lr=0.1)])
@pytest.mark.parametrize(
    'kind',
    [
        dict(type='FixNormOptimWrapper'),
        dict(type='FixNormOptimWrapper', update='angle'),
        dict(type='HyperballOptimWrapper'),
        dict(type='RotationalOptimWrapper', weight_decay=0.01),
    ],
    ids=str,
)
def test_the_effective_lr_is_logged_for_plain_sgd_alone(toy_runner, optimizer, kind):
    wrapper = dict(constructor='FixNormOptimWrapperConstructor', optimizer=optimizer) | kind
    runner = toy_runner(epochs=1, wrapper=wrapper, custom_hooks=[dict(type='WeightNormLoggerHook', interval=1)])
    runner.train()
    written = scalars(runner)
    assert len(written['weight_norm']) == 3
    assert ('effective_lr' in written) is (optimizer['type'] == 'SGD' and kind == dict(type='FixNormOptimWrapper'))


@pytest.mark.parametrize('plain', [False, True], ids=['fixnorm', 'plain_fc'])
def test_cross_boundary_risk_matches_a_computation_by_hand(toy_runner, toy_classifier, toy_data, plain):
    model = toy_classifier(fc=nn.Linear(6, 3) if plain else None)
    hooks = [dict(type='CrossBoundaryRiskHook', interval=1)]
    runner = toy_runner(model=model, val=True, custom_hooks=hooks)
    runner.train()
    model.eval()
    data = toy_data()
    features = model.backbone(data.inputs).mean((2, 3))
    expected = cross_boundary_risk(features, data.labels, model.head.fc.weight).item()
    assert runner.message_hub.get_scalar('val/mcbr').current() == pytest.approx(expected, abs=1e-5)
    written = scalars(runner)
    assert len(written['g']) == 6 + 2
    fc = model.head.fc
    assert written['g'][-1] == pytest.approx((fc.weight.norm() if plain else fc.g).item(), rel=1e-5)
    assert ('g_bound' in written) is not plain
    # train and validation values share the tag `mcbr` in the backends, as every metric of mmengine does
    assert len(written['mcbr']) == 6 + 2
    assert all(-1 <= value <= 1 for value in written['mcbr'])


@pytest.mark.parametrize('last', [False, True])
def test_risk_and_scale_of_averaged_weights_are_those_of_the_first_pass(toy_runner, toy_data, last):
    hooks = [dict(type='FixNormEMAHook', momentum=0.1, evaluate_on_origin=True), dict(type='CrossBoundaryRiskHook')]
    runner = toy_runner(lr=1.0, val=True, custom_hooks=hooks[:: -1 if last else 1])
    runner.train()
    (ema,) = [hook for hook in runner.hooks if hasattr(hook, 'ema_model')]
    ema.before_val_epoch(runner)
    model, data = runner.model.eval(), toy_data()
    features = model.backbone(data.inputs).mean((2, 3))
    risk = cross_boundary_risk(features, data.labels, model.head.fc.weight).item()
    for name, value in dict(mcbr=risk, g=model.head.fc.g.item()).items():
        assert runner.message_hub.get_scalar(f'val/{name}').current() == pytest.approx(value, abs=1e-5), name


def test_training_risk_is_of_the_features_of_the_batch(toy_runner, toy_classifier, toy_data):
    model = toy_classifier()
    runner = toy_runner(model=model, epochs=1, lr=0.0, batch_size=24, custom_hooks=[dict(type='CrossBoundaryRiskHook')])
    runner.train()
    data = toy_data()
    model.train()
    expected = cross_boundary_risk(model.backbone(data.inputs).mean((2, 3)), data.labels, model.head.fc.weight)
    assert scalars(runner)['mcbr'] == pytest.approx([expected.item()], abs=1e-5)


def test_risk_is_not_measured_where_labels_are_mixed(toy_runner, toy_classifier, caplog):
    model = toy_classifier()
    model.data_preprocessor.batch_augments = object()
    runner = toy_runner(model=model, custom_hooks=[dict(type='CrossBoundaryRiskHook', interval=1)])
    logging.getLogger().addHandler(caplog.handler)
    runner.train()
    assert 'mcbr' not in scalars(runner)
    assert len(scalars(runner)['g']) == 6


@pytest.mark.parametrize('layer', [None, 'backbone.0', 'nope'])
def test_model_without_a_final_linear_layer_is_refused(layer):
    model = nn.Sequential(nn.Conv2d(1, 1, 1)) if layer is None else nn.ModuleDict({'backbone': nn.Sequential()})
    with pytest.raises(ValueError, match=f'layer={layer!r} is not a linear layer of the model'):
        find_classifier(model, layer)


def test_average_is_evaluated_and_saved_at_full_norm(toy_runner):
    """The mean of weights that wander over a sphere is shorter than its radius; evaluation must not see that."""
    seen = {}

    def run(name, hook):
        runner = toy_runner(name, lr=3.0, val=True, epochs=4, custom_hooks=[dict(type=hook, momentum=0.1)])
        names = set(norm_fixing_parameters(runner.model))
        runner.register_hook(dict(type='_Probe', names=names, seen=seen.setdefault(name, [])))
        runner.train()
        state = torch.load(f'{runner.work_dir}/epoch_4.pth', weights_only=False)['state_dict']
        return runner, norm([state[n] for n in names])

    plain, plain_saved = run('plain', 'EMAHook')
    ours, ours_saved = run('ours', 'FixNormEMAHook')
    target = ours.optim_wrapper.norm_fixer.target
    assert seen['plain'][-1] < 0.99 * target
    assert plain_saved < 0.99 * target
    assert seen['ours'] == pytest.approx([target] * 4, rel=1e-5)
    assert ours_saved == pytest.approx(target, rel=1e-5)
    # The average itself goes on untouched, and so does the training.
    for p, q in zip(plain.model.parameters(), ours.model.parameters()):
        assert torch.equal(p, q)
    averages = [next(h for h in r.hooks if hasattr(h, 'ema_model')).ema_model for r in (plain, ours)]
    for p, q in zip(*(a.parameters() for a in averages)):
        assert torch.equal(p, q)


@pytest.mark.parametrize('by_hook', [False, True], ids=['wrapper', 'hook'])
@pytest.mark.parametrize('on', [dict(evaluate_on_origin=True), dict(evaluate_on_ema=False)], ids=str)
def test_trained_weights_are_evaluated_as_by_the_hook_of_mmpretrain(toy_runner, on, by_hook):
    pytest.importorskip('mmpretrain')
    import mmpretrain.engine  # noqa: F401  # registers it

    def of_trained_weights(name, kind):
        """What is reported of them by the four validations of a training and by a test of its checkpoint."""
        hooks = [dict(type=kind, momentum=0.1, **on)] + ([dict(type='FixNormHook')] if by_hook else [])
        kwargs = dict(epochs=4, lr=3.0, val=True, custom_hooks=hooks)
        kwargs |= dict(wrapper=dict(type='OptimWrapper')) if by_hook else {}
        trained = toy_runner(name, **kwargs)
        trained.train()
        loops = dict(test_dataloader=trained.val_dataloader, test_evaluator=trained.val_evaluator, test_cfg=dict())
        file = str(Path(trained.work_dir) / 'epoch_4.pth')
        tested = toy_runner(f'{name}_test', **kwargs, load_from=file, **loops)
        result = tested.test()
        suffix = '_origin' if 'evaluate_on_origin' in on else ''
        found = list(trained.message_hub.get_scalar(f'val/accuracy{suffix}').data[0])
        return found, tested.message_hub.get_scalar(f'test/accuracy{suffix}').current() if suffix else result

    ours = of_trained_weights('ours', 'FixNormEMAHook')
    assert ours == of_trained_weights('theirs', 'mmpretrain.EMAHook')
    assert len(ours[0]) == 4


def test_a_checkpoint_is_validated_alone_with_both_hooks(toy_runner):
    kwargs = dict(
        epochs=1,
        val=True,
        wrapper=dict(type='OptimWrapper'),
        custom_hooks=[dict(type='FixNormEMAHook', momentum=0.1), dict(type='FixNormHook')],
    )
    trained = toy_runner('trained', **kwargs)
    trained.train()
    alone = toy_runner('alone', **kwargs, load_from=str(Path(trained.work_dir) / 'epoch_1.pth'))
    assert alone.val()['accuracy'] == trained.message_hub.get_scalar('val/accuracy').current()


@pytest.mark.parametrize('mode', ['val', 'test'])
def test_average_at_full_norm_leaves_no_trace(toy_runner, mode):
    runner = toy_runner(lr=3.0, custom_hooks=[dict(type='FixNormEMAHook', momentum=0.1)])
    model = runner.train()
    (hook,) = [h for h in runner.hooks if hasattr(h, 'ema_model')]
    before = [p.detach().clone() for m in (model, hook.ema_model) for p in m.parameters()]
    in_set = norm_fixing_parameters(model).values()
    getattr(hook, f'before_{mode}_epoch')(runner)
    assert not torch.equal(next(model.parameters()), before[0])  # the average is in place
    assert norm(in_set) == pytest.approx(runner.optim_wrapper.norm_fixer.target, rel=1e-6)
    getattr(hook, f'after_{mode}_epoch')(runner)
    after = [p for m in (model, hook.ema_model) for p in m.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(after, before))


EMA_REGIMES = {
    'default': dict(momentum=0.1),
    'buffers too': dict(momentum=0.1, update_buffers=True),
    'annealed': dict(ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=2),
    'plain mean': dict(ema_type='StochasticWeightAverage'),
    'from the second epoch': dict(momentum=0.1, begin_epoch=1),
    'from within the first epoch': dict(momentum=0.1, begin_iter=2),
    'every other step': dict(momentum=0.1, interval=2),
    'with FixNormHook': dict(momentum=0.1, wrapper=dict(type='OptimWrapper')),
}


def average_of(runner):
    (hook,) = [h for h in runner.hooks if hasattr(h, 'ema_model')]
    return hook.ema_model


def train_average(toy_runner, name, epochs, resume=None, wrapper=None, **ema):
    """Train with averaged weights and validation, which exchanges them."""
    hooks = [dict(type='FixNormEMAHook', **ema)] + ([dict(type='FixNormHook')] if wrapper else [])
    kwargs = {} if wrapper is None else dict(wrapper=wrapper)
    if resume is not None:
        kwargs.update(load_from=str(resume), resume=True)
    runner = toy_runner(name, epochs, lr=1.0, val=True, custom_hooks=hooks, **kwargs)
    runner.train()
    return runner, Path(runner.work_dir) / f'epoch_{epochs}.pth'


@pytest.mark.parametrize('regime', EMA_REGIMES.values(), ids=EMA_REGIMES)
def test_average_interrupted_twice_has_the_bits_of_a_straight_run(toy_runner, regime):
    straight, expected = train_average(toy_runner, 'straight', 3, **regime)
    file = None
    for epochs in (1, 2, 3):
        again, file = train_average(toy_runner, f'until_{epochs}', epochs, file, **regime)
    for one, two in ((straight.model, again.model), (average_of(straight), average_of(again))):
        assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
    states = [torch.load(f, weights_only=False)['state_dict'] for f in (expected, file)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    in_set = [states[1][name] for name in norm_fixing_parameters(again.model)]
    assert norm(in_set) == pytest.approx(norm(norm_fixing_parameters(again.model).values()), rel=1e-6)


def test_average_of_a_checkpoint_of_the_first_version_is_resumed(toy_runner):
    first, file = train_average(toy_runner, 'first', 1, momentum=0.1)
    checkpoint = torch.load(file, weights_only=False)
    averages = checkpoint['fix_norm_ema']['averages']
    target = first.optim_wrapper.norm_fixer.target
    scale = torch.tensor(target / norm(averages.values()), dtype=torch.float64)
    torch.save({**checkpoint, 'fix_norm_ema': dict(names=[*averages], scale=scale)}, file)
    straight, _ = train_average(toy_runner, 'straight', 2, momentum=0.1)
    again, _ = train_average(toy_runner, 'again', 2, file, momentum=0.1)
    for p, q in zip(average_of(straight).parameters(), average_of(again).parameters()):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)  # scaled and back: one rounding

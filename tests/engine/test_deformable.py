"""Resuming a run whose set had no weights of deformable convolutions, as the first version's."""

import pytest
import torch
from mmcv.ops import DeformConv2dPack

from mmfixnorm.core.membership import flagged

WRAPPER = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
HOOK = dict(type='FixNormHook')
FORMER = [r'backbone\.3\.weight']  # with this exclude, the groups and the set are those of the first version


@pytest.fixture
def run(toy_runner, toy_classifier):
    def build(work_dir, epochs, wrapper, exclude, **kwargs):
        model = toy_classifier()
        model.backbone[3] = DeformConv2dPack(4, 6, 3)
        if wrapper:
            kwargs['wrapper'] = dict(WRAPPER, paramwise_cfg=dict(exclude=exclude))
        else:
            kwargs.update(wrapper=dict(type='OptimWrapper'), custom_hooks=[dict(HOOK, exclude=exclude)])
        runner = toy_runner(work_dir, epochs, model=model, **kwargs)
        runner.train()
        names = {id(p): name for name, p in runner.model.named_parameters()}
        return [names[id(p)] for p in flagged(runner.optim_wrapper.optimizer)]

    return build


@pytest.mark.parametrize('wrapper', [True, False], ids=['wrapper', 'hook'])
def test_a_new_run_holds_kernel_and_offsets(run, wrapper):
    names = ['backbone.0.weight', 'backbone.3.weight', 'backbone.3.conv_offset.weight', 'head.fc.weight']
    assert run('new', 1, wrapper, []) == names


def test_a_resumed_run_of_the_wrapper_needs_the_set_it_began_with(run, tmp_path):
    first = run('first', 1, True, FORMER)
    resume = dict(load_from=f'{tmp_path}/first/epoch_1.pth', resume=True)
    with pytest.raises(ValueError, match='group'):
        run('refused', 2, True, [], **resume)
    assert run('second', 2, True, FORMER, **resume) == first


def test_a_resumed_run_of_the_hook_keeps_the_set_it_began_with(run, tmp_path):
    first = run('first', 1, False, FORMER)
    assert 'backbone.3.weight' not in first
    file = tmp_path / 'first' / 'epoch_1.pth'
    checkpoint = torch.load(file, weights_only=False)
    for key in ('names', 'chosen'):  # the first version did not save them
        del checkpoint['fix_norm'][key]
    torch.save(checkpoint, file)
    for epochs in (2, 3):
        assert run(f'until_{epochs}', epochs, False, [], load_from=str(file), resume=True) == first
        file = tmp_path / f'until_{epochs}' / f'epoch_{epochs}.pth'

"""The optim wrapper and FixNormHook start norm fixing by the same steps, with the same messages."""

import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmfixnorm.errors import ConfigError


@pytest.fixture(params=['wrapper', 'hook'])
def start(request, toy_runner):
    """Trains one epoch with norm fixing set up one way or the other; returns the key that has the options."""

    def train(options=None, **kwargs):
        if request.param == 'hook':
            hook = dict(type='FixNormHook', **(options or {}))
            runner = toy_runner(epochs=1, wrapper=dict(type='OptimWrapper'), custom_hooks=[hook], **kwargs)
        else:
            wrapper = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
            runner = toy_runner(epochs=1, wrapper=dict(wrapper, paramwise_cfg=options), **kwargs)
        runner.train()

    train.named_by = 'FixNormHook' if request.param == 'hook' else 'optim_wrapper.paramwise_cfg'
    return train


@pytest.mark.parametrize(
    'exclude, message',
    [
        ('nope', "exclude: the pattern 'nope' matches none of the 3 conv and FC weights"),
        ('.', 'the norm-fixing set is empty: the model has no trainable conv or FC weight that its option exclude'),
    ],
)
def test_a_set_that_cannot_be_fixed_is_refused_with_the_key_that_chose_it(start, exclude, message):
    with pytest.raises(ConfigError, match=re.escape(f'{start.named_by}: {message}')):
        start(dict(exclude=[exclude]))


def test_a_weight_without_a_direction_is_refused_before_the_first_step(start, toy_classifier):
    model = toy_classifier()
    model.init_weights = lambda: nn.init.zeros_(model.head.fc.weight)
    with pytest.raises(ConfigError, match=r'model: head\.fc\.weight: the norm of a weight-normalised layer must be'):
        start(model=model)


def test_weights_that_are_not_scale_invariant_are_named_once(start, toy_classifier, capsys):
    start(model=toy_classifier(fc=nn.Linear(6, 3)))
    assert capsys.readouterr().out.count("contains plain linear layers: ['head.fc']") == 1


def test_weights_that_stay_out_are_named_in_the_log(toy_classifier, capsys):
    model = toy_classifier()
    torch.nn.utils.parametrizations.spectral_norm(model.backbone[0])
    wrapper = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
    build_optim_wrapper(model, wrapper | dict(optimizer=dict(type='SGD', lr=0.1)))
    line = next(line for line in capsys.readouterr().out.splitlines() if 'is not fixed' in line)
    assert 'backbone.0.parametrizations.weight.original' in line

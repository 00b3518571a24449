"""A ramp of the learning rate: where it ends, what it trains, and what it leaves as it was."""

import copy
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mmfixnorm.engine.hooks.lr_ramp_hook import LRRampHook, RampStep
from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import load_config
from mmfixnorm.lr_range import END_ANGLE, END_LAYER_ANGLE, MAX_ITERS, RANGE_OF_THE_END, measure_lr_range, ramp_end
from mmfixnorm.search.trial.folder import TrialResult, read_result

TOY = Path(__file__).parent / 'search'


def steps(losses, angles, largest=None):
    columns = zip(losses, angles, largest or angles, strict=True)
    return [RampStep(2.0**i, *of_step) for i, of_step in enumerate(columns)]


SMALL, LARGE = END_ANGLE / 10, END_ANGLE * 2
ENDS = {
    'nothing yet': ([], [], None),
    'small steps': ([2.3] * 9, [SMALL] * 9, None),
    'three of the last five are large': ([2.3] * 9, [SMALL] * 6 + [LARGE] * 3, 2.0**6),
    'two large ones are not enough': ([2.3] * 9, [SMALL] * 7 + [LARGE] * 2, None),
    'one large one amid small ones': ([2.3] * 9, [SMALL] * 4 + [LARGE] + [SMALL] * 4, None),
    'iterations without a step do not count': ([2.3] * 5, [None, LARGE, None, LARGE, LARGE], 2.0**2),
    'no step at all': ([2.3] * 9, [None] * 9, None),
    'the loss explodes': ([2.0] * 10 + [3.1] * 3, [SMALL] * 13, 2.0**10),
    'the loss falls and then explodes': ([7.0] * 10 + [2.0] * 5 + [3.1] * 3, [SMALL] * 18, 2.0**15),
    'the loss is as uneven as its batches': ([0.01, 0.06] * 5 + [0.01] * 5 + [0.05] * 5, [SMALL] * 20, None),
    'a negative loss explodes': ([-2.0] * 10 + [-0.9] * 3, [SMALL] * 13, 2.0**10),
    'a negative loss falls': ([-2.0 * 1.1**i for i in range(13)], [SMALL] * 13, None),
    'the loss jumps twice': ([2.0] * 10 + [9.0] * 2, [SMALL] * 12, None),
    'the loss rises by less than half': ([2.0] * 10 + [2.9] * 5, [SMALL] * 15, None),
    'the loss is nan': ([2.0, 2.0, math.nan], [SMALL] * 3, 4.0),
    'the loss is inf at once': ([math.inf], [SMALL], 1.0),
}


@pytest.mark.parametrize(('losses', 'angles', 'end'), ENDS.values(), ids=ENDS)
def test_where_a_ramp_ends(losses, angles, end):
    assert ramp_end(steps(losses, angles)) == end


@pytest.mark.parametrize(('over', 'end'), [(0.9, None), (1.1, 2.0**6)])
def test_a_ramp_ends_where_one_layer_turns_far_and_all_together_do_not(over, end):
    largest = [SMALL] * 6 + [END_LAYER_ANGLE * over] * 3
    assert ramp_end(steps([2.3] * 9, [SMALL] * 9, largest)) == end


def test_the_end_is_found_as_soon_as_it_is_there_and_stays():
    ramp = steps([2.3] * 20, [1e-3 * 1.5**i for i in range(20)])
    ends = [ramp_end(ramp[:n]) for n in range(21)]
    first = next(end for end in ends if end is not None)
    assert set(ends) == {None, first}
    assert first / 2 <= next(s.lr for s in ramp if s.angle > END_ANGLE) <= first * 2


@pytest.fixture(scope='module')
def loaded():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOY))
        return load_config(TOY / 'toy_config.py')  # once: it registers its classes


@pytest.fixture
def toy(loaded, tmp_path):
    cfg = copy.deepcopy(loaded)
    cfg.work_dir, cfg.launcher, cfg.log_level = str(tmp_path), 'none', 'ERROR'
    cfg.randomness = dict(seed=0)
    return cfg


def test_a_ramp_ends_where_steps_are_large_and_changes_nothing_of_the_config(toy):
    before = copy.deepcopy(toy.to_dict())
    ramp = measure_lr_range(toy, 0.1)
    assert toy.to_dict() == before
    lrs, losses, angles, largest = zip(*ramp.steps, strict=True)
    assert all(angle <= layer for angle, layer in zip(angles, largest, strict=True))
    assert all(b > a for a, b in pairwise(lrs))
    assert lrs[0] == pytest.approx(0.1 * 1e-4)
    assert ramp.lr_range == pytest.approx([ramp.end * factor for factor in RANGE_OF_THE_END], rel=1e-2)
    assert len(lrs) < MAX_ITERS
    assert ramp.part == pytest.approx(len(lrs) / (4 * 8))
    near = min(range(len(lrs)), key=lambda i: abs(lrs[i] - ramp.end))
    assert angles[near] > END_ANGLE / 2 or largest[near] > END_LAYER_ANGLE / 2 or max(losses) > 1.5 * losses[0]


@pytest.mark.parametrize('factor', [0.01, 100.0])
def test_the_range_does_not_depend_on_the_learning_rate_of_the_config(toy, factor):
    end = measure_lr_range(toy, 0.1).end
    toy.optim_wrapper.optimizer.lr = 0.1 * factor
    assert measure_lr_range(toy, 0.1 * factor).end == pytest.approx(end, rel=0.5)


def test_with_accumulated_gradients_a_step_takes_more_iterations_and_the_end_is_the_same(toy):
    single = measure_lr_range(toy, 0.1)
    toy.optim_wrapper.accumulative_counts = 4
    ramp = measure_lr_range(toy, 0.1)
    assert ramp.iterations == 4 * len(ramp.steps) > len(single.steps)
    assert all(angle is not None for _, _, angle, _ in ramp.steps)
    assert ramp.part == pytest.approx(ramp.iterations / 32)
    assert ramp.end == pytest.approx(single.end, rel=1.0)


def test_no_checkpoint_and_no_validation(toy, tmp_path):
    toy.val_evaluator = dict(type='ToyAccuracy', prefix='never')
    measure_lr_range(toy, 0.1)
    assert not list(tmp_path.rglob('*.pth'))


def test_a_ramp_that_ends_in_a_loss_that_is_not_finite_can_be_recorded(toy, tmp_path, monkeypatch):
    take = LRRampHook.after_train_iter

    def exploded(self, runner, batch_idx, data_batch=None, outputs=None):
        outputs = {'loss': torch.tensor(math.nan)} if self.iterations == 7 else outputs
        take(self, runner, batch_idx, data_batch, outputs)

    monkeypatch.setattr(LRRampHook, 'after_train_iter', exploded)
    ramp = measure_lr_range(toy, 0.1)
    assert (len(ramp.steps), ramp.steps[-1][1], ramp.end) == (8, None, ramp.steps[-1][0])
    TrialResult('ramp', 1, '', 'measured', ramp=ramp.to_dict()).write(tmp_path)
    assert read_result(tmp_path, key='ramp', attempt=1, fingerprint='').ramp['lr_range'] == [*ramp.lr_range]


def test_a_ramp_that_comes_to_no_end_has_no_range(toy):
    ramp = measure_lr_range(toy, 0.1, max_iters=6)
    assert (ramp.lr_range, ramp.end, len(ramp.steps)) == (None, None, 6)
    assert 'came to no end after 6 iterations' in str(ramp)


def test_a_learning_rate_that_the_optimizer_does_not_have_is_refused(toy):
    with pytest.raises(
        ConfigError, match=r'search\.lr_key: the config has lr 0\.7, but the built optimizer has \[0\.1\]'
    ):
        measure_lr_range(toy, 0.7)


def test_a_config_without_a_length_is_refused(toy):
    toy.train_cfg = dict(type='EpochBasedTrainLoop')
    with pytest.raises(ConfigError, match='train_cfg: must have max_epochs or max_iters'):
        measure_lr_range(toy, 0.1)

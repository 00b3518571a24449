"""Whatever wins in the end, with new seeds or a budget, its checkpoints are there; and no others for long."""

import random
from datetime import datetime
from types import SimpleNamespace

import pytest

from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.base import FinishedTraining
from mmfixnorm.search.planner import Done, Propose, Run, plan, propose
from mmfixnorm.search.record.checkpoints import CheckpointPruner
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.trial.folder import TrialResult
from tests.search.test_budget import BLOCKS


class Training:
    """A search whose trainings have random values and leave a checkpoint, with the driver's prunings."""

    def __init__(self, folder, seed):
        self.folder, self.random = folder, random.Random(seed)
        self.history, self.attempts, self.most_kept = [], [], 0

    def kept(self):
        return {path.parts[-3] for path in self.folder.glob('*/run/*.pth')}

    def go_on(self, settings):
        pruner = CheckpointPruner(SimpleNamespace(settings=settings, trial_dir=lambda key: self.folder / key))
        while not isinstance(step := plan(settings, self.history), Done):
            if isinstance(step, Propose):
                self.history += propose(
                    settings, [h for h in self.history if isinstance(h, FinishedTraining)], step.keys
                )
                continue
            assert isinstance(step, Run)
            spec = step.specs[0]
            value = float(self.random.randint(0, 9))
            (self.folder / spec.key / 'run').mkdir(parents=True)
            (self.folder / spec.key / 'run' / 'last.pth').touch()
            result = TrialResult(spec.key, 1, '', 'done', value)
            self.attempts.append(Attempt(spec, result, spec.fraction, datetime.min))
            self.history.append(FinishedTraining(spec.key, spec.point, value))
            pruner.prune(self.attempts)
            self.most_kept = max(self.most_kept, len(self.kept()))
        pruner.prune(self.attempts, winner=None if step.left else step.best.key)
        return step


@pytest.mark.parametrize('rule', ['greater', 'less'])
@pytest.mark.parametrize('confirm_seeds', [0, 1])
@pytest.mark.parametrize('kind', BLOCKS)
def test_what_wins_has_its_checkpoint_and_after_the_end_nothing_else(tmp_path, kind, confirm_seeds, rule):
    more = dict(type=kind, rule=rule, confirm_seeds=confirm_seeds, seed=0)
    for seed in range(6):
        search = Training(tmp_path / str(seed), seed)
        for budget in (3.5, 6, None):  # the same search, continued
            step = search.go_on(parse_settings({**BLOCKS[kind], **more, 'budget': budget}))
            assert step.best.key in search.kept()
            assert not step.left or budget
        assert search.kept() == {step.best.key}
        if kind == 'BayesianSearch':
            assert search.most_kept < 7  # of 12, with values that tie

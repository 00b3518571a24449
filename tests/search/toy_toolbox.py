"""A tiny toolbox for real trainings in a second: a model with an alpha, data, a metric."""

import json
import os
import signal
import time
from pathlib import Path

import torch
from fake_trial import stamp
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmfixnorm.core import FixNormLinear


@DATASETS.register_module()
class ToyPoints(Dataset):
    """Points in the plane; the class is the sign of x + y. Can hang for ever, once."""

    metainfo = {'classes': ('below', 'above')}

    def __init__(self, num, data_root='', seed=0, hangs_if_missing=''):
        rng = torch.Generator().manual_seed(seed)
        self.points = torch.randn(num, 2, generator=rng)
        self.hangs_if_missing = hangs_if_missing

    def __len__(self):
        return len(self.points)

    def __getitem__(self, i):
        if self.hangs_if_missing and not os.path.exists(self.hangs_if_missing):
            with open(self.hangs_if_missing, 'w') as f:
                f.write(str(os.getpid()))
            time.sleep(3600)
        point = self.points[i]
        return {'inputs': point, 'label': int(point.sum() > 0)}


@MODELS.register_module()
class ToyHead(nn.Module):
    """A linear layer with a bound on its output, which plays alpha's part."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.alpha * torch.tanh(self.fc(x))


@MODELS.register_module()
class ToyFixNormHead(nn.Module):
    """The last layer as FixNorm has it, with its bound."""

    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.fc = FixNormLinear(8, 2, alpha=alpha)

    def forward(self, x):
        return self.fc(x)


@MODELS.register_module()
class ToyHeadThatForgets(ToyHead):
    """Takes alpha and does something else with it."""

    def __init__(self, alpha):
        super().__init__(alpha=1.0 + 0 * alpha)


@MODELS.register_module()
class ToyClassifier(BaseModel):
    """Two layers, and ways to go wrong: at a given batch, or killed once in the middle."""

    def __init__(self, head, explode_at=None, raise_at=None, killed_once=''):
        super().__init__()
        self.body = nn.Linear(2, 8)
        self.head = MODELS.build(head)
        self.explode_at = explode_at
        self.raise_at = raise_at
        self.killed_once = killed_once
        self.calls = 0

    def forward(self, inputs, label, mode='tensor'):
        inputs, label = torch.stack(inputs), torch.tensor(label)  # lists, from pseudo_collate
        scores = self.head(torch.tanh(self.body(inputs)))
        if mode == 'loss':
            self.calls += 1
            if self.calls == self.raise_at:
                raise ValueError('the set of weights to fix is empty')
            if self.killed_once and self.calls == 20 and not os.path.exists(self.killed_once):
                with open(self.killed_once, 'w'):
                    os.killpg(0, signal.SIGKILL)  # all of the trial at once, as when its node disappears
            loss = nn.functional.cross_entropy(scores, label)
            return {'loss': loss * float('nan') if self.calls == self.explode_at else loss}
        return [{'right': bool(r)} for r in scores.argmax(1) == label]


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """Percentage of right answers, reported as ``accuracy/top1``."""

    default_prefix = 'accuracy'

    def process(self, data_batch, data_samples):
        self.results += [sample['right'] for sample in data_samples]

    def compute_metrics(self, results):
        return {'top1': 100.0 * sum(results) / len(results)}


@HOOKS.register_module()
class StampHook(Hook):
    """Leave in the trial's folder, after each iteration, which trial of which search writes there, and pause.

    With ``until_requeued`` it pauses only in the first run of a Slurm job.
    """

    def __init__(self, pause_s=0.0, until_requeued=False):
        self.pause_s = 0.0 if until_requeued and int(os.environ.get('SLURM_RESTART_COUNT', '0')) else pause_s

    def before_run(self, runner):
        self.folder = Path(runner.work_dir).parent
        self.spec = json.loads((self.folder / 'spec.json').read_text())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        stamp(self.folder, self.spec, 'step')
        time.sleep(self.pause_s)


@MODELS.register_module()
class ToyGroupNormClassifier(BaseModel):
    """Layers with group normalisation in float64, and the last layer as FixNorm has it."""

    def __init__(self, head):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16, bias=False), nn.GroupNorm(4, 16), nn.ReLU())
        self.fc = nn.Linear(16, 8)
        self.head = MODELS.build(head)
        self.double()

    def forward(self, inputs, label, mode='tensor'):
        inputs, label = torch.stack(inputs).double(), torch.tensor(label)
        scores = self.head(torch.tanh(self.fc(self.body(inputs))))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(scores, label)}
        return [{'right': bool(r)} for r in scores.argmax(1) == label]


@HOOKS.register_module()
class NoticeHook(Hook):
    """Send this process a signal after an iteration, once."""

    def __init__(self, iteration, once, name='SIGUSR1'):
        self.iteration = iteration
        self.once = Path(once)
        self.number = signal.Signals[name]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), self.number)

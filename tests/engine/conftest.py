"""A classifier small enough for a Runner in milliseconds."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import mmfixnorm.engine  # noqa: F401  # each file of this folder can be run alone
from mmfixnorm.core import FixNormLinear


class ToyData(Dataset):
    def __init__(self, size=24):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(size, 1, 6, 6, generator=generator)
        self.labels = torch.randint(3, (size,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return dict(inputs=self.inputs[i], data_samples=BaseDataElement(gt_label=self.labels[i : i + 1]))


class ToyClassifier(BaseModel):
    def __init__(self, fc=None, norm=True):
        super().__init__(init_cfg=dict(type='Kaiming', layer='Conv2d'))
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
        )
        self.head = nn.Module()
        self.head.fc = fc or FixNormLinear(6, 3, alpha=2.0)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head.fc(self.backbone(torch.stack(tuple(inputs))).mean((2, 3)))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, torch.cat([s.gt_label for s in data_samples])))
        for sample, scores in zip(data_samples, logits):
            sample.pred_score = scores
        return data_samples


class Accuracy(BaseMetric):
    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.results.append(float(sample['pred_score'].argmax() == sample['gt_label'][0]))

    def compute_metrics(self, results):
        return dict(accuracy=sum(results) / len(results))


FIXNORM = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
PLAIN = dict(type='OptimWrapper')


@pytest.fixture
def toy_data():
    return ToyData


@pytest.fixture
def toy_classifier():
    def build(seed=0, **kwargs):
        torch.manual_seed(seed)
        return ToyClassifier(**kwargs)

    return build


@pytest.fixture
def toy_runner(tmp_path):
    """Builds a Runner of 3 iterations an epoch; ``wrapper`` is FIXNORM or PLAIN plus changes."""

    def build(work_dir='run', epochs=2, wrapper=FIXNORM, lr=0.1, model=None, val=False, batch_size=8, **kwargs):
        torch.manual_seed(0)
        optimizer = dict(type='SGD', lr=lr, momentum=0.9, nesterov=True)
        loader = dict(batch_size=batch_size, num_workers=0, dataset=ToyData())
        loops = {}
        if val:
            loops = dict(
                val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
                val_cfg=dict(),
                val_evaluator=dict(type=Accuracy),
            )
        return Runner(
            model=model or ToyClassifier(),
            work_dir=str(tmp_path / work_dir),
            train_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=optimizer) | wrapper,
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            randomness=dict(seed=0),
            log_level='WARNING',
            experiment_name=work_dir.replace('/', '_'),
            **loops,
            **kwargs,
        )

    return build


@HOOKS.register_module(force=True)
class _Probe(Hook):
    """Writes down the norm that validation sees."""

    priority = 'LOWEST'

    def __init__(self, names, seen):
        self.names, self.seen = names, seen

    def before_val_epoch(self, runner):
        tensors = [p for n, p in runner.model.named_parameters() if n in self.names]
        self.seen.append(torch.cat([t.detach().double().flatten() for t in tensors]).norm().item())

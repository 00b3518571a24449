"""A task that trains in a second and needs no toolbox: blobs of two colours."""

import os

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import Tensor, nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class Blobs(Dataset):
    """``num`` images of 3x6x6 in two classes; ``data_root``, if given, must hold ``seed``."""

    def __init__(self, num: int = 32, data_root: str | None = None) -> None:
        if data_root is not None:
            with open(os.path.join(data_root, 'seed')) as file:
                file.read()
        rng = torch.Generator().manual_seed(5)
        self.labels = torch.arange(num) % 2
        noise = torch.randn(num, 3, 6, 6, generator=rng)
        self.images = noise + (self.labels * 2 - 1).view(-1, 1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {'inputs': self.images[index], 'labels': self.labels[index]}


@MODELS.register_module()
class ToyNet(BaseModel):
    def __init__(self, norm: str = 'BatchNorm2d', fc: str = 'WNLinear') -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = getattr(nn, norm)(8)
        self.fc = MODELS.build(dict(type=fc, in_features=8, out_features=2))

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'tensor'):
        inputs, labels = torch.stack(list(inputs)), torch.stack(list(labels))
        scores = self.fc(self.bn(self.conv(inputs)).relu().mean((2, 3)))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(scores, labels)}
        return [dict(hit=s.argmax().item() == y.item()) for s, y in zip(scores, labels, strict=True)]


@METRICS.register_module()
class HitRate(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.extend(sample['hit'] for sample in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'hit_rate': sum(results) / len(results)}


@HOOKS.register_module()
class SaveEachRank(Hook):
    """Leave each process's weights behind, to compare them."""

    def after_train(self, runner) -> None:
        model = getattr(runner.model, 'module', runner.model)
        kinds = sorted({type(m).__name__ for m in model.modules()})
        path = os.path.join(runner.work_dir, f'rank{runner.rank}.pth')
        state = {k: v for k, v in model.state_dict().items() if 'running' not in k}
        torch.save({'state': state, 'modules': kinds, 'world_size': runner.world_size}, path)

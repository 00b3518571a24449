"""Trains a few steps under DDP on the CPU and saves what each rank ends with: ``ddp_program.py OUT BATCH``.

``BATCH`` samples in all, shared out over the processes; without batch norm two processes then do what one does.
"""

import sys

import torch
import torch.distributed as dist
from gloo import leave_group
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.nn import functional as F

import mmfixnorm.engine  # noqa: F401
from mmfixnorm.core import FixNormLinear


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.fc = FixNormLinear(4, 3, alpha=0.5)

    def forward(self, inputs, labels, mode='loss'):
        return dict(loss=F.cross_entropy(self.fc(self.norm(self.conv(inputs)).relu().mean((2, 3))), labels))


def main(out, batch):
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)  # DDP hands out the weights of rank 0
    model = MMDistributedDataParallel(Net())
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='FixNormOptimWrapper',
            constructor='FixNormOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.5, momentum=0.9, nesterov=True),
        ),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        inputs = torch.randn(batch, 1, 6, 6, generator=generator)
        labels = torch.randint(3, (batch,), generator=generator)
        model.train_step(dict(inputs=inputs[rank::world], labels=labels[rank::world]), wrapper)
    torch.save(dict(weights=model.module.state_dict(), target=wrapper.norm_fixer.target), f'{out}/{world}_{rank}.pth')
    leave_group()


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))

"""mmfixnorm.launch: what the tools and the trials of a search share."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from torch import nn

from mmfixnorm.launch import (
    CPUDistributedDataParallel,
    _fill_dataloader_defaults,
    build_model,
    load_config,
    set_work_dir,
)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A gloo group of this process alone."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures('process_group')
def test_sync_bn_becomes_bn_on_a_cpu_with_the_same_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    nn.init.normal_(model[1].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped = CPUDistributedDataParallel(module=model, device_ids=[0], broadcast_buffers=False)
    assert type(wrapped.module[1]).__name__ != 'SyncBatchNorm'
    torch.testing.assert_close(dict(wrapped.module.state_dict()), before)
    assert wrapped(torch.randn(2, 3, 4, 4)).shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ('option', 'in_config', 'expected'),
    [
        ('here', 'there', 'here'),
        (None, 'there', 'there'),
        (None, None, 'work_dirs/toy'),
    ],
)
def test_work_dir_is_the_option_then_the_config_then_its_name(toy, in_tmp, option, in_config, expected) -> None:
    cfg = load_config(toy, cfg_options={'work_dir': in_config})
    set_work_dir(cfg, option)
    assert cfg.work_dir == expected


def test_options_change_the_config_and_leave_the_callers_dict(toy, in_tmp) -> None:
    options = {'optim_wrapper.optimizer.lr': 0.4}
    assert load_config(toy, cfg_options=options).optim_wrapper.optimizer.lr == 0.4
    assert options == {'optim_wrapper.optimizer.lr': 0.4}


@pytest.mark.parametrize(('num_workers', 'persistent'), [(0, False), (2, True)])
def test_mmpretrain_gets_the_collate_that_its_own_tool_sets(num_workers, persistent) -> None:
    loader = dict(num_workers=num_workers)
    cfg = Config(dict(default_scope='mmpretrain', train_dataloader=loader))
    _fill_dataloader_defaults(cfg)
    assert cfg.train_dataloader.collate_fn == dict(type='default_collate')
    assert cfg.train_dataloader.persistent_workers is persistent


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
def test_other_toolboxes_keep_their_dataloaders_as_they_are(scope) -> None:
    cfg = Config(dict(default_scope=scope, train_dataloader=dict(num_workers=2)))
    _fill_dataloader_defaults(cfg)
    assert cfg.train_dataloader == dict(num_workers=2)


def test_a_model_is_built_twice_from_one_config_which_stays_as_it_was() -> None:
    spec = importlib.util.find_spec('mmseg')
    if spec is None or spec.origin is None:
        pytest.skip('mmseg is not installed')
    cfg = load_config(Path(spec.origin).parent / '.mim/configs/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    before = cfg.pretty_text
    for _ in range(2):
        build_model(cfg)
    assert cfg.pretty_text == before

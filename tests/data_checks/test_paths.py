"""Checkpoints that are not there."""

import pickle

import pytest
import torch
from mmengine.config import Config

from mmfixnorm.data_checks.paths import check_checkpoint, local_starts, weights_to_start_from
from mmfixnorm.errors import ConfigError


def test_a_missing_checkpoint_is_told_with_those_beside_it(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    (tmp_path / 'latest.pth').symlink_to(tmp_path / 'epoch_9.pth')  # it was deleted
    with pytest.raises(ConfigError, match=r"no such checkpoint: .*epoch_2\.pth'; there are '[^ ]*epoch_1\.pth'$"):
        check_checkpoint(str(tmp_path / 'epoch_2.pth'))


def test_a_checkpoint_may_be_named_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save({'state_dict': {}}, tmp_path / 'a.pth')
    check_checkpoint('~/a.pth')
    with pytest.raises(ConfigError, match=r"--resume: no such checkpoint: '~/b\.pth'; there are"):
        check_checkpoint('~/b.pth', '--resume')


@pytest.mark.parametrize('new', [True, False])
def test_a_file_that_was_cut_off_or_is_of_another_kind_is_no_checkpoint(tmp_path, new):
    whole = tmp_path / 'whole.pth'
    torch.save({'state_dict': {'a': torch.zeros(1000)}}, whole, _use_new_zipfile_serialization=new)
    check_checkpoint(str(whole))
    (tmp_path / 'pickle.pth').write_bytes(pickle.dumps({'state_dict': {}}))
    check_checkpoint(str(tmp_path / 'pickle.pth'))
    others = {'empty': b'', 'text': b'# a config', **({'torn': whole.read_bytes()[:-100]} if new else {})}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf'^--resume: .*{name}: not a checkpoint \({len(content)} bytes\)'):
            check_checkpoint(str(tmp_path / name), '--resume')


def test_weights_to_start_from_are_found_by_their_keys_and_those_of_other_places_are_no_files():
    init = dict(type='Pretrained', checkpoint='a.pth', prefix='backbone.')
    cfg = Config(
        dict(
            model=dict(backbone=dict(init_cfg=[dict(type='Normal'), init]), pretrained='torchvision://resnet50'),
            load_from='checkpoints/b',
        )
    )
    local = {'model.backbone.init_cfg.1.checkpoint': 'a.pth', 'load_from': 'checkpoints/b'}
    assert weights_to_start_from(cfg) == {**local, 'model.pretrained': 'torchvision://resnet50'}
    assert local_starts(cfg) == local
    for elsewhere in ('https://x.org/a.pth', 's3:bucket/a.pth', 'open-mmlab://resnet50_v1c', 'bert-base-uncased'):
        assert local_starts(Config(dict(model=dict(pretrained=elsewhere)))) == {}

"""Checkpoints that are not there."""

import pytest

from mmfixnorm.data_checks.paths import check_checkpoint
from mmfixnorm.errors import ConfigError


def test_a_missing_checkpoint_is_told_with_those_beside_it(tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    (tmp_path / 'latest.pth').symlink_to(tmp_path / 'epoch_9.pth')  # it was deleted
    with pytest.raises(ConfigError, match=r"no such checkpoint: .*epoch_2\.pth'; there are '[^ ]*epoch_1\.pth'$"):
        check_checkpoint(str(tmp_path / 'epoch_2.pth'))


def test_a_checkpoint_may_be_named_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.pth').write_bytes(b'')
    check_checkpoint('~/a.pth')
    with pytest.raises(ConfigError, match=r"--resume: no such checkpoint: '~/b\.pth'; there are"):
        check_checkpoint('~/b.pth', '--resume')

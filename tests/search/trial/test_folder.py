"""The files of a trial's folder that cannot be read, or are not there."""

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.trial.folder import (
    read_angles,
    read_curve,
    read_log_end,
    read_progress,
    read_result,
    read_task,
    trials_with_results,
)

READERS = {  # file: what reads it in a folder, what it says where there is no such file
    'spec.json': (read_task, None),
    'result.json': (lambda folder: read_result(folder, key='grid-00', attempt=1, fingerprint='f'), None),
    'progress.json': (lambda folder: read_progress(folder, attempt=1), None),
    'curve.jsonl': (lambda folder: read_curve(folder / 'curve.jsonl'), {}),
    'log.txt': (lambda folder: read_log_end(folder / 'log.txt', 100), ''),
    'run/1/vis_data/scalars.json': (read_angles, {}),
}


@pytest.mark.parametrize(('name', 'read', 'nothing'), [(name, *told) for name, told in READERS.items()])
def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path, name, read, nothing):
    assert read(tmp_path) == nothing
    (tmp_path / name).mkdir(parents=True)  # a missing permission would not keep root out
    with pytest.raises(ConfigError, match=rf'{name}: cannot be read \(Is a directory\); make it readable'):
        read(tmp_path)


def test_a_result_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    (tmp_path / 'grid-00' / 'result.json').mkdir(parents=True)
    assert trials_with_results(tmp_path, fingerprint='f') == ['grid-00']

"""Where the analysis tools write a figure."""

import pytest

from mmfixnorm.analysis.files import write_chart
from mmfixnorm.errors import ConfigError
from mmfixnorm.plot.chart import Chart, Line, Panel

CHART = Chart('one line', [Panel('epoch', 'accuracy', [Line('run', [1.0, 2.0], [60.0, 70.0])])])


@pytest.mark.parametrize('name', ['fig', 'fig.png', 'fig.html', 'fig.v2'])
def test_both_files_are_written_beside_each_other(tmp_path, name):
    files = write_chart(CHART, tmp_path / 'new' / name)
    stem = 'fig.v2' if name == 'fig.v2' else 'fig'
    assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == [f'{stem}.html', f'{stem}.png']
    assert files.png.read_bytes().startswith(b'\x89PNG')


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match='--out: cannot write to .*file'):
        write_chart(CHART, tmp_path / 'file/fig')

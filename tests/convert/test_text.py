"""The text of a config, read back by Python and by mmengine."""

import enum
import functools
import math
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.config import Config

from mmfixnorm.convert.text import config_text
from mmfixnorm.errors import ConfigError

LEAF = st.one_of(
    *(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.text(max_size=30), st.binary(max_size=9))
)
KEY = st.one_of(
    *(st.sampled_from(['class', 'None']), st.integers(), st.tuples(st.integers())),
    st.from_regex(r'[a-z_]{1,8}x', fullmatch=True),
    st.from_regex(r'[a-z]\\\.[a-z]{1,9}', fullmatch=True),
)
VALUE = st.recursive(
    LEAF,
    lambda child: st.one_of(
        st.lists(child, max_size=4),
        st.lists(child, max_size=4).map(tuple),
        st.dictionaries(KEY, child, max_size=4),
        st.sets(LEAF, max_size=4),
    ),
    max_leaves=20,
)


@example(r'\0' + '\n')
@given(VALUE)
def test_python_reads_back_what_was_written(value) -> None:
    names: dict = {}
    exec(config_text('A title.', [('key', value, ['Why.'])]), names)
    assert names['key'] == value


@pytest.mark.parametrize('alpha', [math.inf, -math.inf, math.nan])
def test_mmengine_reads_back_numbers_that_are_not_finite(alpha, tmp_path) -> None:
    (tmp_path / 'c.py').write_text(config_text('No bound.', [('model', dict(alpha=alpha), [])]))
    assert repr(Config.fromfile(tmp_path / 'c.py').model.alpha) == repr(alpha)


READ_AS = [  # a value without a literal of its own, and what is read
    (Path('data/train'), 'data/train'),
    (PureWindowsPath('C:/data'), r'C:\data'),
    (np.float64(0.5), 0.5),
    (np.float32('inf'), math.inf),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_('a'), 'a'),
]


@pytest.mark.parametrize(('value', 'read'), READ_AS, ids=lambda value: type(value).__name__)
def test_a_path_is_written_as_a_string_and_a_number_of_numpy_as_one_of_python(value, read, tmp_path) -> None:
    (tmp_path / 'c.py').write_text(config_text('', [('hooks', [dict(at=value)], [])]))
    again = Config.fromfile(tmp_path / 'c.py').hooks[0]['at']
    assert again == read
    assert type(again) is type(read)


class Mode(str, enum.Enum):
    FAST = 'fast'


@pytest.mark.parametrize(
    'value',
    [torch.ones(2), np.ones(2), Mode.FAST, len, lambda: 0, functools.partial(int), torch.nn.Linear, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_literal_is_refused_by_its_key(value) -> None:
    with pytest.raises(ConfigError, match=rf'^hooks\.0\.at: .* is of type {type(value).__name__}, which cannot be'):
        config_text('', [('hooks', [dict(at=value)], [])])


def test_mmengine_reads_it_and_lines_are_short(tmp_path) -> None:
    swap = {rf'.*\.layer{i}\..*': dict(type='FixNormLinear', alpha=1.0) for i in range(20)}
    text = config_text('word ' * 60, [('model', dict(type='A', fixnorm=dict(swap=swap)), ['Because. ' * 40])])
    (tmp_path / 'c.py').write_text(text)
    assert Config.fromfile(tmp_path / 'c.py').model.fixnorm.swap == swap
    assert max(map(len, text.splitlines())) <= 120
    assert text.startswith('# word word')

"""The text of a config, read back by Python and by mmengine."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.config import Config

from mmfixnorm.convert.text import config_text

LEAF = st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.text(max_size=30))
KEY = st.one_of(st.from_regex(r'[a-z_]{1,8}x', fullmatch=True), st.from_regex(r'[a-z]\\\.[a-z]{1,9}', fullmatch=True))
VALUE = st.recursive(
    LEAF,
    lambda child: st.one_of(
        st.lists(child, max_size=4),
        st.lists(child, max_size=4).map(tuple),
        st.dictionaries(KEY, child, max_size=4),
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


def test_mmengine_reads_it_and_lines_are_short(tmp_path) -> None:
    swap = {rf'.*\.layer{i}\..*': dict(type='FixNormLinear', alpha=1.0) for i in range(20)}
    text = config_text('word ' * 60, [('model', dict(type='A', fixnorm=dict(swap=swap)), ['Because. ' * 40])])
    (tmp_path / 'c.py').write_text(text)
    assert Config.fromfile(tmp_path / 'c.py').model.fixnorm.swap == swap
    assert max(map(len, text.splitlines())) <= 120
    assert text.startswith('# word word')

"""Few regular expressions for many names."""

import re

from hypothesis import given
from hypothesis import strategies as st

from mmfixnorm.convert.patterns import patterns_for

TOKEN = st.sampled_from(['a', 'b', 'conv1', 'conv2', '0', '1', '10', 'x+y'])
NAME = st.lists(TOKEN, min_size=1, max_size=4).map('.'.join)


@given(st.sets(NAME, min_size=1, max_size=12), st.sets(NAME, max_size=12))
def test_all_names_are_matched_and_no_other(names, others) -> None:
    others = others - names
    patterns = patterns_for(names, others)
    assert {n for n in names if any(re.fullmatch(p, n) for p in patterns)} == names
    assert not [n for n in others if any(re.fullmatch(p, n) for p in patterns)]
    assert not [n for n in names if sum(bool(re.fullmatch(p, n)) for p in patterns) > 1]
    assert len(patterns) <= len(names)


def test_one_pattern_is_enough_where_the_names_have_something_in_common() -> None:
    se = [f'backbone.layer{i}.{j}.se_layer.conv{k}.conv' for i in range(1, 5) for j in range(3) for k in (1, 2)]
    convs = [f'backbone.layer{i}.{j}.conv{k}' for i in range(1, 5) for j in range(3) for k in (1, 2, 3)]
    assert patterns_for(se, [*convs, 'head.fc']) == [r'.*\.se_layer\..*']
    assert patterns_for(convs, ['head.fc']) == [r'backbone\..*']
    assert patterns_for(['head.fc'], convs) == ['head.fc']


def test_a_pattern_that_is_taken_is_not_used_again() -> None:
    names = ['backbone.stages.0.a', 'backbone.stages.1.a']
    first = patterns_for(names, ['head.fc'])
    second = patterns_for(names, ['head.fc'], taken=first)
    assert len(first) == len(second) == 1
    assert first != second
    assert all(re.fullmatch(second[0], name) for name in names)


def test_a_name_alone_stands_as_it_is_unless_another_one_would_match() -> None:
    assert patterns_for(['head.0.fc'], ['head.1.fc']) == ['head.0.fc']
    assert patterns_for(['a.0'], ['a00']) != ['a.0']

"""mmengine merges no dict into None."""

import pytest
from mmengine.config import Config

from mmfixnorm.convert.inherit import over_none


@pytest.mark.parametrize(
    'base, edit, expected',
    [
        (dict(a=dict(b=None)), dict(a=dict(b=dict(c=1))), dict(a=dict(b=dict(c=1)))),
        (dict(a=None), dict(a=dict(b=dict(c=1))), dict(a=dict(b=dict(c=1)))),
        (dict(a='x'), dict(a=dict(b=1)), dict(a=dict(b=1))),
        (dict(a=dict(b=dict(d=2))), dict(a=dict(b=dict(c=1))), dict(a=dict(b=dict(d=2, c=1)))),
        (dict(a=dict(b=1)), dict(a=dict(_delete_=True, c=1)), dict(a=dict(c=1))),
        (dict(), dict(a=dict(b=dict(c=1)), d=[1]), dict(a=dict(b=dict(c=1)), d=[1])),
        (dict(a=None, d=None), dict(a=dict(), d=None), dict(a=dict(), d=None)),
    ],
)
def test_a_child_inherits_with_what_it_sets(tmp_path, base, edit, expected) -> None:
    marked = over_none(edit, base)
    for name, values in (('base', base), ('child', dict(_base_=['base.py'], **marked))):
        (tmp_path / f'{name}.py').write_text(''.join(f'{key} = {value!r}\n' for key, value in values.items()))
    assert Config.fromfile(tmp_path / 'child.py').to_dict() == expected
    merged = Config(base)
    merged.merge_from_dict(marked)
    assert merged.to_dict() == expected

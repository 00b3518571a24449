"""What happens in a search is reported by kinds that are told."""

import re
from pathlib import Path

from mmfixnorm.search.events import Event

PACKAGE = Path(__file__).resolve().parents[2] / 'mmfixnorm'


def test_every_kind_of_event_is_in_the_docstring():
    sources = (path.read_text() for path in PACKAGE.rglob('*.py'))
    kinds = {kind for text in sources for kind in re.findall(r"\b(?:Event|_emit)\(\s*'(\w+)'", text)}
    assert len(kinds) > 10
    assert {kind for kind in kinds if f'``{kind}``' not in Event.__doc__} == set()

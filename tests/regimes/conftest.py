"""Each test of a regime records its row; docs/regimes_table.py makes the table of docs/regimes.md from them."""

import pytest

from tests.regimes.rows import ROWS

BOUND = 1e-9


@pytest.fixture
def record(record_property):
    """``record(row, actual, expected)``: equal within ``bound``, written down. Both are name -> tensor, of size 1."""

    def equal(row, actual, expected, bound=BOUND):
        assert actual.keys() == expected.keys()
        assert row in ROWS
        worst = {name: (actual[name].double() - value).abs().max().item() for name, value in expected.items()}
        assert max(worst.values()) <= bound, worst
        record_property('regime', row)
        record_property('result', f'equal within {bound:g}')

    return equal


@pytest.fixture
def refused(record_property):
    """``refused(row, error, message)``: the message of a regime that is refused, written down."""

    def check(row, error, message):
        assert message in str(error)
        assert row in ROWS
        record_property('regime', row)
        record_property('result', f'refused: "{message}"')

    return check

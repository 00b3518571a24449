"""Writes the table of docs/regimes.md from the results of the tests.

    python -m pytest tests/regimes --junitxml regimes.xml
    python docs/regimes_table.py regimes.xml

Ends with status 1 if a row has no result: its test failed, was skipped, or was not run.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/regimes.md'
BEGIN, END = '<!-- begin of the table -->\n', '<!-- end of the table -->\n'


def results(junit: Path) -> dict[str, str]:
    """Row -> result, of the tests that passed."""
    found = {}
    for case in ET.parse(junit).iter('testcase'):
        properties = {p.get('name', ''): p.get('value', '') for p in case.iter('property')}
        if 'regime' in properties and case.find('failure') is None and case.find('error') is None:
            found[properties['regime']] = properties['result']
    return found


def table(rows: dict, found: dict[str, str]) -> str:
    lines = ['| regime | how it is tested | result | note |', '|---|---|---|---|']
    for key, row in rows.items():
        lines.append(f'| {row.regime} | {row.how} | {found[key]} | {row.note} |')
    return '\n'.join(lines) + '\n'


def split(page: str) -> tuple[str, str, str]:
    """What stands before the table, the table, and what stands after it."""
    before, _, rest = page.partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


def main(argv: list[str]) -> int:
    sys.path.insert(0, str(ROOT / 'tests/regimes'))
    from rows import ROWS

    found = results(Path(argv[0]))
    if missing := [key for key in ROWS if key not in found]:
        sys.stderr.write(f'{argv[0]}: no result of {", ".join(missing)}; run all of tests/regimes\n')
        return 1
    before, _, after = split(PAGE.read_text())
    PAGE.write_text(f'{before}{BEGIN}{table(ROWS, found)}{END}{after}')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

"""Prints what CHANGELOG.md says of a version, as notes for its release: ``python docs/release_notes.py [VERSION]``.

Without a version, of the present one. Headings are one level higher; wrapped lines are joined, because release pages
keep line breaks; links to files of the repository become plain text.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADING = re.compile(r'^## (?P<version>\S+)[^\n]*\n', re.MULTILINE)


def notes(changelog: str, version: str) -> str:
    """The notes of a version.

    Raises:
        ValueError: The changelog has no entry of it.
    """
    headings = list(HEADING.finditer(changelog))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading['version'] == version:
            text = changelog[heading.end() : following.start() if following else None].strip()
            break
    else:
        raise ValueError(f'CHANGELOG.md has no entry of {version}; it has: {", ".join(h["version"] for h in headings)}')
    text = re.sub(r'\n +(?=\S)', ' ', text)
    text = re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text)
    return re.sub(r'^#(#+ )', r'\1', text, flags=re.MULTILINE) + '\n'


def main() -> None:
    scope: dict[str, str] = {}
    exec((ROOT / 'mmfixnorm/version.py').read_text(), scope)
    version = sys.argv[1] if len(sys.argv) > 1 else scope['__version__']
    print(notes((ROOT / 'CHANGELOG.md').read_text(), version), end='')


if __name__ == '__main__':
    main()

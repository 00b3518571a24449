"""Writes the badges of README, which are files of the repository: ``python docs/badges.py``.

What they say is read from the package, so that they are true without a network.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'docs/images/badges'
CHARACTER, PADDING = 6.6, 12  # pixels, at 11 px

SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{name}: {text}">
<title>{name}: {text}</title>
<rect width="{width}" height="20" rx="3" fill="#2f6f9f"/>
<path d="M3 0h{left_inner}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#4b5056"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{left_middle}" y="14">{name}</text>
<text x="{right_middle}" y="14">{text}</text>
</g>
</svg>
"""


def texts() -> dict[str, str]:
    """What each badge says."""
    scope: dict[str, str] = {}
    exec((ROOT / 'mmfixnorm/version.py').read_text(), scope)
    setup = (ROOT / 'setup.py').read_text()
    pythons = re.findall(r"'Programming Language :: Python :: (\d\.\d+)'", setup)
    (licence,) = re.findall(r"license='(.*?)'", setup)
    lines = (ROOT / 'requirements/onedl.txt').read_text().splitlines()
    toolboxes = re.findall(r'^onedl-(mmpretrain|mmdetection|mmsegmentation)\b', '\n'.join(lines), re.MULTILINE)
    return {
        'version': scope['__version__'],
        'python': ' | '.join(pythons),
        'toolboxes': ' | '.join(sorted(toolboxes, key=len)),
        'license': licence,
    }


def badge(name: str, text: str) -> str:
    """One badge as SVG."""
    left, right = (round(len(part) * CHARACTER + PADDING) for part in (name, text))
    return SVG.format(
        width=left + right,
        left_inner=left - 3,
        left_middle=left / 2,
        right_middle=left + right / 2,
        name=name,
        text=text,
    )


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / f'{name}.svg').write_text(badge(name, text))


if __name__ == '__main__':
    main()

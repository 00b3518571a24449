"""Few regular expressions for many names of layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

__all__ = ['patterns_for']


def patterns_for(names: Collection[str], others: Collection[str], taken: Collection[str] = ()) -> list[str]:
    r"""Find regular expressions that fully match each of ``names`` by exactly one of them, and none of ``others``.

    None of them is in ``taken``, as equal keys would collide. The pattern that matches most of the remaining names
    comes first. Shorter lists may exist: this is a greedy search over readable patterns, such as a common prefix, or
    names that differ only in their numbers.

    Example:
        >>> names = [f'backbone.layer{i}.se.conv{j}' for i in range(4) for j in range(2)]
        >>> patterns_for(names, ['backbone.layer0.conv1', 'head.fc'])
        ['.*\\.se\\..*']
    """
    candidates: dict[str, int] = {}
    for name in names:
        for rank, pattern in enumerate(_patterns(name)):
            candidates[pattern] = min(rank, candidates.get(pattern, rank))
    matches = {
        pattern: {name for name in names if re.fullmatch(pattern, name)}
        for pattern in candidates
        if pattern not in taken and not any(re.fullmatch(pattern, other) for other in others)
    }
    uncovered, chosen = set(names), []
    while uncovered:
        # Most names, then the simplest kind, then the shortest; ties are broken by the text, so that runs agree.
        fresh = [p for p in matches if matches[p] <= uncovered]  # never empty: each name has its own pattern
        best = min(fresh, key=lambda p: (-len(matches[p]), candidates[p], len(p), p))
        covered = set(matches[best])
        # A plain dot, which matches any character, is harmless in a single name, and reads better.
        single = covered.pop() if len(covered) == 1 else ''
        alone = single.replace('.', '').isidentifier() and not any(re.fullmatch(single, other) for other in others)
        chosen.append(single if alone else best)
        uncovered -= matches[best]
    return chosen


def _patterns(name: str) -> Iterator[str]:
    """Yield patterns from general to special; the last one matches only this name."""
    if name.count('.') == 0:
        yield re.escape(name)
        return
    tokens = name.split('.')
    exact = [re.escape(token) for token in tokens]
    loose = [re.sub(r'\d+', r'\\d+', token) for token in exact]
    for k in range(1, len(tokens)):
        yield r'\.'.join(exact[:k]) + r'\..*'
    for token in exact[1:-1]:
        if not token.isdigit():
            yield rf'.*\.{token}\..*'
    yield r'\.'.join(loose)
    for k in range(1, len(tokens)):
        yield r'.*\.' + r'\.'.join(loose[-k:])
    for k in range(1, len(tokens) - 1):
        yield r'\.'.join(exact[:k]) + r'\..*\.' + loose[-1]
    yield r'\.'.join(exact)

"""The record of a search as JSON lines or CSV, for tables, notebooks and other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmfixnorm.search.record.state import ledger
from mmfixnorm.search.record.study import StudyRecord

#: Entries of a result that are lists or dicts: a cell of a table holds none.
_NESTED = ('built_lrs', 'built_alphas', 'built_weight_decays', 'curve', 'ramp', 'fork_points', 'warnings')


def exported_rows(record: StudyRecord, *, search: str) -> list[dict[str, Any]]:
    """List the attempts of a search as plain data, in the order in which they ended.

    Args:
        record (StudyRecord): The record.
        search (str): Name of the search, which is in each row.

    Returns:
        list[dict]: What was to be trained (``key``, ``stage``, ``lr``, ..., ``fraction``), how that ended (all of
        ``result.json``), ``ended`` (local time), ``cost`` (of this attempt, in T_max) and ``cost_so_far``.
    """
    rows = []
    for attempt, so_far in zip(record.attempts, ledger(record.attempts), strict=True):
        spec, result = attempt.spec.to_dict(), vars(attempt.result)
        spec |= spec.pop('others', {})  # each number of search.space by its key
        ended = attempt.ended.isoformat(timespec='seconds')
        cost = attempt.spent if attempt.result.finished else 0.0
        rows.append({'search': search, **spec, **result, 'ended': ended, 'cost': cost, 'cost_so_far': so_far})
    return rows


def to_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write each row as one line of JSON."""
    return ''.join(json.dumps(row) + '\n' for row in rows)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the rows as CSV with a line of names; without validation curves and other lists."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in _NESTED))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


#: By the name of the format.
FORMATS: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {'jsonl': to_json_lines, 'csv': to_csv}

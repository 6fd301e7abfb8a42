"""The figures of a model along time, as a certificate records them, and which have become worse.

The record holds the figures that a stream is built on (is it exact, how far it looks ahead, what it
carries) and the operators they come from, so that a change is reported with the line that made it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from pgt_fx.compiler.report import Report
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.demanded import frames_in_words, furthest

Operator = Mapping[str, Any]


def in_time(prog: Progressive, waiting: Report) -> dict[str, Any]:
    """Plain data (JSON-able).

    Args:
        prog: the model as the user has it: what it carries is for its own options and dtype.
        waiting: the report of the one that waits until it is exact.
    """
    report = copy.deepcopy(prog).eval().report if prog.training else prog.report
    inexact = {(row.name, row.what) for row in waiting.inexact}
    return {
        "exact": waiting.exact and prog.options.markov.exact,
        "look_ahead": report.look_ahead,
        "state_bytes": report.state_bytes,
        "grows": report.grows,
        "operators": [
            {
                "name": row.name,
                "exact": (row.name, row.what) not in inexact,
                "future": row.future if row.stride else 0,  # what is pooled away reads no further
                "state_bytes": row.state_bytes,
                "where": row.place,
                "reason": row.reason,
            }
            for row in report.rows
        ],
    }


def worse(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What has become worse, in words: exactness, look-ahead, state; each with the operator that
    did it, where one is found. What an old record does not say is not compared."""
    return [
        *_exactness(old, new),
        *_look_ahead(old, new),
        *_state(old, new),
    ]


def better(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The same the other way round, without operators: what was there may be gone."""
    lines = worse({**new, "operators": []}, {**old, "operators": [], "where": ""})
    return [_turned(line) for line in lines]


def _turned(line: str) -> str:
    what, _, change = line.partition(": ")
    now, _, was = change.partition(" → ")
    return f"{what}: {was} → {now}"


def _exactness(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if not old.get("exact") or new.get("exact"):
        return []
    guilty = [o for o in new.get("operators", ()) if not o["exact"]]
    return [f"exactness: exact → not exact{_blamed(guilty, old)}"]


def _look_ahead(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if "look_ahead" not in old or "look_ahead" not in new:
        return []
    was, now = old["look_ahead"], new["look_ahead"]
    if len(was) != len(now):
        was, now = [furthest(was)], [furthest(now)]
    if not any(_further(b, a) for a, b in zip(was, now, strict=True)):
        return []
    change = f"look-ahead: {_frames(was)} → {_frames(now)}"
    if new.get("where"):  # of a model that was measured as it is
        return [f"{change}; look at {new['where']}"]
    return [change + _look_at(_changed(old, new, "future", _further))]


def _state(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if "state_bytes" not in old or "state_bytes" not in new:
        return []
    was, now = _size(old), _size(new)
    if was == now or (old["grows"] and not new["grows"]):
        return []
    if old["grows"] == new["grows"] and new["state_bytes"] <= old["state_bytes"]:
        return []
    changed = _changed(old, new, "state_bytes", lambda new, old: new > (old or 0))
    changed.sort(key=lambda pair: (pair[0] or {}).get("state_bytes", 0) - pair[1]["state_bytes"])
    return [f"state: {was} → {now}" + _look_at(changed)]


def _size(record: Mapping[str, Any]) -> str:
    growth = " after one clip, and grows with the video" if record["grows"] else ""
    return f"{record['state_bytes']} B{growth}"


def _frames(counts: Sequence[int | None]) -> str:
    return " and ".join(map(frames_in_words, counts)) or "no frame"


def _further(one: int | None, other: int | None) -> bool:
    """Whether one look-ahead reaches further than another; None is all of time."""
    return other is not None and (one is None or one > other)


def _blamed(guilty: Sequence[Operator], old: Mapping[str, Any]) -> str:
    """Operators that are not exact, those first that were not there before."""
    known = {o["name"] for o in old.get("operators", ()) if not o["exact"]}
    new = [o for o in guilty if o["name"] not in known] or list(guilty)
    if not new:
        return ""
    more = f" and {len(new) - 1} more" if len(new) > 1 else ""
    reason = f": {new[0]['reason']}" if new[0].get("reason") else ""
    return f"; look at {new[0]['where']}{reason}{more}"


def _look_at(changed: Sequence[tuple[Operator | None, Operator]]) -> str:
    return f"; look at {changed[0][1]['where']}" if changed else ""


def _changed(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    key: str,
    worse: Callable[[Any, Any], bool],
) -> list[tuple[Operator | None, Operator]]:
    """Operators, as they were and as they are, of which a figure has become worse; one that was not
    there before is compared with those in front of it."""
    before, after = old.get("operators", []), new.get("operators", [])
    names = [o["name"] for o in before], [o["name"] for o in after]
    pairs: list[tuple[Operator | None, Operator]] = []
    for kind, i, j, k, n in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        same = kind == "equal" or (kind == "replace" and j - i == n - k)
        pairs += [(before[i + m] if same else None, after[k + m]) for m in range(n - k)]
    out, reached = [], 0
    for was, now in pairs:
        base = was[key] if was is not None else reached if key == "future" else 0
        if worse(now[key], base):
            out.append((was, now))
        if was is not None and key == "future" and was[key] is not None:
            reached = max(reached, was[key])
    return out

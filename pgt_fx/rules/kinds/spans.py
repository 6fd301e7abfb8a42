"""The frames that each element of a value reads, propagated through one operator."""

from __future__ import annotations

from pgt_fx.core.law import Law

#: Per element the first and the last frame that it reads; None: none.
Spans = list[tuple[int, int] | None]


def followed(
    law: Law | None, operands: list[dict[int, Spans]], count: int, lengths: tuple[int, ...]
) -> dict[int, Spans]:
    """Spans of the ``count`` elements of a result, per input path.

    One that reaches over an end of the video is written as beginning before it, or ending after it:
    how far it would go on is not seen there.

    Args:
        law: which elements of its operands an element reads; None: those at its own place.
        operands: their spans.
        lengths: frames per input path.
    """
    out: dict[int, Spans] = {}
    for path in sorted({p for s in operands for p in s}):
        spans = [s[path] for s in operands if path in s]
        if law is not None:
            ends = (-1, -1), (lengths[path], lengths[path])
            out[path] = [
                _hull(
                    [
                        read
                        for span in spans
                        for t in law.taps(j)
                        for read in _at(t, law, span, ends)
                    ]
                )
                for j in range(count)
            ]
        else:
            out[path] = [_hull([span[j] for span in spans if j < len(span)]) for j in range(count)]
    return out


def _at(tap: int, law: Law, span: Spans, ends: tuple[tuple[int, int], tuple[int, int]]) -> Spans:
    """What is read at an element, which may stand in a padding: made of another one where it
    mirrors or repeats it."""
    if 0 <= tap < len(span):
        return [span[tap]]
    meant = law.stands_for(tap, len(span))
    found = [span[meant]] if meant is not None and 0 <= meant < len(span) else []
    return [ends[tap >= len(span)], *found]


def _hull(spans: Spans) -> tuple[int, int] | None:
    known = [s for s in spans if s is not None]
    return (min(s[0] for s in known), max(s[1] for s in known)) if known else None

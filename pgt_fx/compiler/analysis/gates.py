"""Gates: values reduced over all of time that are combined with single frames again (DESIGN §6)."""

from __future__ import annotations

from pgt_fx.compiler.analysis.timed_graph import Analysis, once


@once
def gates(analysis: Analysis) -> set[str]:
    """The operators whose result, pooled over time, is combined with single frames again."""
    out: set[str] = set()
    for value in analysis.values.values():
        for one in value if isinstance(value, list) else [value]:
            if one.clock is not None:
                out |= one.pooled
    return out

"""Which operators make a model late: look-ahead of each, and what the model's would be without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.receptive_field import Reach
from pgt_fx.compiler.analysis.walk import Analysis
from pgt_fx.core.laws import Interpolate, Law, Repeat, Transposed, Window


def elements_ahead(law: Law) -> Fraction:
    """How far after its own place in the input an output reads, in elements of the input."""
    step = Fraction(1)
    if isinstance(law, Window):
        step = Fraction(law.stride)
    elif isinstance(law, Transposed):
        step = Fraction(1, law.stride)
    elif isinstance(law, (Repeat, Interpolate)):
        step = 1 / Fraction(law.scale)
    middle = range(60, 60 + 12)  # far from both ends, and every phase of small rates
    return max(max(law.taps(j)) - j * step for j in middle)


@dataclass(frozen=True)
class LookAhead:
    """One operator that looks into the future, net of the padding that stands in front of it.

    Attributes:
        frames: how far, in frames of the path with the fewest.
        pad: the padding operator in front, where it has one of its own (``F.pad``).
    """

    frames: Fraction
    pad: Window | None = None


def look_aheads(analysis: Analysis, reach: dict[str, dict[int, Reach]]) -> dict[str, LookAhead]:
    """Every windowed operator that looks ahead, by node name."""
    out: dict[str, LookAhead] = {}
    credit: dict[str, tuple[Fraction, Window]] = {}
    ratio, least = analysis.spec.ratio, min(analysis.spec.ratio)
    for name, operation in analysis.operations.items():
        law = operation.outcome.sliding()
        if law is None:
            continue
        source = analysis.streams(operation.node)[0].name
        frames = min(
            (r.stride * least / ratio[path] for path, r in reach.get(source, {}).items()),
            default=Fraction(1),
        )
        own = elements_ahead(law) * frames
        before, pad = credit.get(source, (Fraction(0), None))
        own += before
        if own > 0:
            out[name] = LookAhead(own, pad)
        elif own < 0 and isinstance(law, Window) and law.kernel == 1:
            # Padding in front lets the operator behind it look back: it is that one's.
            credit[name] = own, law
    return out


def delay(analysis: Analysis, ahead: Mapping[str, LookAhead], without: Iterable[str] = ()) -> int:
    """Frames that the outputs are late by: the longest path of look-aheads to any of them.

    Args:
        ahead: by operator (:func:`look_aheads`).
        without: operators that are taken to look back only.
    """
    gone = set(without)
    none = Fraction(0)
    total: dict[str, Fraction] = {}
    for node in analysis.captured.graph.nodes:
        before = max((total.get(n.name, none) for n in node.all_input_nodes), default=none)
        found = None if node.name in gone else ahead.get(node.name)
        total[node.name] = before + (found.frames if found else none)
    outputs = [o.name for o in analysis.outputs if isinstance(o, fx.Node)]
    return math.ceil(max((total[name] for name in outputs), default=none))

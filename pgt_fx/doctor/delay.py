"""Which operators make a model late: look-ahead of each, and what the model's would be without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import fx

from pgt_fx.compiler.analysis.receptive_field import Reach
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.core.law import Law


def elements_ahead(law: Law) -> Fraction:
    """How far after its own place in the input an output reads, in elements of the input."""
    step = law.inputs_per_output
    phases = max(1, step.denominator)
    # Far from the start, of which an interpolation makes an exception, and every phase.
    return max(max(law.taps(j)) - j * step for j in range(8 * phases, 9 * phases))


@dataclass(frozen=True)
class LookAhead:
    """One operator that looks into the future, net of the padding that stands in front of it.

    Attributes:
        frames: how far, in frames of the path with the fewest.
        pad: padding, left and right, of an operator of its own in front (``F.pad``), if any.
    """

    frames: Fraction
    pad: tuple[int, int] | None = None


def look_aheads(analysis: Analysis, reach: dict[str, dict[int, Reach]]) -> dict[str, LookAhead]:
    """Every windowed operator that looks ahead, by node name."""
    out: dict[str, LookAhead] = {}
    credit: dict[str, tuple[Fraction, tuple[int, int]]] = {}
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
        elif own < 0 and law.pads_only is not None:
            # Padding in front lets the operator after it look back: it is that one's.
            credit[name] = own, law.pads_only
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

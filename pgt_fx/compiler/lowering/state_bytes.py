"""Bytes of state that each operator carries from step to step."""

from __future__ import annotations

from collections import defaultdict

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.guards.length_guard import value_of
from pgt_fx.compiler.analysis.stream_phases import phases
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.runtime.plan import plan
from pgt_fx.runtime.step_graph import Emitted
from pgt_fx.runtime.work import Work


def state_bytes(analysis: Analysis, emitted: Emitted) -> dict[str, int]:
    """Bytes carried per slot once a stream is under way, at the example's size and batch 1; under
    ``"@" + name`` those of all slots of a captured node."""
    ratio = analysis.spec.ratio
    sizes = example_sizes(analysis)
    works: defaultdict[str, list[Work]] = defaultdict(list)
    for n in _moments(emitted, ratio):
        before, after = (tuple(m * r for r in ratio) for m in (n, n + 1))
        for slot, work in plan(emitted.schedulable, before, after, False).due.items():
            works[slot].append(work)
    clip = tuple(analysis.spec.lengths)
    out: dict[str, int] = {}
    for slot, item in emitted.schedulable.items.items():
        elements = 0 if slot in emitted.shared else item.carried(works[slot], clip)
        out[slot] = 0
        if elements:
            node = emitted.origin[slot]
            out[slot] = elements * element_bytes(analysis, node, sizes, pooled=item.pooled)
    for slot, owner in emitted.owner.items():
        out[f"@{owner}"] = out.get(f"@{owner}", 0) + out[slot]
    return out


def _moments(emitted: Emitted, ratio: tuple[int, ...]) -> range:
    """Moments, in frames of the path with the fewest, at which a stream is under way."""
    items = emitted.schedulable.items.values()
    clocks = [clock for item in items for clock in item.counted]
    return phases(clocks, ratio, [window for item in items for window in item.windows])


def example_sizes(analysis: Analysis) -> dict[sympy.Symbol, int]:
    """Size symbols of the capture -> the example's sizes, with a batch of one."""
    out: dict[sympy.Symbol, int] = {}
    for node in analysis.captured.graph.nodes:
        leaf = analysis.captured.inputs.get(node.name) if node.op == "placeholder" else None
        if leaf is None or not isinstance(node.meta.get("val"), Tensor):
            continue
        shape = analysis.spec.shapes[leaf] or ()
        for d, s in enumerate(node.meta["val"].shape):
            if isinstance(s, torch.SymInt) and isinstance(s.node.expr, sympy.Symbol):
                out[s.node.expr] = 1 if d == 0 else shape[d]
    return out


def element_bytes(
    analysis: Analysis, node: fx.Node, sizes: dict[sympy.Symbol, int], *, pooled: bool = False
) -> int:
    """Bytes of one element along time (of the whole value when it is pooled)."""
    value, known = node.meta["val"], analysis.values[node.name]
    if isinstance(known, list):  # several results: the first has time
        value, known = value[0], known[0]
    layout = known.layout or ()
    count = 1
    for dim, s in zip(layout, value.shape, strict=True):
        timed = any(f.time for f in dim)
        if timed and not pooled:
            for factor in dim:
                if factor.batch:
                    continue
                count *= 1 if factor.time else factor.size
            continue
        expr = value_of(s.node.expr, sizes) if isinstance(s, torch.SymInt) else s
        known_size = expr is not None and getattr(expr, "is_number", True)
        count *= int(expr) if known_size else int(s.node.hint)
    return count * value.element_size()

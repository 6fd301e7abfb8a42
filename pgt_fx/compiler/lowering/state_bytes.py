"""How many bytes each operator carries from step to step."""

from __future__ import annotations

import sympy
import torch
from torch import Tensor, fx

from pgt_fx.capture.guards.length_guard import value_of
from pgt_fx.compiler.analysis.stream_phases import phases
from pgt_fx.compiler.analysis.walk import Analysis
from pgt_fx.core.laws import Clock
from pgt_fx.runtime.plan import (
    AlignItem,
    ConcatItem,
    MemoryItem,
    PoolItem,
    ScanItem,
    TableItem,
    WindowItem,
    plan,
)
from pgt_fx.runtime.step_graph import Emitted


def state_bytes(analysis: Analysis, emitted: Emitted) -> dict[str, int]:
    """Bytes carried per slot once a stream is under way, at the example's size and batch 1; under
    ``"@" + name`` those of all slots of a captured node."""
    ratio = analysis.spec.ratio
    sizes = example_sizes(analysis)
    lengths: dict[str, int] = {}
    for n in _moments(emitted, ratio):
        before, after = (tuple(m * r for r in ratio) for m in (n, n + 1))
        work = plan(emitted.schedulable, before, after, False)
        for slot, due in work.due.items():
            keep = getattr(due, "keep", (0, 1))
            lengths[slot] = max(lengths.get(slot, 0), keep[1] - keep[0])
    for slot, item in emitted.schedulable.items.items():
        if isinstance(item, MemoryItem) and item.size is not None:
            lengths[slot] = item.size  # however long it takes to fill
    out: dict[str, int] = {}
    for slot, item in emitted.schedulable.items.items():
        if isinstance(item, TableItem) or slot in emitted.shared:
            out[slot] = 0
            continue
        node = emitted.origin[slot]
        reduced = isinstance(item, PoolItem) and item.running
        per_element = element_bytes(analysis, node, sizes, pooled=reduced)
        law_is_free = isinstance(item, (WindowItem, AlignItem)) and lengths.get(slot, 0) <= 0
        out[slot] = 0 if law_is_free else per_element * max(0, lengths.get(slot, 0))
        if isinstance(item, ScanItem):
            out[slot] = item.states * per_element
        if isinstance(item, MemoryItem) and item.size is None:
            # It grows with the video: what it is after one clip.
            clip = tuple(analysis.spec.lengths)
            out[slot] = item.source.at(clip, True).total * per_element
    for slot, owner in emitted.owner.items():
        out[f"@{owner}"] = out.get(f"@{owner}", 0) + out[slot]
    return out


def _moments(emitted: Emitted, ratio: tuple[int, ...]) -> range:
    """Moments, in frames of the path with the fewest, at which a stream is under way."""
    clocks: list[Clock] = []
    windows = []
    for item in emitted.schedulable.items.values():
        if not isinstance(item, ConcatItem):
            clocks.append(item.source)
        if isinstance(item, (WindowItem, AlignItem, ConcatItem)):
            clocks.append(item.out)
        if isinstance(item, WindowItem):
            windows.append((item.law, item.source))
    return phases(clocks, ratio, windows)


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

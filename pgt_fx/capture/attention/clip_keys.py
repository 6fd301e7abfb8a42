"""What a step carries of an attention in a graph that was captured at the length of its clip: the
keys and values of the clip before, and how they are put where they stand by now.

Rotary phases that are linear in time are continued backwards. A table over query and key positions
has entries for as far as a clip reaches; of one that depends on their distance alone all of these
are used, and beyond them the farthest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from pgt_fx.capture.attention.clip_attention import (
    MASKS,
    ClipAttention,
    Found,
    find_clip_attention,
)
from pgt_fx.capture.attention.clip_places import Coordinates, Grid, Places
from pgt_fx.capture.attention.clip_values import NoValue, Values
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.schema import named, schema_name

#: A number that is added to hide an entry is at most this.
HIDES = -99.0
#: Phases are linear in time within this, of their largest.
ROUNDING = 1e-5
#: Between raw keys and those that a rotary embedding has turned.
TURNS = {
    f"aten::{name}"
    for name in (
        *("mul", "add", "sub", "neg", "cat", "stack", "slice", "select", "unbind", "split"),
        *("chunk", "flatten", "unflatten", "view", "reshape", "transpose", "permute", "expand"),
        *("unsqueeze", "squeeze", "to", "_to_copy", "contiguous", "clone", "alias", "type_as"),
        *("float", "split_with_sizes", "tensor_split", "repeat_interleave", "addcmul", ""),
    )
}
PHASES = ("aten::sin", "aten::cos", "aten::polar")
Kept = Literal["mask", "table"]


@dataclass(frozen=True)
class Table:
    """What is added to the map of an attention.

    Attributes:
        kind: a "mask" hides entries, and is for carried keys as for those of the step at their
            places; a "table" of positions is continued.
        near: where it depends on distances alone, for each entry of the clip before the entry (in
            rows and columns as one) that is as far away; None where it can't be determined.
    """

    kind: Kept
    near: Tensor | None = None


@dataclass(frozen=True)
class Rotary:
    """Keys that are turned by where they stand.

    Attributes:
        source: the keys as they are before.
        phases: nodes whose sine and cosine they are turned by, each with the axis of the keys.
        first, last: for each key the one at the same place in the clip's first frame, and in its
            last.
        share: a clip's length, of the way from a clip's first frame to its last.
    """

    source: fx.Node
    phases: tuple[tuple[fx.Node, int], ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    share: float


@dataclass
class ClipKeys:
    """One attention over the frames of the clip.

    Attributes:
        farthest: for each key the one at the same place in the clip's first frame; None where that
            can't be determined.
        tables: what is added to the map, by the operator that does (of
            ``scaled_dot_product_attention`` itself).
        rotary: how its keys are turned; None where they aren't, or not so that it could be gone on
            with.
        turned: whether they are turned by sines and cosines at all.
    """

    attention: ClipAttention
    farthest: tuple[int, ...] | None = None
    tables: dict[fx.Node, Table] = field(default_factory=dict)
    rotary: Rotary | None = None
    turned: bool = False


def find_clip_keys(
    captured: Captured,
    times: Mapping[int, int | None],
    shapes: Mapping[int, Any],
    tensors: Mapping[str, Tensor],
) -> list[ClipKeys]:
    """The attentions of a graph whose keys are of several frames of the clip.

    Args:
        times: leaf of the clip -> its axis of time.
        shapes: leaf -> sizes of the example.
        tensors: parameters and buffers by attribute path.
    """
    found = find_clip_attention(captured, times)
    try:
        places: Coordinates | None = Coordinates(captured, times, shapes, tensors, found.attentions)
    except Exception:  # an operator that makes nothing of coordinates: then no place is known
        places = None
    frames = max(captured.clip.frames) if captured.clip is not None else 1
    return [
        keys
        for one in found.attentions
        if (keys := _keys(captured, one, found, places, Values(captured, shapes, tensors), frames))
    ]


def _keys(
    captured: Captured,
    attention: ClipAttention,
    found: Found,
    places: Coordinates | None,
    values: Values,
    frames: int,
) -> ClipKeys | None:
    out = ClipKeys(attention)
    stand = None if places is None else places.keys(attention)
    if stand is not None and not stand.over_time:
        return None
    columns = rows = None
    if stand is not None:
        columns = _regular(stand)
    if columns is not None and places is not None:
        out.farthest = tuple(columns.first(j) for j in range(len(columns.where)))
        queries = places.rows(attention)
        rows = None if queries is None else _regular(queries)
    for node, operand in _added(attention):
        kind = "mask" if is_mask(node) else _kind(operand, found, values)
        near = None
        if kind == "table" and columns is not None and rows is not None:
            near = _by_distance(operand, found, values, rows, columns, frames)
        out.tables[node] = Table(kind, near)
    _turn(captured, out, found, values, columns, frames)
    return out


def _regular(places: Places) -> Grid | None:
    grid = Grid(places)
    return grid if grid.regular else None


def _added(attention: ClipAttention) -> list[tuple[fx.Node, fx.Node | None]]:
    """What is added to the map, by the operator that does: a tensor, or None where it is written
    into a part of it."""
    if attention.softmax is None:
        mask = named(attention.sum).get("attn_mask")
        return [(attention.sum, mask)] if isinstance(mask, fx.Node) else []
    out: list[tuple[fx.Node, fx.Node | None]] = []
    for turn in attention.before:
        if turn.how == "table":
            others = [n for n in turn.node.args if isinstance(n, fx.Node) and n is not turn.map]
            out.append((turn.node, others[0] if others else None))
        elif turn.how == "written":
            out.append((turn.node, None))
    return out


def _kind(operand: fx.Node | None, found: Found, values: Values) -> Kept:
    if operand is None or operand in found.video:
        return "table"
    if operand.meta["val"].dtype == torch.bool:
        return "mask"
    if values.learned(operand):
        return "table"
    try:
        value = values.of(operand)
    except NoValue:
        return "table"
    return "mask" if bool(((value == 0) | (value <= HIDES)).all()) else "table"


def is_mask(turn_node: fx.Node) -> bool:
    """Whether an operator hides entries of a map and does nothing else."""
    return schema_name(turn_node) in MASKS


def _by_distance(
    operand: fx.Node | None,
    found: Found,
    values: Values,
    rows: Grid,
    columns: Grid,
    frames: int,
) -> Tensor | None:
    """For each entry of the clip before the entry of the table that is as far away in time at the
    same places; beyond the farthest that there is, that one.

    Read from the model's own table with every parameter another number: then two entries that are
    the same are the same parameter.
    """
    if operand is None or operand in found.video or rows.frames != columns.frames:
        return None
    shape = operand.meta["val"].shape
    if tuple(shape[-2:]) != (len(rows.where), len(columns.where)):
        return None
    try:
        table = values.drawn(operand).flatten(0, -3)[0] if len(shape) > 2 else values.drawn(operand)
    except NoValue:
        return None
    steps = len(rows.frames)
    spacing = rows.frames[1] - rows.frames[0]
    even = [round(f - rows.frames[0] - k * spacing, 4) for k, f in enumerate(rows.frames)]
    if any(even) or frames % spacing:
        return None
    clip = round(frames / spacing)
    picked = torch.empty(len(rows.where), len(columns.where), dtype=torch.long)
    for q, row in enumerate(rows.where):
        for j, column in enumerate(columns.where):
            if row is None or column is None:
                picked[q, j] = q * len(columns.where) + columns.first(j)
                continue
            away = min(row[0] - column[0] + clip, steps - 1)
            at = rows.at.get((steps - 1, row[1])), columns.at.get((steps - 1 - away, column[1]))
            if at[0] is None or at[1] is None:
                return None
            picked[q, j] = at[0] * len(columns.where) + at[1]
            # The table has to say the same of each two entries that are as far apart.
            own = row[0] - column[0]
            if own >= 0:
                like = columns.at.get((steps - 1 - own, column[1]))
                if like is None or table[q, j] != table[at[0], like]:
                    return None
    return picked


# -- rotary --------------------------------------------------------------------------------------


def _turn(
    captured: Captured,
    out: ClipKeys,
    found: Found,
    values: Values,
    columns: Grid | None,
    frames: int,
) -> None:
    """Note how keys are turned by their positions, and whether that can be gone on with."""
    keys = out.attention.keys.node
    source, phases = _before_the_turn(keys, found)
    out.turned = bool(phases)
    if source is None or not phases or columns is None:
        return
    count = len(columns.where)
    dim = out.attention.keys.dim
    if dim != -2 or source.meta["val"].shape[-2] != count:
        return
    first = tuple(columns.first(j) for j in range(count))
    last = tuple(columns.last(j) for j in range(count))
    known = []
    for phase in phases:
        shape = phase.meta["val"].shape
        dims = [d for d, n in enumerate(shape) if n == count]
        if not dims:
            return
        try:
            value = values.of(phase).movedim(dims[0], 0)
        except NoValue:
            return
        if not _linear(value, columns, first, last):
            return
        known.append((phase, dims[0]))
    spacing = columns.frames[1] - columns.frames[0]
    share = frames / spacing / (len(columns.frames) - 1)
    out.rotary = Rotary(source, tuple(known), first, last, share)


def _linear(phase: Tensor, columns: Grid, first: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """Whether phases are linear in the frame that a key is of."""
    steps = len(columns.frames) - 1
    begin, end = phase[list(first)], phase[list(last)]
    at = [0.0 if place is None else place[0] / steps for place in columns.where]
    share = torch.tensor(at, dtype=phase.dtype).view(-1, *[1] * (phase.dim() - 1))
    apart = (begin + (end - begin) * share - phase).abs().max()
    return bool(apart <= ROUNDING * phase.abs().max().clamp_min(1.0))


def _before_the_turn(keys: fx.Node, found: Found) -> tuple[fx.Node | None, tuple[fx.Node, ...]]:
    """The last value from which all of the keys are made, from before they were multiplied by sines
    and cosines of their positions; and what these are of."""
    front = [keys]
    phases: list[fx.Node] = []
    for _ in range(256):
        front.sort()
        if len(front) == 1 and phases and isinstance(front[0].meta.get("val"), Tensor):
            return front[0], tuple(dict.fromkeys(phases))
        node = front.pop()
        name = schema_name(node)
        if name not in TURNS and not (name == "" and node.op == "call_function"):
            return None, tuple(phases)
        for operand in node.all_input_nodes:
            if operand in found.video or operand.meta.get("val").__class__ in (list, tuple):
                if operand not in front:
                    front.append(operand)
            else:
                phases += _phases(operand)
        if not front:
            break
    return None, tuple(phases)


def _phases(node: fx.Node) -> list[fx.Node]:
    """What the sines and cosines are of that a value without the video is made of."""
    out, queue, seen = [], [node], set()
    while queue:
        one = queue.pop()
        if one in seen:
            continue
        seen.add(one)
        if schema_name(one) in PHASES:
            at = one.args[1] if schema_name(one) == "aten::polar" else one.args[0]
            if isinstance(at, fx.Node):
                out.append(at)
            continue
        queue += one.all_input_nodes
    return out

"""Elements picked by index, and sums of products and distances, along other axes than time."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pgt_fx.core.layout import Dim, Layout, broadcast, has_time, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, rule, wrap

MOVE = "index along channels or space, with time an axis of its own"


def _kept(op: OpView, dim: int, layouts: list[Layout]) -> Layout:
    """The dimensions but one of operands that have their time in the same place.

    Raises:
        Refusal: where time is in that one, or one of the operands is without time.
    """
    if any(dim in time_dims(layout) for layout in layouts):
        name = op.schema.name.removeprefix("aten::")
        raise Refusal(f"{name} along time picks frames by number, which a step doesn't know", MOVE)
    if any(time_dims(layout) != time_dims(layouts[0]) for layout in layouts):
        raise Refusal("picks elements for the first frames alone", MOVE)
    return broadcast([(*layout[:dim], *layout[dim + 1 :]) for layout in layouts])


@rule("gather")
def gather(op: OpView) -> Outcome:
    """out[i][j] = x[index[i][j]][j]: as many as there are indices."""
    source, index = op.layout(op.arg["self"]), op.layout(op.arg["index"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    rest = _kept(op, dim, [source, index])
    out = [*rest[:dim], index[dim], *rest[dim:]]
    return Local(tuple(d if has_time(d) else own for d, own in zip(out, op.out_dims, strict=True)))


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(op: OpView) -> Outcome:
    """x with elements written at given indices."""
    source, index = op.layout(op.arg["self"]), op.layout(op.arg["index"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    written = op.arg.get("src")
    others = [op.layout(written)] if isinstance(written, fx.Node) else []
    _kept(op, dim, [source, index, *others])
    return Local(source)


@rule("index_select")
def index_select(op: OpView) -> Outcome:
    op.only_source("self")
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    rest = _kept(op, dim, [source])
    return Local((*rest[:dim], op.out_dims[dim], *rest[dim:]))


@rule("index_add", "index_copy", "index_fill")
def index_write(op: OpView) -> Outcome:
    """x with slices written at constant indices."""
    source = op.layout(op.arg["self"])
    if op.timed(op.arg["index"]):
        raise Refusal("is given an index for each frame", MOVE)
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    written = op.arg.get("source")
    others = [op.layout(written)] if isinstance(written, fx.Node) else []
    _kept(op, dim, [source, *others])
    return Local(source)


@rule("index")
def index(op: OpView) -> Outcome:
    """x[:, i, :, j]: constant indices stand where the first of them does, or in front where they
    are not side by side."""
    op.only_source("self")
    source, given = op.layout(op.arg["self"]), list(op.arg["indices"])
    taken = [d for d, i in enumerate(given) if i is not None]
    if any(_is_mask(i) for i in given):
        raise Refusal("picks as many elements as a mask has", "use torch.where, or masked_fill")
    if any(has_time(source[d]) for d in taken):
        raise Refusal("index along time picks frames by number, which a step doesn't know", MOVE)
    rest = [dim for d, dim in enumerate(source) if d not in taken]
    side_by_side = taken == list(range(taken[0], taken[-1] + 1))
    at, more = taken[0] if side_by_side else 0, len(op.out_sizes) - len(rest)
    return Local((*rest[:at], *op.out_dims[at : at + more], *rest[at:]))


@rule("index_put")
def index_put(op: OpView) -> Outcome:
    """x with elements written at constant indices along other axes than time."""
    source, given = op.layout(op.arg["self"]), list(op.arg["indices"])
    taken = [d for d, i in enumerate(given) if i is not None]
    indices = [given[d] for d in taken]
    if any(op.timed(i) for i in indices):
        raise Refusal("is given an index for each frame", MOVE)
    if any(_is_mask(i) for i in indices) and (len(given) > 1 or any(map(has_time, source))):
        covered = range(taken[0], taken[0] + indices[0].meta["val"].dim())
        if len(taken) > 1 or any(has_time(source[d]) for d in covered):
            raise Refusal("writes to as many elements as a mask has", "use torch.where")
        taken = list(covered)
        index_rank = 1
    else:
        index_rank = max(i.meta["val"].dim() for i in indices)
    if any(has_time(source[d]) for d in taken):
        raise Refusal(
            "index_put along time picks frames by number, which a step doesn't know", MOVE
        )
    rest = [dim for d, dim in enumerate(source) if d not in taken]
    side_by_side = taken == list(range(taken[0], taken[-1] + 1))
    at = taken[0] if side_by_side else 0
    where = [d + (index_rank if d >= at else 0) for d, dim in enumerate(rest) if has_time(dim)]
    written = op.layout(op.arg["values"])
    rank = len(rest) + index_rank
    if time_dims(written) and [d + rank - len(written) for d in time_dims(written)] != where:
        raise Refusal("what is written has its time elsewhere than what it is written into", MOVE)
    return Local(source)


def _is_mask(given: Any) -> bool:
    kinds = (torch.bool, torch.uint8)
    return isinstance(given, fx.Node) and given.meta["val"].dtype in kinds


@rule("tensordot")
def tensordot(op: OpView) -> Outcome:
    """A sum of products over some axes of both: what is left of the first, then of the second."""
    left, right = op.layout(op.arg["self"]), op.layout(op.arg["other"])
    if time_dims(left) and time_dims(right):
        raise Refusal("multiplies all frames of one operand with all of another")
    out: list[Dim] = []
    for layout, name in ((left, "dims_self"), (right, "dims_other")):
        over = [wrap(int(d), len(layout)) for d in op.arg[name]]
        if any(has_time(layout[d]) for d in over):
            raise Refusal(
                "sums over time with one weight per frame: it fixes the length",
                "use a convolution or a pooling along time",
            )
        out += [dim for d, dim in enumerate(layout) if d not in over]
    return Local(tuple(out))


@rule("cdist", "_cdist_forward")
def cdist(op: OpView) -> Outcome:
    """Distances of the rows of one operand to those of another."""
    left, right = op.layout(op.arg["x1"]), op.layout(op.arg["x2"])
    if has_time(left[-1]) or has_time(right[-1]):
        raise Refusal("takes distances over all of time", "move time in front of the features")
    both = bool(time_dims(left)) and bool(time_dims(right))
    if both and (has_time(left[-2]) or has_time(right[-2])):
        raise Refusal("takes distances between all frames of the video")
    return Local((*broadcast([left[:-2], right[:-2]]), left[-2], right[-2]))


@rule("cosine_similarity", "pairwise_distance")
def similarity(op: OpView) -> Outcome:
    """Of vectors along one axis, which is gone."""
    both = broadcast([op.layout(op.arg["x1"]), op.layout(op.arg["x2"])])
    dim = wrap(op.static(op.arg.get("dim", -1), "dim"), len(both))
    if has_time(both[dim]):
        raise Refusal("compares over all of time", "compare along channels or space")
    kept: list[Dim] = [()] if op.arg.get("keepdim") else []
    return Local((*both[:dim], *kept, *both[dim + 1 :]))

"""Reductions over time: all elements become one. What "all" means is the policy (DESIGN §6)."""

from __future__ import annotations

from typing import Any

from torch import fx

from pgt_fx.capture.attention.find_attention import NOTE
from pgt_fx.core.laws import Repeat, Window
from pgt_fx.core.layout import Dim, Layout, has_time, plain, relabel, time_dims
from pgt_fx.core.lengths.questions import same
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.rules.attention import seen_band
from pgt_fx.rules.registry import (
    Local,
    OpView,
    Outcome,
    Reduced,
    Refusal,
    SizeAtHand,
    StepOnly,
    Windowed,
    alone,
    hint,
    rule,
    wrap,
)
from pgt_fx.rules.resizing import Factor, Resize


def reduce_over(
    op: OpView, how: str, dims: list[int], keepdim: bool, options: dict[str, Any] | None = None
) -> Outcome:
    """A reduction over ``dims``: local when time is not among them."""
    source = op.layout(op.tensors[0])
    dims = sorted(wrap(d, len(source)) for d in dims) or list(range(len(source)))
    layout: Layout = tuple(
        () if d in dims else dim for d, dim in enumerate(source) if keepdim or d not in dims
    )
    over = [d for d in dims if has_time(source[d])]
    if not over:
        return Local(layout)
    if any(f.time == 2 for d in over for f in source[d]):
        return StepOnly(layout, f"{how} over the keys of an attention map")
    if any(f.batch for d in dims for f in source[d]):
        raise Refusal(
            f"{how} over the batch and time at once mixes the rows of a batch",
            "reduce over time alone",
        )
    source_name = next(k for k, v in op.arg.items() if v is op.tensors[0])
    return Reduced(
        how, layout, source_name, tuple(dims), keepdim, options or {}, f"{how} over all time"
    )


def _dims(op: OpView) -> list[int]:
    dim = op.arg.get("dim")
    if dim is None:
        return []
    return [int(d) for d in dim] if isinstance(dim, (list, tuple)) else [int(dim)]


@rule("mean", "sum", "amax", "amin", "any", "all", "prod")
def reduction(op: OpView) -> Outcome:
    """Sum-like reductions carry one running element."""
    how = op.schema.name.removeprefix("aten::")
    how = {"amax": "max", "amin": "min"}.get(how, how)
    return reduce_over(op, how, _dims(op), bool(op.arg.get("keepdim", False)))


@rule("max", "min")
def extremum(op: OpView) -> Outcome:
    """``max(dim)`` returns indices as well: along time these count from the step's start."""
    how = op.schema.name.removeprefix("aten::")
    if op.schema.overload_name == "other":
        from pgt_fx.rules.pointwise import elementwise

        return elementwise(op)
    if op.schema.overload_name == "":
        return reduce_over(op, how, [], False)
    return _indexed(op, f"{how}(dim)", how)


@rule("argmax", "argmin", "median", "nanmedian", "mode", "kthvalue")
def indexed(op: OpView) -> Outcome:
    """Order statistics and indices: along time they need all frames at once."""
    return _indexed(op, op.schema.name.removeprefix("aten::"), "")


def _indexed(op: OpView, name: str, how: str) -> Outcome:
    source = op.layout(op.tensors[0])
    dims = [wrap(d, len(source)) for d in _dims(op)] or list(range(len(source)))
    keepdim = bool(op.arg.get("keepdim", False))
    layout: Layout = tuple(
        () if d in dims else dim for d, dim in enumerate(source) if keepdim or d not in dims
    )
    if any(has_time(source[d]) for d in dims):
        raise Refusal(
            f"{name} along time returns positions in the video, which a step doesn't know",
            f"use a{how}(dim), which returns values alone" if how else "use mean, amax or amin",
        )
    results = op.node.meta["val"]
    return Local([layout] * len(results)) if isinstance(results, (tuple, list)) else Local(layout)


@rule("var", "std")
def spread(op: OpView) -> Outcome:
    """Variance over time: count, mean and squared deviations are carried (Chan et al. 1979)."""
    how = op.schema.name.removeprefix("aten::")
    correction = op.arg.get("correction")
    if correction is None:
        correction = 1 if op.arg.get("unbiased", True) else 0
    options = {"correction": float(correction)}
    return reduce_over(op, how, _dims(op), bool(op.arg.get("keepdim", False)), options)


@rule("var_mean", "std_mean", "logsumexp", "norm", "linalg_vector_norm", "count_nonzero")
def not_over_time(op: OpView) -> Outcome:
    """Reductions that are only supported over axes without time."""
    source = op.layout(op.tensors[0])
    dims = [wrap(d, len(source)) for d in _dims(op)] or list(range(len(source)))
    if any(has_time(source[d]) for d in dims):
        name = op.schema.name.removeprefix("aten::")
        raise Refusal(f"no rule for {name} over time", "spell it with mean, sum, amax or var")
    keepdim = bool(op.arg.get("keepdim", False))
    layout: Layout = tuple(
        () if d in dims else dim for d, dim in enumerate(source) if keepdim or d not in dims
    )
    results = op.node.meta["val"]
    return Local([layout] * len(results)) if isinstance(results, (tuple, list)) else Local(layout)


@rule(
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
def adaptive_pool(op: OpView) -> Outcome:
    """To one element along time: a mean or max over all of it. To several: the bins depend on
    the length of the video, so they can only be laid within a step."""
    name = op.schema.name.removeprefix("aten::")
    rank = int(name[-2])
    source = op.layout(op.arg["self"])
    values = op.node.meta["val"]
    several = not hasattr(values, "shape")
    sizes = [hint(s) for s in (values[0] if several else values).shape[-rank:]]
    tail: list[Dim] = [
        source[len(source) - rank + i]
        if has_time(source[len(source) - rank + i])
        else plain([s])[0]
        for i, s in enumerate(sizes)
    ]
    at = [i for i in range(rank) if has_time(source[len(source) - rank + i])]
    layout = source[:-rank] + tuple(tail)
    if not at:
        return Local([layout, layout]) if several else Local(layout)
    want = op.arg["output_size"]
    want = list(want) if isinstance(want, (list, tuple)) else [want] * rank
    if several:
        raise Refusal(
            "returns indices along time", "use adaptive max pooling without return_indices"
        )
    if want[at[0]] != 1:
        return _in_bins(op, rank, at[0], layout, want)
    tail[at[0]] = ()
    how = "mean" if "avg" in name else "max"
    return Reduced(
        how,
        source[:-rank] + tuple(tail),
        "self",
        (len(source) - rank + at[0],),
        True,
        {"then": [1 if i == at[0] else w for i, w in enumerate(want)], "rank": rank},
        f"{how} over all time",
    )


def _in_bins(op: OpView, rank: int, at: int, layout: Layout, want: list[Any]) -> Outcome:
    """An adaptive pool of time to several elements: as many as there are, a whole part of them, or
    a whole multiple. Of any other number the borders of the bins depend on where the video ends.
    """
    source = op.layout(op.arg["self"])
    dim = len(source) - rank + at
    before, after = op.arg["self"].meta["val"].shape[dim], op.node.meta["val"].shape[dim]
    if op.known is not None and op.known.same(before, after):
        return Local(
            layout,
            {"output_size": [SizeAtHand((dim,)) if i == at else w for i, w in enumerate(want)]},
        )
    wanted = want[at] if isinstance(want[at], int) else "a number of"
    refusal = (
        f"pools time into {wanted} bins whose borders depend on the video's length",
        "pool time to 1, or use a pool with a fixed kernel and stride",
    )
    if op.known is None or op.clip is None:
        raise Refusal(*refusal)
    try:
        n, outs = op.known.function(before), op.known.function(after)
    except NotQuasiLinear as error:
        raise Refusal(*refusal) from error
    here, there = n(op.clip), outs(op.clip)
    if not here or not there or (here % there and there % here):
        raise Refusal(*refusal)
    factor = Factor(up=int(there // here)) if there > here else Factor(down=int(here // there))
    op.only(same(n * factor.up, outs * factor.down), "pools time into even bins", *refusal)
    alone(op, op.arg["self"], dim, "pools an axis")
    layout = (
        layout[:dim] + relabel(layout[dim : dim + 1], None, op.out_sizes[dim]) + layout[dim + 1 :]
    )
    down = factor.down
    law = Window(down, down) if down > 1 else Repeat(factor.up)
    args = {"output_size": [0 if i == at else w for i, w in enumerate(want)]}
    call = Resize(op.node.target, at - rank, (1, at), factor)
    what = f"mean of each {down}" if down > 1 else f"nearest upsample x{factor.up}"
    return Windowed(law, layout, "self", args, call=call, what=what)


@rule("select")
def select(op: OpView) -> Outcome:
    """x[i] along time: the first or the last element; along another axis: local."""
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    layout = source[:dim] + source[dim + 1 :]
    if dim not in time_dims(source):
        return Local(layout)
    index = _place(op, dim)
    if index not in (0, -1):
        raise Refusal(
            f"picks frame {index} of the video",
            "pick the first (0) or the last (-1), or slice and pool",
        )
    how = "first" if index == 0 else "last"
    args = {"index": index}
    return Reduced(how, layout, "self", (dim,), False, {}, f"the {how} element", args)


def _place(op: OpView, dim: int) -> int:
    """The number of the element that is picked, where it is computed from the length of the video
    as well: ``x[:, :, T - 1]`` is ``x[:, :, -1]``."""
    index = op.arg["index"]
    if not isinstance(index, fx.Node) or op.known is None:
        return op.static(index, "index")
    length, value = op.arg["self"].meta["val"].shape[dim], index.meta["val"]
    if op.known.offset(value, length) == -1:
        return -1
    raise Refusal(
        "picks a frame whose number is computed from the length of the video: which one it is is "
        "known only at its end",
        "pick the first (0) or the last (-1), or slice and pool",
    )


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(op: OpView) -> Outcome:
    """Along time its normaliser needs all frames: within the step. Over the keys of a causal
    attention it needs those before its own, which are all there."""
    source = op.layout(op.tensors[0])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    if dim in time_dims(source):
        found = op.node.meta.get(NOTE)
        if found is not None and seen_band(op, found).causal:
            return Local(source)
        return StepOnly(source, "normalises over all of time")
    return Local(source)

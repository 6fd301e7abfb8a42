"""Slices, pads and concatenation along time: windows of one element (DESIGN §5)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import fx

from pgt_fx.capture.probe.varying_pads import REASON, REMEDY
from pgt_fx.core.counts import counted
from pgt_fx.core.laws import Window
from pgt_fx.core.layout import has_time, plain, relabel, time_dims
from pgt_fx.core.lengths.functions import QuasiLinear, as_function
from pgt_fx.core.lengths.questions import bounds, larger, never_falls, same, the_constant
from pgt_fx.core.lengths.sets import ANY_LENGTH, NotQuasiLinear
from pgt_fx.rules.registry import (
    Local,
    OpView,
    Outcome,
    Reduced,
    Refusal,
    Windowed,
    alone,
    infinite,
    rule,
    wrap,
)
from pgt_fx.runtime.markov.space_pad import SpacePad


@rule("slice", "slice_copy")
def slice_(op: OpView) -> Outcome:
    """x[start:stop:step] along time: out[j] = x[start + j*step]."""
    source = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(source))
    start, stop, step = op.arg["start"], op.arg["end"], op.static(op.arg["step"], "step")
    sizes = op.out_sizes
    if dim not in time_dims(source):
        layout = source[:dim] + plain([sizes[dim]]) + source[dim + 1 :]
        # A slice that takes the whole axis keeps what the axis is (batch, merged factors).
        same = sizes[dim] == _size(source[dim])
        return Local(source if same else layout)
    found = _bounds(op, dim, 0 if start is None else start, stop, step)
    start, stop = found.start, found.stop
    if start == 0 and infinite(stop) and step == 1 and found.whole is None:
        return Local(source, {"start": 0, "end": None})
    alone(op, op.arg["self"], dim, "slices an axis")
    if start < 0:
        if start == -1 and infinite(stop):
            layout = (*source[:dim], (), *source[dim + 1 :])
            args = {"start": -1, "end": None}
            return Reduced("last", layout, "self", (dim,), True, {}, "the last element", args)
        raise Refusal(
            f"takes the last {counted(-start, 'frame')} of the video",
            "take the last frame, or slice from the start",
        )
    right, limit = 0, None
    if stop is not None and not infinite(stop):
        if stop < 0:
            right = stop
        else:
            limit = max(0, -(-(stop - start) // step))
    law = Window(1, step, 1, -start, right, limit=limit)
    if limit == 0:
        raise Refusal("takes no frame at all")
    layout = source[:dim] + relabel(source[dim : dim + 1], None, sizes[dim]) + source[dim + 1 :]
    end = "…" if found.whole is not None else "" if infinite(stop) else stop
    text = f"[{start or ''}:{end}{f':{step}' if step > 1 else ''}]"
    args = {"start": 0, "end": None, "step": step}
    return Windowed(law, layout, "self", args, what=f"slice {text}", whole=found.whole)


class _Bounds(NamedTuple):
    """Bounds of a slice as constants; of one whose end is none, how many elements it has."""

    start: int
    stop: int | None
    whole: QuasiLinear | None = None


def _size(dim: Any) -> int:
    product = 1
    for factor in dim:
        product *= factor.size
    return product


def _bounds(op: OpView, dim: int, start: Any, stop: Any, step: int) -> _Bounds:
    """The bounds of a slice along time, where they are computed from the length of the video as
    well: ``x[:, :, : T - 1]`` is ``x[:, :, :-1]``.

    Raises:
        Refusal: where it begins or ends at a place that only the end of the video tells.
    """
    if not isinstance(start, fx.Node) and not isinstance(stop, fx.Node):
        return _Bounds(start, stop)
    if op.known is None:
        raise Refusal(BEGINS if isinstance(start, fx.Node) else ENDS, CONSTANT)
    try:
        length = op.known.function(op.arg["self"].meta["val"].shape[dim])
        begin = _start(op, start, length)
        if infinite(stop) or not isinstance(stop, fx.Node):
            return _Bounds(begin, stop)
        end = op.known.bound(stop.meta["val"], length)
        left_out = op.known.from_start(length - end, length)
        if left_out is not None:
            return _Bounds(begin, -left_out or None)
        most = op.known.from_start(end, length)
        if most is not None:
            return _Bounds(begin, most)
        if begin < 0:
            raise Refusal(ENDS, CONSTANT)
        whole = larger(-((begin - end) // step), 0)
        make_sure_that_few_wait(op, Window(1, step, 1, -begin), length, whole, ENDS, CONSTANT)
        return _Bounds(begin, None, whole)
    except NotQuasiLinear as error:
        raise Refusal(f"{ENDS} ({error})", CONSTANT) from error


BEGINS = (
    "slices time with its start computed from the length of the video: where it begins is known "
    "only at the end"
)
ENDS = (
    "slices time with its end computed from the length of the video: where it ends is known only "
    "then, and a growing share of the video would have to wait"
)
CONSTANT = "slice at constant positions"


def _start(op: OpView, start: Any, length: QuasiLinear) -> int:
    """Where a slice begins; below 0: counted from the end."""
    if not isinstance(start, fx.Node) or op.known is None:
        return int(start)
    begin = op.known.bound(start.meta["val"], length)
    found = op.known.from_start(begin, length)
    if found is not None:
        return found
    last = op.known.from_start(length - begin, length)
    if last:
        return -last
    at_clip = begin(op.clip) if op.clip is not None else None
    if at_clip is None:
        raise Refusal(BEGINS, CONSTANT)
    op.only(same(begin, at_clip), f"begins at element {at_clip}", BEGINS, CONSTANT)
    return int(at_clip)


def make_sure_that_few_wait(
    op: OpView, law: Window, length: QuasiLinear, whole: QuasiLinear, reason: str, remedy: str
) -> None:
    """Of a window that ends at a place of its own, a bounded number of elements wait for the end.

    Args:
        law: the window; to the end of its operand.
        length: elements of the operand.
        whole: outputs of a whole video.

    Raises:
        Refusal: where more and more would, or an element is taken in a video and not in a longer
            one.
    """
    lengths = ANY_LENGTH if op.known is None else op.known.lengths
    least, _ = bounds(whole - law.count_of(length), lengths)
    if least is None or not never_falls(whole):
        raise Refusal(reason, remedy)


@rule(
    "pad",
    "constant_pad_nd",
    "reflection_pad1d",
    "reflection_pad3d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def pad(op: OpView) -> Outcome:
    """F.pad: elements before the first and after the last; negative amounts crop."""
    source = op.layout(op.arg["self"])
    name = op.schema.name.removeprefix("aten::")
    amounts = list(op.arg["pad" if "pad" in op.arg else "padding"])
    mode = op.arg.get("mode") or "constant"
    mode = "reflect" if "reflection" in name else "replicate" if "replication" in name else mode
    sizes = op.out_sizes
    timed = time_dims(source)
    layout = tuple(
        dim if has_time(dim) or _size(dim) == s else plain([s])[0]
        for dim, s in zip(source, sizes, strict=True)
    )
    dim = timed[0]
    at = len(source) - 1 - dim  # F.pad counts from the last dimension
    left, right = (amounts[2 * at], amounts[2 * at + 1]) if 2 * at < len(amounts) else (0, 0)
    if (left, right) == (0, 0):
        return Local(layout)
    others = [a for i, a in enumerate(amounts) if i // 2 != at]
    if any(isinstance(a, fx.Node) for a in others):
        raise Refusal(REASON, REMEDY)
    alone(op, op.arg["self"], dim, "pads an axis")
    if mode == "circular":
        raise Refusal(
            "pads the start of the video with its end",
            'use mode="replicate" or "constant"',
        )
    law, whole = _amounts(op, dim, mode, left, right)
    layout = layout[:dim] + relabel(layout[dim : dim + 1], None, sizes[dim]) + layout[dim + 1 :]
    amounts[2 * at] = amounts[2 * at + 1] = 0
    value = op.arg.get("value")
    rest = [int(a) for a in amounts] if any(amounts) else []
    after = law.right if whole is None else f"up to {law.right}"
    return Windowed(
        law,
        layout,
        "self",
        {"pad" if "pad" in op.arg else "padding": None},
        call=SpacePad(tuple(rest), mode, value),
        fill=float(value or 0.0),
        mode=mode,
        what=f"pad {law.left},{after}" + ("" if mode == "constant" else f" {mode}"),
        pads=law.left + law.right > 0,
        bare=True,
        whole=whole,
    )


def _amounts(
    op: OpView, dim: int, mode: str, left: Any, right: Any
) -> tuple[Window, QuasiLinear | None]:
    """A padding along time as a window; of one that is no constant at the end, with the most that
    there is, and with how many elements a whole video has after it.

    Raises:
        Refusal: where there is no most, or the padding in front depends on where the video ends.
    """
    if not isinstance(left, fx.Node) and not isinstance(right, fx.Node):
        return Window(1, 1, 1, int(left), int(right), mode=mode), None
    if op.known is None or op.clip is None:
        raise Refusal(REASON, REMEDY)
    try:
        length = op.known.function(op.arg["self"].meta["val"].shape[dim])
        if isinstance(left, fx.Node):
            before = op.known.function(left.meta["val"])
            at_clip = before(op.clip)
            if at_clip is None:
                raise Refusal(REASON, REMEDY)
            op.only(same(before, at_clip), f"pads {at_clip} in front", IN_FRONT, REMEDY)
            left = int(at_clip)
        after = as_function(0 if isinstance(right, fx.Node) else right)
        if isinstance(right, fx.Node):
            after = op.known.function(right.meta["val"])
        there = the_constant(after, op.known.lengths)
        if there is not None:
            return Window(1, 1, 1, left, int(there), mode=mode), None
        whole = larger(length + left + after, 0)
        most, outs = bounds(after, op.known.lengths)[1], bounds(whole, op.known.lengths)[1]
        if most is None:
            raise Refusal(GROWS, REMEDY)
        limit = None if outs is None else int(outs)
        law = Window(1, 1, 1, left, max(int(most), 0), mode=mode, limit=limit)
        make_sure_that_few_wait(op, law, length, whole, ENDS, REMEDY)
        return law, whole
    except NotQuasiLinear as error:
        raise Refusal(f"{REASON} ({error})", REMEDY) from error


IN_FRONT = (
    "pads the start of the video by an amount computed from its length, which is known only at its "
    "end"
)
GROWS = "pads by an amount computed from the length of the video that grows with it"

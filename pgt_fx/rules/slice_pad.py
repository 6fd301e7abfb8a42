"""Slices, pads and concatenation along time: windows of one element (DESIGN §5)."""

from __future__ import annotations

from typing import Any

from torch import fx

from pgt_fx.capture.probe.varying_pads import REASON, REMEDY
from pgt_fx.core.counts import counted
from pgt_fx.core.laws import Window
from pgt_fx.core.layout import has_time, plain, relabel, time_dims
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
    start, stop = _from_the_end(op, dim, 0 if start is None else start, stop)
    if start == 0 and infinite(stop) and step == 1:
        return Local(source, {"start": 0, "end": None})
    for name, bound in (("start", start), ("end", stop)):
        if isinstance(bound, fx.Node):
            raise Refusal(
                f"slices time with its {name} computed from the length of the video",
                "slice at constant positions",
            )
    alone(op, op.arg["self"], dim, "slices an axis")
    if start < 0:
        if start == -1 and infinite(stop):
            layout = (*source[:dim], (), *source[dim + 1 :])
            return Reduced("last", layout, "self", (dim,), True, {}, "the last element")
        raise Refusal(
            f"takes the last {counted(-start, 'frame')} of the video",
            "take the last frame, or slice from the start",
        )
    right, limit = 0, None
    if not infinite(stop):
        if stop < 0:
            right = stop
        else:
            limit = max(0, -(-(stop - start) // step))
    law = Window(1, step, 1, -start, right, limit=limit)
    if limit == 0:
        raise Refusal("takes no frame at all")
    layout = source[:dim] + relabel(source[dim : dim + 1], None, sizes[dim]) + source[dim + 1 :]
    text = f"[{start or ''}:{'' if infinite(stop) else stop}{f':{step}' if step > 1 else ''}]"
    args = {"start": 0, "end": None, "step": step}
    return Windowed(law, layout, "self", args, what=f"slice {text}")


def _size(dim: Any) -> int:
    product = 1
    for factor in dim:
        product *= factor.size
    return product


def _from_the_end(op: OpView, dim: int, start: Any, stop: Any) -> tuple[Any, Any]:
    """Bounds that are the operand's own length, or that without a constant, as constants:
    ``x[:, :, : T - 1]`` is ``x[:, :, :-1]``."""
    length = op.arg["self"].meta["val"].shape[dim]
    if op.known is not None and isinstance(start, fx.Node):
        taken = op.known.last_from(start.meta["val"], length)
        start = start if taken is None else -taken
    if op.known is not None and isinstance(stop, fx.Node):
        left_out = op.known.cut_from_end(stop.meta["val"], length)
        stop = stop if left_out is None else -left_out or None
    return start, stop


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
    if any(isinstance(a, fx.Node) for a in amounts):
        raise Refusal(REASON, REMEDY)
    left, right = int(left), int(right)
    alone(op, op.arg["self"], dim, "pads an axis")
    if mode == "circular":
        raise Refusal(
            "pads the start of the video with its end",
            'use mode="replicate" or "constant"',
        )
    layout = layout[:dim] + relabel(layout[dim : dim + 1], None, sizes[dim]) + layout[dim + 1 :]
    amounts[2 * at] = amounts[2 * at + 1] = 0
    value = op.arg.get("value")
    rest = [int(a) for a in amounts] if any(amounts) else []
    return Windowed(
        Window(1, 1, 1, left, right, mode=mode),
        layout,
        "self",
        {},
        call=SpacePad(tuple(rest), mode, value),
        fill=float(value or 0.0),
        mode=mode,
        what=f"pad {left},{right}" + ("" if mode == "constant" else f" {mode}"),
        pads=left + right > 0,
        bare=True,
    )

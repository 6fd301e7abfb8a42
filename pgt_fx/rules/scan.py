"""Scans along time: what each element adds to all before it, with a state of fixed size."""

from __future__ import annotations

from pgt_fx.core.counts import counted
from pgt_fx.core.layout import Dim, Layout, has_time, plain, time_dims
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, Scanned, hint, rule, wrap

HOW = {"cumsum": "sum", "cumprod": "prod", "logcumsumexp": "logsumexp"}


@rule("cumsum", "cumprod", "logcumsumexp")
def cumulative(op: OpView) -> Outcome:
    """Carried: the last element, which the next step's elements go on from."""
    layout = op.layout(op.arg["self"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(layout))
    if dim not in time_dims(layout):
        return Local(layout)
    if not _alone(layout[dim]):
        raise Refusal(
            "accumulates over time merged with another axis", "unflatten time in front of it"
        )
    name = op.schema.name.removeprefix("aten::")
    return Scanned(HOW[name], layout, "self", 1, f"{name} along time")


@rule("pgt_fx::extreme_so_far")
def extreme(op: OpView) -> Outcome:
    """The largest or least so far: carried is the last one."""
    layout = op.layout(op.arg["x"])
    if not _alone(layout[op.arg["dim"]]):
        raise Refusal(
            "accumulates over time merged with another axis", "unflatten time in front of it"
        )
    how = "max" if op.arg["highest"] else "min"
    return Scanned(how, layout, "x", 1, f"{how} so far along time")


@rule("pgt_fx::recurrent")
def recurrent(op: OpView) -> Outcome:
    """RNN, GRU and LSTM along time. Carried: the hidden state of every layer (and the LSTM's
    cells). The second result, the last hidden state, is that of the frames so far."""
    layout = op.layout(op.arg["x"])
    op.only_source("x")
    flat = len(layout) == 2
    time, rows = (1, 0) if op.arg["batch_first"] and not flat else (0, 1)
    if time_dims(layout) != [time] or not _alone(layout[time]):
        raise Refusal(
            "a recurrent layer runs along another axis than time, or time is merged with another",
            "give it (batch, time, features), or leave it outside the model",
        )
    if op.arg["bidirectional"]:
        raise Refusal(
            "its backward direction reads the video from its end",
            "use one direction (bidirectional=False)",
        )
    results = op.node.meta["val"]
    y: Layout = (*layout[:-1], *plain([hint(results[0].shape[-1])]))
    states: list[Layout | None] = []
    for state in results[1:]:
        sizes = plain([hint(s) for s in state.shape])
        states.append(sizes if flat else (sizes[0], layout[rows], sizes[2]))
    how, layers = op.arg["how"], int(op.arg["layers"])
    count = layers * (2 if how == "lstm" else 1)
    what = f"{how.split('_')[0]} of {counted(layers, 'layer')}"
    return Scanned("recurrent", [y, *states], "x", count, what)


def _alone(dim: Dim) -> bool:
    return len(dim) == 1 and has_time(dim)

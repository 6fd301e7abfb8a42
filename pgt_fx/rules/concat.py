"""Values put together: side by side along another axis (a join), or one after the other in time."""

from __future__ import annotations

from torch import fx

from pgt_fx.core.layout import Layout, broadcast, has_time, plain, relabel, time_dims
from pgt_fx.rules.registry import Concatenated, Local, OpView, Outcome, Refusal, alone, rule, wrap


@rule("cat", "concat", "concatenate")
def cat(op: OpView) -> Outcome:
    """Along another axis than time: a join of operands side by side. Along time: a first part of
    constant length, then a stream. Padding is rewritten before (capture/padding.py)."""
    operands = list(op.arg["tensors"])
    layouts = [op.layout(n) for n in operands]
    dim = wrap(op.static(op.arg["dim"], "dim"), len(layouts[0]))
    timed = [layout for layout in layouts if time_dims(layout)]
    if any(dim in time_dims(layout) for layout in timed):
        return _one_after_the_other(op, operands, layouts, dim)
    for layout in layouts:
        if time_dims(layout) != time_dims(timed[0]):
            raise Refusal(
                "an operand without time is concatenated with one that has it: its length along "
                "time is that of the clip",
                "broadcast it inside an elementwise operator, or concatenate per frame",
            )
    return Local(concatenated(layouts, dim, op.out_sizes))


def concatenated(layouts: list[Layout], dim: int, sizes: list[int]) -> Layout:
    """Layout of operands side by side along ``dim``; elsewhere they must agree."""
    rest = broadcast([(*layout[:dim], (), *layout[dim + 1 :]) for layout in layouts])
    return rest[:dim] + plain([sizes[dim]]) + rest[dim + 1 :]


def _one_after_the_other(
    op: OpView, operands: list[fx.Node], layouts: list[Layout], dim: int
) -> Outcome:
    """cat([x[:, :, :1], f(x[:, :, 1:])], dim=2): the first frame apart."""
    *firsts, _ = [n.meta["val"].shape[dim] for n in operands]
    if not all(isinstance(n, int) for n in firsts):
        raise Refusal(
            "joins values one after the other along time: where the second begins is known only "
            "at the end of the first",
            "let all parts but the last have a constant length (x[:, :, :1]), pad with constants "
            "or with the end frames (F.pad), or concatenate along channels",
        )
    for node, layout in zip(operands, layouts, strict=True):
        if time_dims(layout):
            alone(op, node, dim, "puts something after an axis")
    if not has_time(layouts[-1][dim]):
        raise Refusal("ends in a part that has no time", "pad with constants (F.pad)")
    rest = broadcast([(*layout[:dim], (), *layout[dim + 1 :]) for layout in layouts])
    last = relabel(layouts[-1][dim : dim + 1], None, op.out_sizes[dim])
    return Concatenated(
        rest[:dim] + last + rest[dim + 1 :], tuple(operands), (*map(int, firsts), None)
    )


@rule("stack")
def stack(op: OpView) -> Outcome:
    """A new axis: a join of operands side by side."""
    layouts = [op.layout(n) for n in op.arg["tensors"]]
    dim = wrap(op.static(op.arg["dim"], "dim"), len(layouts[0]) + 1)
    timed = [layout for layout in layouts if time_dims(layout)]
    if any(time_dims(layout) != time_dims(timed[0]) for layout in layouts):
        raise Refusal("an operand without time is stacked with one that has it")
    both = broadcast(layouts)
    return Local(both[:dim] + plain([len(layouts)]) + both[dim:])

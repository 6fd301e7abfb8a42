"""Scatter: a tensor with another one written into a part of it, as functionalized writes are."""

from __future__ import annotations

from pgt_fx.core.layout import broadcast, has_time
from pgt_fx.rules.registry import Local, OpView, Outcome, Refusal, rule, wrap


@rule("slice_scatter", "select_scatter")
def scatter(op: OpView) -> Outcome:
    """Along another axis than time: a join of what is written and what it is written into."""
    whole, part = op.layout(op.arg["self"]), op.layout(op.arg["src"])
    dim = wrap(op.static(op.arg["dim"], "dim"), len(whole))
    if has_time(whole[dim]):
        raise Refusal(
            "writes in place to a part of the frames",
            "write it out of place: torch.cat, torch.where or F.pad for a part",
        )
    if op.schema.name == "aten::slice_scatter":
        part = part[:dim] + part[dim + 1 :]
    rest = broadcast([whole[:dim] + whole[dim + 1 :], part])
    return Local(rest[:dim] + whole[dim : dim + 1] + rest[dim:])

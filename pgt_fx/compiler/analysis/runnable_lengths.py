"""At which lengths of video an operator of the model runs at all: torch raises where a kernel is
longer than its padded input, where a padding reflects more than there is, and for some operators
where there is nothing. A program is for the other lengths, and says which line takes no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, fx

from pgt_fx.capture.guards.length_guard import Condition, Lengths
from pgt_fx.capture.observe.module_calls import lines_around, place
from pgt_fx.capture.schema import schema_name
from pgt_fx.compiler.analysis.timed_graph import Analysis, Operation
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, Refusal
from pgt_fx.core.law import Law
from pgt_fx.core.layout import Layout, has_time, size
from pgt_fx.core.lengths.functions import QuasiLinear
from pgt_fx.core.lengths.questions import at_most, same
from pgt_fx.core.lengths.sets import LengthSet, NotQuasiLinear
from pgt_fx.core.torch_private import OpOverload, schema_of
from pgt_fx.rules import RULES, OpView, Outcome

#: The lengths at which an operator runs, and what it needs in words.
Need = tuple[LengthSet, str]
NOTHING = "needs at least one element"
#: Operators of which torch makes nothing of nothing, along any axis but the batch's.
_SLIDES = ("conv", "conv_transpose", "max_pool", "avg_pool", "adaptive_max_pool")
_RESIZES = ("upsample_nearest", "_upsample_nearest_exact")
_ELEMENTS = {
    *(f"aten::{name}{rank}d" for name in (*_SLIDES, *_RESIZES) for rank in (1, 2, 3)),
    *(f"aten::upsample_{name}" for name in ("linear1d", "bilinear2d", "trilinear3d")),
}
#: Factories of as many elements as they are asked for; of fewer than none they make nothing.
_FILLED = ("zeros", "ones", "full", "empty")
_MAKERS = {
    *(f"aten::{name}" for name in (*_FILLED, "rand", "randn", "arange")),
    *(f"aten::new_{name}" for name in _FILLED),
}
#: Operators that take any size computed from the number of frames, or of which the conditions are
#: known: those of views are the walk's, those of factories are found here.
_ANY_SIZE = _MAKERS | {
    f"aten::{name}"
    for name in ("slice", "view", "reshape", "_unsafe_view", "unflatten", "expand", "sym_size")
}


def where_it_runs(analysis: Analysis, operation: Operation, view: OpView) -> Lengths:
    """The lengths of video at which an operator on a value with time runs as well.

    One whose elements can't be counted for all lengths leaves none out.

    Raises:
        Refusal: where the example is not among them.
    """
    lengths, clip = analysis.lengths, min(analysis.spec.lengths)
    try:
        for held, text in _needs(analysis, operation, view):
            if clip not in held:
                raise Refusal(
                    f"{text}, which the example does not give it", "take a longer example"
                )
            where = operation.place
            lengths = lengths.within(Condition(held, where.source, where.line, text))
    except NotQuasiLinear:
        pass
    return lengths


def where_its_size_is(analysis: Analysis, operation: Operation) -> Lengths:
    """The lengths of video at which a result has the size that the capture gave it, where the
    model's Python reads sizes: what it makes of them is a number in the graph, or a condition.

    torch answers for long videos. ``x[:, :, :5]`` has 5 frames there, and a video of 3 has 3.

    Raises:
        Refusal: where it has another size in the example.
    """
    captured, lengths, clip = analysis.captured, analysis.lengths, min(analysis.spec.lengths)
    sized, value = captured.sized, operation.value
    if sized is None or isinstance(value, list) or value.clock is None or value.layout is None:
        return lengths
    try:
        count = value.clock.count_of_video(analysis.spec.ratio)
        for dim, side in zip(value.layout, operation.node.meta["val"].shape, strict=True):
            beside = [f for f in dim if f.time != 1]
            if len(beside) == len(dim) or any(f.symbolic or f.time for f in beside):
                continue
            each = math.prod(f.size for f in beside)
            held = same(captured.sizes.function(side), count * each)
            made = f"{operation.place.op} has another size there"
            if clip not in held:
                raise Refusal(
                    f"the model reads sizes ({sized.source}: {sized.line}), and in longer videos "
                    "this one is another than in the example",
                    "take a longer example",
                )
            lengths = lengths.within(Condition(held, sized.source, sized.line, made))
    except NotQuasiLinear:
        pass
    return lengths


def where_it_is_made(analysis: Analysis, node: fx.Node) -> Lengths:
    """The lengths of video at which a tensor that is made from their number has no size below 0."""
    lengths = analysis.lengths
    value = node.meta.get("val")
    if schema_name(node) not in _MAKERS or not isinstance(value, Tensor):
        return lengths
    for side in value.shape:
        if not analysis.captured.has_time(side):
            continue
        try:
            held = at_most(0, analysis.captured.sizes.function(side))
        except NotQuasiLinear:
            continue
        where, text = place(node), "makes no fewer than 0 elements"
        lengths = lengths.within(Condition(held, where.source, where.line, text))
    return lengths


def fails_at_unknown_lengths(
    tried: frozenset[tuple[str, str]], node: fx.Node, *, timed: bool
) -> bool:
    """Whether an operator stands on a line on which the model catches its error, and at which
    lengths it fails is not known: it has no rule of this package, or is given a size made from the
    number of frames for another purpose than a slice or a shape.

    Args:
        tried: such lines.
        timed: whether an operand has time.
    """
    if not tried or not isinstance(node.target, OpOverload):
        return False
    lines = lines_around(node)
    if lines and lines.isdisjoint(where for where, _ in tried):
        return False
    rule = RULES.get(schema_of(node.target).name)
    ours = rule is not None and rule.__module__.startswith("pgt_fx.rules.")
    of_length = any(n.meta.get("pgt_time") for n in node.all_input_nodes)
    return (timed and not ours) or (of_length and schema_name(node) not in _ANY_SIZE)


#: Operators that torch's functions refuse to take statistics for of one number.
_STATISTICS = {f"aten::{name}_norm" for name in ("batch", "instance", "group")}


def check_statistics(
    analysis: Analysis, before: tuple[int, ...], after: tuple[int, ...], last: bool
) -> None:
    """Name the operators that were given one element along time to take statistics of, in a step
    that torch has refused.

    Args:
        before, after: frames per input path before and after the step.

    Raises:
        ClipError: naming the lines, where there are such operators.
    """
    lines = []
    for operation in analysis.operations.values():
        clock = operation.clock
        if schema_name(operation.node) not in _STATISTICS or clock is None:
            continue
        if clock.at(after, last).total - clock.at(before, False).total == 1:
            lines.append(f"    {operation.place}")
    if lines:
        raise ClipError(
            "torch takes no mean and variance of one number, and in this step there is one element "
            "along time for\n" + "\n".join(dict.fromkeys(lines)) + "\nFeed longer chunks"
        )


def _needs(analysis: Analysis, operation: Operation, view: OpView) -> Iterator[Need]:
    name, outcome = view.schema.name, operation.outcome
    if operation.clock is None:
        return
    ratio = analysis.spec.ratio
    there = operation.clock.count_of_video(ratio)
    source = next((n for n in view.tensors if view.timed(n)), None)
    if source is None:
        return
    layout = view.layout(source)
    if name in ("aten::instance_norm", "aten::group_norm") and outcome.reads_all:
        yield from _for_statistics(view, layout, there)
        return
    if name == "pgt_fx::recurrent" or outcome.needs_one:
        # Of nothing torch's mean is NaN and its sum zero; steps in which nothing came give None.
        yield at_most(1, there), NOTHING
    law = outcome.sliding()
    if law is not None and name == "aten::unfold":
        yield from _long_enough(law, there)
    if "pad" in name:
        yield from _padded(outcome, there)
    elif name in _ELEMENTS and any(map(has_time, layout[-_rank(name) :])):
        if law is not None:
            yield from _long_enough(law, there)
        if law is not None and name == "aten::avg_pool3d" and law.averaged > 1:
            # torch asks of this pool alone that it fits into what is not padded.
            yield at_most(law.averaged, there), f"needs at least {counted(law.averaged, 'element')}"
        yield at_most(1, there), NOTHING


def _rank(name: str) -> int:
    return int(name[-2])


def _long_enough(law: Law, there: QuasiLinear) -> Iterator[Need]:
    """A window has to fit into what it slides along, once at least."""
    if law.fewest:
        yield at_most(law.fewest, there), f"needs at least {counted(law.fewest, 'element')}"
    else:
        yield at_most(1, law.count_of(there)), "makes at least one element"


def _padded(outcome: Outcome, there: QuasiLinear) -> Iterator[Need]:
    law = outcome.sliding()
    if law is not None and law.fewest_padded > 0:
        least = law.fewest_padded
        yield at_most(least, there), f"needs at least {counted(least, 'element')}"


def _for_statistics(view: OpView, layout: Layout, there: QuasiLinear) -> Iterator[Need]:
    """Statistics of one number are none, and torch's functions for them say so."""
    if not any(map(has_time, layout[2:])):
        return
    beside = [f for dim in layout[2:] for f in dim if not f.time and (f.symbolic or f.size != 1)]
    groups = view.arg.get("num_groups")
    if groups is not None:
        yield at_most(1, there), NOTHING
    if not beside and (groups is None or groups == size(layout[1])):
        yield ~same(there, 1), "needs more than one element for its statistics"

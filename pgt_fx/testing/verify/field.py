"""The receptive field, measured by changing one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor, fx

from pgt_fx.compiler.analysis.receptive_field import Reach, reaches
from pgt_fx.compiler.analysis.timed_graph import Value
from pgt_fx.compiler.selfcheck.axes import count_of, elements, output_of
from pgt_fx.compiler.selfcheck.measure import leaves
from pgt_fx.compiler.selfcheck.recording import recorded_full
from pgt_fx.compiler.selfcheck.videos import Video
from pgt_fx.core.counts import counted
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject

#: Frames to change, in each input path: enough to see both ends of most fields.
MOST = 24
#: What is found of a model whose outputs may read all of time.
BOUNDLESS = "all of time"


@dataclass(frozen=True)
class Watched:
    """A value with a time axis: the output, or what an output without one is pooled from.

    Attributes:
        name: node of the step's graph; "" for the output.
        node: of the captured graph.
        claims: per input path, what the analysis says of it.
    """

    name: str
    node: fx.Node
    claims: dict[int, Reach]


def receptive_field(check: Check, subject: Subject, chunkings: int) -> Check:
    """One frame replaced by another: which elements change, to the last bit, and whether the
    analysis has them in the frame's reach. Integer inputs and dead gradients count too."""
    watched = _watched(subject)
    if not watched:
        return replace(check, detail="neither the output nor what it is pooled from has time")
    other = subject.video(subject.frames, salt=16)
    before = _values(subject, watched, subject.main)
    faults: list[str] = []
    tried = widest = 0
    for path, leaf in enumerate(subject.spec.paths):
        total = int(subject.main[leaf].shape[subject.spec.times[leaf] or 0])
        reads: dict[tuple[int, int], list[int]] = {}
        for frame in range(0, total, max(1, -(-total // MOST))):
            tried += 1
            after = _values(subject, watched, replaced_frame(subject, leaf, frame, other))
            for k, one in enumerate(watched):
                for j in changed(subject, one.node, after[k], before[k]):
                    reads.setdefault((k, j), []).append(frame)
        for (k, j), frames in reads.items():
            claim = watched[k].claims.get(path)
            if claim is None:
                where = _of(watched[k], j)
                faults.append(f"{where} reads path {path}, which the analysis says it does not")
                continue
            wide = max(frames) - min(frames) + 1
            widest = max(widest, wide)
            own = int(j * claim.stride)
            early = claim.past is not None and own - min(frames) > claim.past
            early |= claim.field is not None and wide > claim.field
            if early or (claim.future is not None and max(frames) - own > claim.future):
                seen = f"{min(frames)} … {max(frames)}"
                faults.append(f"{_of(watched[k], j)} (frame {own}) reads frames {seen} of {path}")
    claims = ", ".join(_in_words(c) for one in watched for c in one.claims.values())
    what = f" of {', '.join(w.name for w in watched)}" if watched[0].name else ""
    detail = (
        f"{counted(tried, 'frame')} changed one at a time; widest seen{what} {widest}, analysed "
        f"{claims}"
    )
    if faults:
        found = f"{len(faults)} outside"
        return replace(check, ok=False, measured=found, detail=f"{faults[0]}; {detail}")
    if not widest:
        return replace(check, detail=f"{detail}; nothing changed")
    if all(c.past is None and c.future is None for one in watched for c in one.claims.values()):
        detail += ": there is no bound to hold"
        return replace(check, measured=BOUNDLESS, detail=detail)
    return replace(check, ok=True, measured="0 outside", detail=detail)


def _watched(subject: Subject) -> list[Watched]:
    prog = subject.answering
    if subject.dims and subject.dims[0] is not None:
        output = output_of(prog)
        return [] if output is None else [Watched("", output, _reported(prog, output))]
    analysis = prog.inspect.analysis
    reach = reaches(analysis)
    made = {old: new for new, old in prog.inspect.program.emitted.made.items()}
    out = []
    for name in sorted({n for v in analysis.values.values() for n in _pooled(v)}):
        for source in analysis.operations[name].node.all_input_nodes:
            if source.name in reach and source.name in made:
                out.append(Watched(made[source.name], source, reach[source.name]))
    return out


def _reported(prog: Progressive, output: fx.Node) -> dict[int, Reach]:
    """What the report says of the output. How far back it reads is none of its figures: where time
    is upsampled, elements of one field lie in it at different places, and the past of some and the
    future of others are more than the field together."""
    report = prog.report
    reach = reaches(prog.inspect.analysis)[output.name]
    rows = zip(sorted(reach), report.receptive_field, report.look_ahead, report.stride, strict=True)
    return {
        path: Reach(Fraction(stride), None if size is None else reach[path].past, ahead, size)
        for path, size, ahead, stride in rows
    }


def _pooled(value: Any) -> frozenset[str]:
    return value.pooled if isinstance(value, Value) else frozenset()


def _values(subject: Subject, watched: list[Watched], video: Video) -> list[Tensor | None]:
    if not watched[0].name:
        return [leaves(subject.full(subject.answering, video))[0]]
    record = recorded_full(subject, subject.answering, video, {w.name for w in watched})
    return [record.get(w.name) for w in watched]


def _of(one: Watched, j: int) -> str:
    return f"element {j} of {one.name}" if one.name else f"output {j}"


def _in_words(claim: Reach) -> str:
    if claim.future is None:
        return "all of time"
    return f"{claim.field or 'all before'} ({claim.future} ahead)"


def replaced_frame(subject: Subject, leaf: int, frame: int, other: Video) -> Video:
    """The video with one frame of one path taken from another."""
    video = list(subject.main)
    dim = subject.spec.times[leaf] or 0
    video[leaf] = video[leaf].clone()
    video[leaf].select(dim, frame).copy_(other[leaf].select(dim, frame))
    return video


def changed(subject: Subject, node: fx.Node, a: Tensor | None, b: Tensor | None) -> list[int]:
    """Elements along time of a value of the whole video that are not the same to the last bit.

    Args:
        node: whose value it is, of the captured graph.
        a, b: None where there is none.
    """
    prog = subject.answering
    count = count_of(prog, node, subject.frames) or 0
    layout = prog.inspect.analysis.value(node).layout
    right = None if b is None else elements(b, layout, count)
    if right is None:
        return []
    left = (
        elements(a, layout, count)
        if a is not None and b is not None and a.shape == b.shape
        else None
    )
    if left is None:
        return list(range(count))
    apart = ((left != right) & ~(left.isnan() & right.isnan())).flatten(1).any(1)
    return [int(j) for j in apart.nonzero().flatten()]

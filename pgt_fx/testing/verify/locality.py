"""Measurements by perturbation and by gradient: what an answer does not depend on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx

from pgt_fx.compiler.selfcheck.axes import videos
from pgt_fx.compiler.selfcheck.measure import leaves, parts, same_bits
from pgt_fx.compiler.selfcheck.trials import the_model
from pgt_fx.compiler.selfcheck.videos import Video
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import StreamWarning
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject, count_tensors

#: What is found where later frames change no answer at all, their own included.
INERT = "no answer changes"


def _steps(subject: Subject, salt: int) -> list[int]:
    """A cut of the video into at least three steps."""
    rng = subject.rng(salt)
    while True:
        chunks = subject.chunks(
            subject.frames, max(1, min(subject.length, subject.frames // 3)), rng
        )
        if len(chunks) >= 3:
            return chunks


def _policies(subject: Subject) -> list[tuple[str, Any]]:
    return [("zero", subject.answering), ("wait", subject.waiting)]


def _ignored(subject: Subject, video: Video, other: Video) -> bool:
    """Whether the model itself answers to another video the same, and not to one that differs from
    the first frame on: it reads the first frames alone."""
    try:
        own, late, all_of_it = (leaves(subject.plain(x)) for x in (subject.main, video, other))
    except Exception:  # it takes no video of this length: the steps are all there is to go by
        return False
    return same_bits(own, late) and not same_bits(own, all_of_it)


def one_way_forward(check: Check, subject: Subject, chunkings: int) -> Check:
    """Other frames from some step on: the answers and the state before it stay as they are."""
    chunks = _steps(subject, 21)
    other = subject.video(subject.frames, salt=7)
    compared = 0
    faults: list[str] = []
    inert: list[str] = []
    for policy, prog in _policies(subject):
        answers, states, fault = _watched(subject, prog, subject.main, chunks)
        faults += [f"{policy}: {fault}"] if fault else []
        for cut in sorted({1, len(chunks) // 2, len(chunks) - 1}):
            video = subject.joined(subject.main, other, sum(chunks[:cut]))
            # One of the disturbed videos is fed to its end, to see that the frames matter at all.
            steps = len(chunks) if cut == len(chunks) // 2 else cut
            again, states_again, _ = _watched(subject, prog, video, chunks, steps)
            for step in range(cut):
                where = (
                    f"{policy}: step {step + 1} of {chunks} when frames of step {cut + 1} change"
                )
                if not same_bits(answers[step], again[step]):
                    faults.append(f"answer of {where}")
                elif not same_bits(states[step], states_again[step]):
                    faults.append(f"state after {where}")
                compared += count_tensors(answers[step])
            if (
                policy == "zero"
                and steps > cut
                and same_bits(answers, again)
                and not _ignored(subject, video, other)
            ):
                inert.append(f"{policy}: changing the frames of step {cut + 1} on changes nothing")
    detail = (
        f"{counted(compared, 'answer')} and the states after them, both policies, steps {chunks}"
    )
    if inert and not faults:
        return replace(check, ok=False, measured=INERT, detail=f"{inert[0]}; {detail}")
    if not faults:
        return replace(check, ok=True, measured="0 bits differ", detail=detail)
    return replace(
        check, ok=False, measured=f"{len(faults)} differ", detail=f"{faults[0]}; {detail}"
    )


def _watched(
    subject: Subject,
    prog: Any,
    video: Video,
    chunks: Sequence[int],
    steps: int | None = None,
) -> tuple[list[Any], list[dict[str, Tensor]], str]:
    """Answers and states of the first steps (None: of all), and what was written into although
    it had been handed over."""
    prog.reset()
    answers, states, kept = [], [], []
    fault = ""
    pieces = subject.cut(video, chunks)
    with torch.no_grad():
        for number, piece in enumerate(pieces[:steps]):
            before = [x.clone() if isinstance(x, Tensor) else x for x in piece]
            answer = subject.feed(prog, piece, number == len(pieces) - 1)
            if not same_bits(piece, before):
                fault = f"step {number + 1} of {list(chunks)} writes into the frames it is given"
            answers.append(answer)
            states.append(prog.state)
            kept.append(_copied(answer) + _copied(states[-1]))
    for number, (answer, state, copy) in enumerate(zip(answers, states, kept, strict=True)):
        if not same_bits([*leaves(answer), *leaves(state)], copy):
            fault = f"what step {number + 1} of {list(chunks)} gave is written into later"
    return answers, states, fault


def _copied(output: Any) -> list[Tensor | None]:
    return [None if x is None else x.clone() for x in leaves(output)]


def one_way_backward(check: Check, subject: Subject, chunkings: int) -> Check:
    """Each step's answer differentiated by all frames so far and by all parameters."""
    t = subject.length
    chunks = subject.fitting([t, max(1, t - 1), t])
    video = subject.video(sum(chunks), salt=8)
    used = _used_parameters(subject)
    faults: list[str] = []
    answered = 0
    for policy, prog in _policies(subject):
        prog.reset()
        inputs: list[list[Tensor]] = []
        steps: list[_Step] = []
        for number, piece in enumerate(subject.cut(video, chunks)):
            piece = [x.detach().clone() if isinstance(x, Tensor) else x for x in piece]
            mine = [x.requires_grad_() for x in _differentiable(piece)]
            inputs.append(mine)
            before = prog.state
            answer = subject.feed(prog, list(piece), number == len(chunks) - 1)
            held = [name for name, x in prog.state.items() if x.requires_grad]
            if held:  # torch refuses to go backward through it twice, as it is freed by then
                faults.append(f"{policy}: step {number + 1} hands on the graph of {held[0]}")
                break
            loss = _loss(answer)
            if loss is None and (policy == "wait" or not used or not count_tensors(answer)):
                continue
            answered += 1
            flat = [x for step in inputs for x in step]
            # An answer that waited may be to frames of earlier steps alone.
            wanted = [*flat, *(p for _, p in used)] if policy == "zero" else flat[: -len(mine)]
            if not wanted:
                continue
            gradients: Sequence[Tensor | None] = [None] * len(wanted)
            if loss is not None:
                gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
            early = gradients[: len(flat) - len(mine)]
            if any(g is not None and bool(g.any()) for g in early):
                faults.append(f"{policy}: a gradient of step {number + 1} reaches earlier frames")
            if policy == "wait":
                continue
            own = gradients[len(flat) - len(mine) : len(flat)]
            of_parameters = zip(used, gradients[len(flat) :], strict=True)
            without = [pair for pair, gradient in of_parameters if gradient is None]
            last, blind = number == len(chunks) - 1, bool(mine) and all(g is None for g in own)
            steps.append(_Step(number, before, piece, last, answer, blind, without))
        # When the video has ended, which had to go on with the weights that it began with.
        for step in steps:
            other = subject.cut(subject.video(sum(chunks), salt=18), chunks)[step.number]
            if step.blind and _answers_otherwise(subject, prog, step, other):
                faults.append(
                    f"{policy}: no gradient of step {step.number + 1} reaches its own frames"
                )
            names = [n for n, p in step.without if _uses(subject, prog, step, p)]
            if names:
                faults.append(
                    f"{policy}: step {step.number + 1} gives no gradient to {len(names)} of "
                    f"{counted(len(used), 'parameter')}, {names[0]} among them"
                )
    detail = (
        f"{counted(answered, 'step')} of {chunks} frames, both policies, "
        f"{counted(len(used), 'parameter')}"
    )
    if not answered and not faults:
        return replace(check, detail="no output can be differentiated")
    if not faults:
        return replace(check, ok=True, measured="0 gradients leak", detail=detail)
    return replace(
        check,
        ok=False,
        measured=counted(len(faults), "fault"),
        detail=f"{faults[0]}; {detail}",
    )


@dataclass(frozen=True)
class _Step:
    """One step: what it was given and what it answered; whether its answer gave no gradient to its
    own frames, and the parameters that it gave none to."""

    number: int
    state: dict[str, Tensor]
    piece: Sequence[Any]
    last: bool
    answer: Any
    blind: bool
    without: list[tuple[str, Tensor]]


def _answers_otherwise(subject: Subject, prog: Any, step: _Step, piece: Sequence[Any]) -> bool:
    """Whether a step gives something else of these frames, or of its own with the weights as they
    are now."""
    args, kwargs = subject.args(list(piece))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", StreamWarning)
        again, _ = prog.step(step.state, *args, last=step.last, **kwargs)
    return not same_bits(again, step.answer)


def _uses(subject: Subject, prog: Any, step: _Step, parameter: Tensor) -> bool:
    """Whether a step's answer is another one with other values of a parameter: one that is read for
    the first frame alone has no part in later steps."""
    own = parameter.detach().clone()
    generator = torch.Generator().manual_seed(subject.seed)
    noise = torch.randn(own.shape, generator=generator, dtype=torch.float64).to(own)
    try:
        for scale in (1.0, 100.0):  # a gate may seldom open
            with torch.no_grad():
                parameter.copy_(own + scale * noise)
            if _answers_otherwise(subject, prog, step, step.piece):
                return True
    finally:
        with torch.no_grad():
            parameter.copy_(own)
    return False


def _differentiable(leaves_: Sequence[Any]) -> list[Tensor]:
    return [x for x in leaves_ if isinstance(x, Tensor) and x.is_floating_point()]


def _loss(answer: Any) -> Tensor | None:
    """A generic weighted sum of an answer, None where nothing in it can be differentiated."""
    total: Tensor | None = None
    for x in leaves(answer):
        if x is None or not x.requires_grad:
            continue
        weights = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device)
        part = (x.reshape(-1) * weights).sum()
        total = part if total is None else total + part
    return total


def _used_parameters(subject: Subject) -> list[tuple[str, Tensor]]:
    """Parameters that the plain model's answer to a clip depends on, of the progressive form."""
    named = [(n, p) for n, p in subject.model.named_parameters() if p.requires_grad]
    args, kwargs = subject.args([x.clone() if isinstance(x, Tensor) else x for x in subject.clip])
    with the_model():
        loss = _loss(subject.model(*args, **kwargs))
    if loss is None or not named:
        return []
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    used = {n for (n, _), g in zip(named, gradients, strict=True) if g is not None}
    return [pair for pair in subject.answering.named_parameters() if pair[0] in used]


def spoilt(subject: Subject, row: int) -> tuple[Video, Video]:
    """A batch of two videos, and the same with NaN in all of one of them; where frames are whole
    numbers, with other ones."""
    clean, other = (subject.video(subject.frames, batch=2, salt=salt) for salt in (9, 10))
    out = list(clean)
    for i in subject.spec.paths:
        out[i] = clean[i].clone()
        if clean[i].is_floating_point():
            out[i][row].fill_(float("nan"))
        else:
            out[i][row] = other[i][row]
    return clean, out


def row_of(x: Tensor, layout: Any, rows: int, row: int) -> Tensor | None:
    """What a tensor has of one video of a batch, by its layout; None where that is unknown."""
    found = videos(x, layout, rows)
    if found is not None:
        return found[row]
    return x[row] if x.dim() and len(x) == rows else None


def _layouts(prog: Any, answer: Any) -> list[Any]:
    """The layout of each tensor of an answer, as :func:`leaves` has them."""
    analysis = prog.inspect.analysis
    nodes = iter(analysis.outputs)
    found = []
    for x, own in [] if answer is None else parts(answer):
        node = next(nodes) if own else None
        if x is None or isinstance(x, Tensor):
            found.append(analysis.value(node).layout if isinstance(node, fx.Node) else None)
    return found


def rows_isolated(check: Check, subject: Subject, chunkings: int) -> Check:
    """NaN in all frames of one video of two; the answers to the other stay as they are."""
    chunks = _steps(subject, 22)
    if subject.rows == 1:
        return replace(check, detail="the model takes a batch of one video: there is no other row")
    rows, compared, arrived = subject.rows or 2, 0, False
    faults: list[str] = []
    for (policy, prog), row in product(_policies(subject), (1, 0)):
        clean, poisoned = spoilt(subject, row)
        pairs = zip(
            subject.run(prog, clean, chunks), subject.run(prog, poisoned, chunks), strict=True
        )
        for step, (a, b) in enumerate(pairs, 1):
            for x, y, layout in zip(leaves(a), leaves(b), _layouts(prog, a), strict=True):
                if x is None or y is None:
                    continue
                others = [n for n in range(rows) if n != row]
                apart = [(row_of(x, layout, rows, n), row_of(y, layout, rows, n)) for n in others]
                if any(part is None for pair in apart for part in pair):
                    shape = tuple(x.shape)
                    return replace(check, detail=f"an output has no batch axis: {shape}")
                compared += 1
                arrived |= not same_bits(row_of(x, layout, rows, row), row_of(y, layout, rows, row))
                if any(not same_bits(p, q) for p, q in apart):
                    faults.append(f"{policy}: step {step} of {chunks}, NaN in video {row + 1}")
    detail = f"{counted(compared, 'answer')} to a batch of two, NaN in each of them by turns"
    if not arrived:
        detail += "; the NaN reached no output"
    if not faults:
        return replace(check, ok=True if arrived else None, measured="0 bits differ", detail=detail)
    return replace(
        check, ok=False, measured=f"{len(faults)} differ", detail=f"{faults[0]}; {detail}"
    )

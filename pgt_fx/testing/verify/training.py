"""Measurements of training: the model's own gradients, exact ones, replayed randomness, statistics
updated once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.compiler.selfcheck.measure import error, leaves, same_bits
from pgt_fx.compiler.selfcheck.videos import Video, first_line
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import BlockedError, CaptureError, PgtError
from pgt_fx.core.torch_private import BatchNorm, DropoutNd, schema_of
from pgt_fx.testing.verify.locality import _loss
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject
from pgt_fx.training.gradients import Run


def gradients_equal_model(check: Check, subject: Subject, chunkings: int) -> Check:
    """A clip in one step beside the model itself, in eval and in train mode, by its parameters and
    by the clip. All that the other checks compare is gradients of the one captured graph."""
    video = subject.video(subject.length, batch=2, salt=17)
    bound = 10 * subject.exact_bound  # sums of many products, in another order
    worst, which, notes, compared = 0.0, "", [], 0
    for mode in ("eval", "train"):
        try:
            wanted = _of_clip(subject, video, mode, own=True)
        except Exception as error:
            notes.append(f"the model fails in {mode} mode: {first_line(error)}")
            continue
        try:
            gap, name = _distance(_of_clip(subject, video, mode), wanted) if wanted else (0.0, "")
        except (CaptureError, BlockedError) as error:
            notes.append(f"refused in {mode} mode: {type(error).__name__}")
            continue
        if gap > bound and _distance(_of_clip(subject, video, mode, own=True, salt=1), wanted)[0]:
            notes.append(f"{mode}: it draws at random")
            continue
        compared += bool(wanted)
        notes.append(f"{mode}: {counted(len(wanted), 'gradient')}")
        if gap > worst:
            worst, which = gap, name
    detail = f"clip of {counted(subject.length, 'frame')}; {', '.join(notes)}"
    if not compared:
        return replace(check, detail=detail)
    if worst > bound:
        detail += f"; worst at {which}"
    return replace(check, ok=worst <= bound, measured=worst, bound=bound, detail=detail)


def _of_clip(
    subject: Subject, video: Video, mode: str, *, own: bool = False, salt: int = 0
) -> dict[str, Tensor]:
    """Gradients of a generic loss by all parameters and by the clip: the model's own, or its
    progressive form's."""
    prog = copy.deepcopy(subject.answering).train(mode == "train")
    for module in prog.modules():
        if isinstance(module, DropoutNd):
            module.eval()
    timed = [x if t is not None else None for x, t in zip(video, subject.spec.times, strict=True)]
    leaves = {
        f"input {i}": x.detach().clone().requires_grad_()
        for i, x in enumerate(timed)
        if isinstance(x, Tensor) and x.is_floating_point()
    }
    # Copies: some models write into the clip they are given.
    clip = [leaves[k] * 1 if (k := f"input {i}") in leaves else x for i, x in enumerate(video)]
    args, kwargs = subject.args(clip)
    with _seeded(subject.seed + salt):
        loss = _loss((prog.inspect.model if own else prog.full)(*args, **kwargs))
    if loss is None:
        return {}
    loss.backward()
    tensors = {**dict(prog.named_parameters()), **leaves}
    return {name: x.grad for name, x in tensors.items() if x.grad is not None}


def exact_gradients(check: Check, subject: Subject, chunkings: int) -> Check:
    """Steps backward, each recomputed, beside all steps in one graph; both policies."""
    if not _count(subject):
        return replace(check, detail="the model has no parameters")
    t = subject.length
    chunks = subject.fitting([t, max(1, t // 2), t])
    video = subject.video(sum(chunks), salt=14)
    worst, which = 0.0, ""
    detail = f"steps {chunks}, zero and wait, {counted(_count(subject), 'parameter')}"
    for prog in (subject.answering, subject.waiting):
        found = _gradients(subject, prog, video, chunks, "exact")
        wanted = _gradients(subject, prog, video, chunks, "together")
        if not wanted:
            return replace(check, detail="no output can be differentiated by a parameter")
        gap, name = _distance(found, wanted)
        if gap > worst:
            worst, which = gap, name
    bound = 10 * subject.exact_bound  # sums of many products, in another order
    if worst > bound:
        detail += f"; worst at {which}"
    return replace(check, ok=worst <= bound, measured=worst, bound=bound, detail=detail)


def replayed(check: Check, subject: Subject, chunkings: int) -> Check:
    """In train mode: exact gradients see the same random numbers, and update statistics once."""
    modules = list(subject.model.modules())
    drops = any(isinstance(m, DropoutNd) and m.p > 0 for m in modules)
    norms = any(isinstance(m, BatchNorm) and m.track_running_stats for m in modules)
    try:
        random = drops or norms or _random(subject)
    except PgtError as refused:  # the check mode-switching reports it
        return replace(check, detail=f"no graph of the model in train mode: {first_line(refused)}")
    if not random:
        detail = "nothing random and no running statistics in the model"
        return replace(check, detail=detail)
    if not _count(subject):
        return replace(check, detail="the model has no parameters")
    prog = copy.deepcopy(subject.answering).train()
    t = subject.length
    chunks = subject.fitting([t, t, t])
    video = subject.video(sum(chunks), batch=2, salt=15)
    start = copy.deepcopy(prog.state_dict())
    gradients, statistics = [], []
    for way in ("exact", "together"):
        prog.load_state_dict(start)
        with _seeded(subject.seed):
            gradients.append(_gradients(subject, prog, video, chunks, way))
        statistics.append([b.clone() for b in prog.buffers()])
    if not gradients[1]:
        return replace(check, detail="no output can be differentiated by a parameter")
    drift = error(statistics[0], statistics[1]) if statistics[1] else 0.0
    apart, which = _distance(gradients[0], gradients[1])
    bound = 10 * subject.exact_bound
    detail = (
        f"steps {chunks} of a batch of two; gradients differ by {apart:.0e}, "
        f"{len(statistics[1])} buffers by {drift:.0e}"
    )
    worst = max(apart, drift)
    if worst > bound:
        detail += f"; worst at {which if apart >= drift else _drifted(prog, statistics)}"
    return replace(check, ok=worst <= bound, measured=worst, bound=bound, detail=detail)


def _random(subject: Subject) -> bool:
    """Whether the model draws random numbers in train mode, as a layer or in its own Python."""
    prog = subject.answering
    try:
        graph = prog.train().inspect.captured.graph
    finally:
        prog.eval()
    if any(_draws(node) for node in graph.nodes):
        return True
    # A recurrent layer, and an operator of the user's own, have no tag that says so.
    model = copy.deepcopy(subject.model).train()
    answers = []
    for seed in (subject.seed, subject.seed + 1):
        with _seeded(seed):
            answers.append(subject.plain(subject.video(subject.length, batch=2, salt=15), model))
    return not same_bits(answers[0], answers[1])


def _draws(node: fx.Node) -> bool:
    """Whether an operator draws random numbers: a dropout with a probability of zero does not."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    names = [a.name for a in schema_of(node.target).arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    chances = [given.get(n, 0.0) for n in ("p", "dropout_p") if n in names]
    return not chances or any(chance != 0 for chance in chances)


def gradient_rounding(subject: Subject, exact: Subject, training: bool) -> float:
    """How far the gradients of three steps in one graph are from the same in float64.

    Far, in train mode: a norm over few elements divides by a small deviation, and multiplies what
    was rounded before it. Dropout is left out, as its masks depend on the type.
    """
    both = []
    for one in (subject, exact):
        prog = copy.deepcopy(one.answering).train(training)
        for module in prog.modules():
            if isinstance(module, DropoutNd):
                module.eval()
        chunks = one.fitting([one.length] * 3)
        video = one.video(sum(chunks), batch=2, salt=15)
        both.append(_gradients(one, prog, video, chunks, "together"))
    return _distance(*both)[0] if both[1] else 0.0


def _gradients(
    subject: Subject, prog: Any, video: Video, chunks: list[int], way: str
) -> dict[str, Tensor]:
    """Gradients of a generic loss on every step; {} where nothing can be differentiated."""
    args, kwargs = subject.args(video)
    prog.zero_grad()
    steps = prog.chunks(*args, schedule=chunks, **kwargs)
    run = Run(prog, steps, _weighted(prog), None, "every", 1.0, None, nullcontext())
    # Without a look at whether steps answer the same again: how far gradients are off is measured.
    if way == "exact":
        run.exact()
    else:
        run.truncated(len(chunks))
    found = {n: p.grad for n, p in prog.named_parameters() if p.grad is not None}
    prog.zero_grad()
    return found


def _weighted(prog: nn.Module) -> Callable[[Any, Any], Tensor]:
    anchor = next(p for p in prog.parameters())

    def loss(output: Any, target: Any) -> Tensor:
        # Of all its numbers, with a gradient or not: it is called twice, once without any. And a
        # model whose output depends on no parameter has a loss all the same.
        total = anchor.new_zeros((), requires_grad=True) * 1
        for x in leaves(output):
            if x is not None and (x.is_floating_point() or x.is_complex()):
                x = torch.view_as_real(x) if x.is_complex() else x
                weights = torch.linspace(0.5, 1.5, x.numel(), dtype=x.dtype, device=x.device)
                total = total + (x.reshape(-1) * weights).sum()
        return total

    return loss


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    """Greatest difference, relative to each gradient's magnitude (tiny ones to the greatest's),
    and the parameter that has it."""
    if found.keys() != wanted.keys():
        return float("inf"), min(found.keys() ^ wanted.keys())
    most = max(float(w.abs().max()) for w in wanted.values())
    if not most:
        return 0.0, ""
    gaps = {
        k: float((found[k] - w).abs().max()) / max(float(w.abs().max()), 1e-3 * most)
        for k, w in wanted.items()
    }
    which = max(gaps, key=lambda k: gaps[k])
    return gaps[which], which


def _drifted(prog: nn.Module, statistics: list[list[Tensor]]) -> str:
    """The buffer that differs most."""
    names = [name for name, _ in prog.named_buffers()]
    gaps = [error([a], [b]) for a, b in zip(*statistics, strict=True)]
    return names[gaps.index(max(gaps))]


def _count(subject: Subject) -> int:
    return sum(p.requires_grad for p in subject.model.parameters())


class _seeded:
    """Torch's generators seeded, and put back afterwards."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.kept = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *error: object) -> None:
        torch.set_rng_state(self.kept)

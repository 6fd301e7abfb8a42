"""One random case: a graph, a video, options, cuts; and all that must hold of it.

A case is plain data, so that a failing one can be printed, kept in a file and run again:
``check(case)`` raises :class:`Fault` where something does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import pgt_fx
from pgt_fx.compiler.selfcheck.measure import error, error_per_element, same_bits
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.fuzz.cutmask import cut_masked
from pgt_fx.testing.fuzz.graphs import (
    HORIZON,
    build,
    example_frames,
    generic,
    length,
    minimum_frames,
    picky,
    video,
    way,
)
from pgt_fx.testing.verify.stream import unowned
from pgt_fx.training.gradients import backward

Case = dict[str, Any]

#: Greatest relative error that passes for rounding, by dtype; and what is certainly more.
BOUNDS = {"float64": (1e-9, 1e-13), "float32": (1e-4, 0.0), "bfloat16": (5e-2, 0.0)}
#: What low precision may lose on a dozen operators, where float64 shows that nothing is wrong.
ROUNDING = {"float32": 1e-2, "bfloat16": 1.0}
HEADS = ("", "mean", "max")


class Fault(AssertionError):
    """Something that must hold of a case does not."""


class Headed(nn.Module):
    """A graph, and a reduction over all of time after it."""

    def __init__(self, body: nn.Module, head: str) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x.amax(2) if self.head == "max" else x.mean(2)


def model_of(case: Case, dtype: torch.dtype) -> nn.Module:
    """The module of a case."""
    body = build(case["spec"], case["seed"], torch.float64).to(dtype)
    return Headed(body, case["head"]).eval() if case["head"] else body


def sensitive(case: Case) -> bool:
    """Whether the order of the frames matters: else a comparison proves nothing."""
    if case["frames"] < 2:
        return False
    model, x = model_of(case, torch.float64), video(case["spec"], case["frames"], case["seed"])
    order = torch.randperm(x.shape[2], generator=torch.Generator().manual_seed(0))
    if torch.equal(order, torch.arange(len(order))):
        order = order.flip(0)
    with torch.no_grad():
        return error(model(x[:, :, order]), model(x)) > 1e-6


def runs(case: Case) -> bool:
    """Whether torch has the plain model's operators in the dtype of the case, on this device, and
    the model goes the clip's way for another video as well."""
    dtype, spec = getattr(torch, case["dtype"]), case["spec"]
    clip = example_frames(spec)
    if all(way(spec, n) != way(spec, clip) for n in range(clip + 1, clip + 2 * HORIZON)):
        return False  # a branch on the clip's own length alone, which is refused
    try:
        with torch.no_grad():
            model_of(case, dtype)(video(case["spec"], case["frames"], case["seed"]).to(dtype))
    except NotImplementedError:
        return False
    return True


def check(case: Case) -> None:
    """Everything that must hold; what fails in low precision is tried again in float64.

    Raises:
        Fault: saying what does not hold.
    """
    try:
        _check(case, case["dtype"])
    except Fault as fault:
        limit = ROUNDING.get(case["dtype"])
        worst = fault.args[1] if len(fault.args) > 1 else float("inf")
        if limit is None or worst > limit:
            raise
        _check(case, "float64")


def _check(case: Case, kind: str) -> None:
    dtype = getattr(torch, kind)
    spec = case["spec"]
    bound, noise = BOUNDS[kind]
    model = model_of(case, dtype)
    x = video(spec, case["frames"], case["seed"]).to(dtype)
    with torch.no_grad():
        whole = model(x)
    prog = transformed(case, model)
    if way(spec, case["frames"]) != way(spec, example_frames(spec)):
        _refused(case, prog, x)
        return
    with torch.no_grad():
        _close(prog.full(x), whole, bound, "one step over the whole video")
    for chunks in case["chunks"]:
        outputs = run(prog, x, chunks)
        again = run(prog, x, chunks)
        if not all(same_bits(a, b) for a, b in zip(outputs, again, strict=True)):
            raise Fault(f"chunks {chunks}: a second run gives other bits")
        given = [y for y in outputs if y is not None]
        if any(y.dtype != whole.dtype for y in given):
            raise Fault(f"chunks {chunks}: {given[0].dtype}, the model gives {whole.dtype}")
        if case["head"]:
            if case["options"]["pooling"] == "running" and case["options"]["future"] == "wait":
                _close(given[-1] if given else None, whole, bound, f"last answer of {chunks}")
        elif case["options"]["future"] == "wait":
            _close(_stitched(given), whole, bound, f"chunks {chunks}")
        else:
            _at_once(case, prog, model, x, whole, chunks, outputs, bound, noise)
        _one_way(case, prog, x, chunks, outputs)
    if case["gradients"] and kind == "float64":
        _gradients(prog, x, case["chunks"][0])


def transformed(case: Case, model: nn.Module) -> Progressive:
    """The progressive model of a case."""
    dtype = next((p.dtype for p in model.parameters()), torch.float64)
    example = video(case["spec"], example_frames(case["spec"]), 9).to(dtype)
    options = {"strict": False, **case["options"]}
    return pgt_fx.transform(model, example, time_dim=2, **options)


def run(prog: Progressive, x: Tensor, chunks: Sequence[int]) -> list[Tensor | None]:
    """The outputs of all steps; the state must own its memory after each."""
    prog.reset()
    outputs = []
    pieces = x.split(list(chunks), 2)
    with torch.no_grad():
        for number, piece in enumerate(pieces):
            outputs.append(prog(piece, last=number == len(pieces) - 1))
            if faults := unowned(prog.state):
                raise Fault(f"chunks {list(chunks)}: after step {number + 1} {faults[0]}")
    return outputs


def _refused(case: Case, prog: Progressive, x: Tensor) -> None:
    """The model takes another branch at this length than at the clip's: it must refuse, not run."""
    for chunks in [[case["frames"]], *case["chunks"]]:
        try:
            run(prog, x, chunks)
        except ClipError as error:
            if "graphs.py" not in str(error) and "modules.py" not in str(error):
                raise Fault(f"chunks {chunks}: the refusal names no line: {error}") from error
            continue
        raise Fault(f"chunks {chunks}: a video of another length than the graph's is accepted")


def _stitched(given: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(given), 2) if given else None


def _close(got: Tensor | None, wanted: Tensor, bound: float, what: str) -> None:
    if got is None:
        raise Fault(f"{what}: no output")
    if got.shape != wanted.shape:
        raise Fault(f"{what}: {tuple(got.shape)}, expected {tuple(wanted.shape)}")
    gap = error(got, wanted)
    if gap > bound:
        raise Fault(f"{what}: differs by {gap:.1e} (bound {bound:.0e})", gap)


def _at_once(
    case: Case,
    prog: Progressive,
    model: nn.Module,
    x: Tensor,
    whole: Tensor,
    chunks: list[int],
    outputs: list[Tensor | None],
    bound: float,
    noise: float,
) -> None:
    """``future="zero"``: as many outputs as the model has by now, right where named."""
    spec, exact_past = case["spec"], case["options"]["operator"] == "mco"
    answer = _stitched([y for y in outputs if y is not None])
    if answer is None or answer.shape != whole.shape:
        seen = None if answer is None else tuple(answer.shape)
        raise Fault(f"chunks {chunks}: {seen}, expected {tuple(whole.shape)}")
    if exact_past:
        ends = [sum(chunks[: n + 1]) for n in range(len(chunks))]
        _close(answer, cut_masked(model, x, ends), bound, f"chunks {chunks}, beside the cut mask")
        given = 0
        for seen_frames, y in zip(ends, outputs, strict=True):
            given += 0 if y is None else y.shape[2]
            due = length(spec, seen_frames)
            if due is not None and given != due:
                raise Fault(
                    f"chunks {chunks}: {counted(given, 'output')} after {seen_frames} frames, "
                    f"{due} due"
                )
    flags = prog.exact_frames(chunks)
    if len(flags) != whole.shape[2]:
        raise Fault(
            f"chunks {chunks}: {counted(len(flags), 'flag')} for "
            f"{counted(whole.shape[2], 'output')}"
        )
    # An aggregate may happen to be what it stands for; the last elements are never.
    tight = generic(spec) and exact_past and noise > 0
    for i, (flag, gap) in enumerate(zip(flags, error_per_element(answer, whole, 2), strict=True)):
        if flag and gap > bound:
            raise Fault(f"chunks {chunks}: frame {i} is named exact, differs by {gap:.1e}", gap)
        if not flag and tight and gap <= noise:
            raise Fault(f"chunks {chunks}: frame {i} is exact, and not named")


def _one_way(
    case: Case, prog: Progressive, x: Tensor, chunks: list[int], outputs: list[Tensor | None]
) -> None:
    """Other frames from some step on change nothing before it, to the last bit."""
    if len(chunks) < 2:
        return
    steps = len(chunks) // 2
    cut = sum(chunks[:steps])
    other = x.clone()
    other[:, :, cut:] = video(case["spec"], x.shape[2] - cut, case["seed"] + 5).to(x.dtype)
    again = run(prog, other, chunks)
    for step in range(steps):
        if not same_bits(outputs[step], again[step]):
            raise Fault(f"chunks {chunks}: step {step + 1} changes with frames of step {steps + 1}")


def _gradients(prog: Progressive, x: Tensor, chunks: list[int]) -> None:
    """Step by step, each recomputed, as all steps in one graph."""
    # Training wants steps that answer: a schedule whose first one does not is refused.
    if not prog.answers(chunks)[0] or not any(p.requires_grad for p in prog.parameters()):
        return

    def loss(output: Any, target: Any) -> Tensor:
        return (output.sin() * output).sum()

    found = []
    ways: tuple[dict[str, Any], ...] = ({"gradient": "exact"}, {"keep": len(chunks)})
    for how in ways:
        prog.zero_grad()
        backward(prog, x, loss, schedule=chunks, **how)
        found.append({n: p.grad.clone() for n, p in prog.named_parameters() if p.grad is not None})
    prog.zero_grad()
    if found[0].keys() != found[1].keys():
        raise Fault(f"chunks {chunks}: gradients of other parameters")
    most = max((float(g.abs().max()) for g in found[1].values()), default=0.0)
    for name, wanted in found[1].items():
        gap = float((found[0][name] - wanted).abs().max()) / (most or 1.0)
        if gap > 1e-9:
            raise Fault(f"chunks {chunks}: the gradient of {name} differs by {gap:.1e}")


def first_chunk(case: Case) -> int:
    """Where a module refuses what its window could answer, the model itself does not say what a
    shorter first step gives."""
    return minimum_frames(case["spec"]) if picky(case["spec"]) else 1

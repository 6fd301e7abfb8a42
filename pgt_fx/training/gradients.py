"""Gradients of a progressive run: truncated as in the paper, or exact at the memory of one step.

PGT paper, section 3.1: one backward per step, losses summed (not divided by P), one update after
all steps. DESIGN §8 for the exact gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pgt_fx.core.clip import as_call
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import ClipError, OptionError
from pgt_fx.core.options import _choice
from pgt_fx.core.schedule import Schedule
from pgt_fx.core.torch_private import pytree
from pgt_fx.runtime.chunks import new_frames
from pgt_fx.runtime.module_call import stepped
from pgt_fx.runtime.progressive import Progressive, State
from pgt_fx.training.differentiated import Differentiated
from pgt_fx.training.losses import IMPURE, Twice, check_loss, is_empty, no_loss, of_labels
from pgt_fx.training.parallel import broadcast_buffers, reduce_gradients
from pgt_fx.training.replay import Replay
from pgt_fx.training.targets import Labels, PerFrame
from pgt_fx.training.wrappers import Around

Loss = Callable[[Any, Any], Tensor]
Gradient = Literal["truncated", "exact"]
On = Literal["every", "last"]
Chunk = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Backward:
    """What one video's steps gave; the gradients are in the parameters' ``.grad``.

    Attributes:
        losses: per step its loss as a detached scalar, None where it had no answer or no loss.
            Their ``backward()``, and that of ``loss``, is an error that says why.
        outputs: per step its answer, detached; None where none was due.
        targets: per step the labels that its loss was given; None where it had no answer.
    """

    losses: list[Tensor | None] = field(default_factory=list)
    outputs: list[Any | None] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)

    @property
    def loss(self) -> Tensor:
        """The sum over steps, unscaled: what was differentiated."""
        found = [loss for loss in self.losses if loss is not None]
        return torch.stack(found).sum()


def backward(
    prog: Progressive | nn.Module,
    video: Any,
    loss_fn: Loss,
    target: Any = None,
    *,
    schedule: Schedule | Sequence[int] | None = None,
    gradient: Gradient = "truncated",
    keep: int = 1,
    on: On = "every",
    scale: float = 1.0,
    scaler: torch.amp.GradScaler | None = None,
    autocast: AbstractContextManager[Any] | None = None,
    sync: bool = True,
) -> Backward:
    """Run a video in steps, differentiate the summed losses, leave the sum in ``.grad``.

    It calls ``backward()`` itself, in each step; what is left to do is the update. In a
    ``LightningModule`` that is Lightning's manual optimization (in one process: Lightning averages
    over several in a backward of its own)::

        class Training(lightning.LightningModule):
            def __init__(self, prog):
                super().__init__()
                self.prog, self.automatic_optimization = prog, False

            def training_step(self, batch, index):
                video, label = batch
                optimizer = self.optimizers()
                optimizer.zero_grad()
                found = backward(self.prog, video, F.cross_entropy, label, schedule=Schedule(4, 3))
                optimizer.step()
                self.log("loss", found.loss)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

    A model that accelerate has prepared (``accelerator.prepare(prog)``), Lightning Fabric's module
    (``fabric.setup(prog, optimizer)``) and ``fully_shard(prog)`` run each step as they run a call
    of the model, in their precision; ``accelerator.backward`` and ``fabric.backward`` are left out.

    Args:
        prog: a progressive model, ``DistributedDataParallel`` or Fabric's module around one.
        video: as the model takes it: a tensor, list, tuple or dict of tensors.
        loss_fn: ``loss_fn(output, target)`` -> scalar, called for each step that answers. Under
            "exact" it is called twice for a step, the second time from the last to the first: it
            has to be a function of its arguments alone (and of random numbers, which are replayed),
            without memory of the steps before. It is not called for a step whose answer, or whose
            own labels, hold no element (no boxes): that has a loss of zero.
        target: its second argument: the same for all steps; or :class:`PerStep`, one for each;
            or :class:`OverTime`, one for each, made from the frames that the step covers, whatever
            the schedule; or :class:`PerFrame`.
        schedule: as for :meth:`Progressive.run`.
        gradient: "truncated": none reaches an earlier step (the paper). "exact": the gradients of
            all steps in one graph, at the memory of one step: a sweep forward that keeps the
            states alone, then each step again from the last to the first, with the gradient of
            its outgoing state as cotangent. Randomness is replayed; norms' running statistics are
            updated once.
        keep: with "truncated", as many successive steps share a graph (k of TBPTT(k, k)).
        on: losses on "every" step that answers, or on the "last" alone.
        scale: factor on the loss, e.g. 1 / (number of accumulated batches).
        scaler: multiplies the loss; call its ``step`` and ``update`` afterwards as usual. With
            accelerate in float16 it is ``accelerator.scaler``; Fabric's is found.
        autocast: context of forward and loss, e.g. ``torch.autocast("cuda", torch.bfloat16)``.
        sync: with DistributedDataParallel, average the gradients over all ranks at the end, once;
            False for all but the last of several accumulated batches.

    Raises:
        OptionError: for an unknown option, labels that don't match the steps, a loss that is no
            scalar tensor or that "exact" gets another value of, where nothing has a gradient, or
            for a wrapper that steps can't go through, with what to do instead.
        ClipError: when the video is shorter than the schedule, or no step answered.
    """
    check_options(gradient, keep, on)
    if not torch.is_grad_enabled():
        raise OptionError(
            "backward: called under torch.no_grad() or torch.inference_mode(), where nothing has a "
            "gradient; call it outside, or prog.run(…) for the answers alone"
        )
    if not callable(loss_fn):
        raise OptionError(f"loss_fn: expected a function of answer and labels, got {loss_fn!r}")
    around = Around(prog)
    inner, scaler = around.inner, around.scaler if scaler is None else scaler
    around.check(gradient, scaler)
    args, kwargs = as_call(video)
    chunks = inner.chunks(*args, schedule=schedule, **kwargs)
    _check_length(inner, chunks)
    cover = autocast or nullcontext()
    run = Run(inner, chunks, loss_fn, target, on, scale, scaler, cover, around, schedule)
    run.labels.check(_answered(inner, chunks) if isinstance(target, PerFrame) else None)
    broadcast_buffers(prog)
    if gradient == "exact":
        run.exact()
    else:
        run.truncated(keep)
    run.check()
    run.into_the_video()
    if sync:
        reduce_gradients(prog)
    run.found.losses = [x if x is None else Differentiated.of(x) for x in run.found.losses]
    return run.found


def check_options(gradient: str, keep: int, on: str) -> None:
    """Refuse options of :func:`backward` before anything is run.

    Raises:
        OptionError: for an unknown value, or values that don't go together.
    """
    _choice("gradient", gradient, ("truncated", "exact"))
    _choice("on", on, ("every", "last"))
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise OptionError(f"keep: expected a whole number of steps from 1 on, got {keep!r}")
    if gradient == "exact" and keep != 1:
        raise OptionError('keep: is for gradient="truncated"; "exact" keeps all steps')


class Run:
    """One video: its chunks, losses and what has come of them so far."""

    def __init__(
        self,
        prog: Progressive,
        chunks: list[Chunk],
        loss_fn: Loss,
        target: Any,
        on: On,
        scale: float,
        scaler: torch.amp.GradScaler | None,
        autocast: AbstractContextManager[Any],
        around: Around | None = None,
        schedule: Schedule | Sequence[int] | None = None,
    ) -> None:
        self.prog, self.loss_fn, self.chunks = prog, loss_fn, []
        self.around = around or Around(prog)
        self.inputs: list[tuple[Tensor, Tensor]] = []
        for chunk in chunks:
            self.chunks.append(pytree.tree_map_only(Tensor, self._cut_off, chunk))
        self.differentiated = False
        self.twice: list[tuple[int, Twice]] = []
        # Else a loss has a gradient through parameters of its own, or none.
        self.trained = bool(self.inputs) or any(p.requires_grad for p in prog.parameters())
        lengths = [min(prog.lengths(*args, **kwargs)) for args, kwargs in chunks]
        self.labels, self.on = Labels(target, new_frames(lengths, schedule)), on
        self.scale, self.scaler, self.autocast = scale, scaler, autocast
        self.found = Backward()

    def truncated(self, keep: int) -> None:
        """One backward per ``keep`` steps; the state between them is cut from the graph."""
        state: State = self.prog.init_state()
        pending: list[Tensor] = []
        for number in range(len(self.chunks)):
            end = (number + 1) % keep == 0 or self._last(number)
            out, state = self._step(number, state, detach=end)
            target = self._labels(number, out)
            loss = self._loss(number, out, target)
            pending += [loss] if loss is not None and loss.requires_grad else []
            self._note(out, loss, target)
            if end and pending:
                torch.autograd.backward([self._scaled(loss) for loss in pending])
                self.differentiated, pending = True, []

    def exact(self) -> None:
        """States forward without a graph; then steps backward, each recomputed (DESIGN §8)."""
        states: list[State] = [self.prog.init_state()]
        targets: list[Any] = []
        replays: list[Replay] = []
        end = len(self.chunks) - 1
        compiled = self.prog.inspect.program.compiled
        eager: list[bool] = []
        for number in range(end):
            replays.append(Replay(self.prog, replays[-1] if replays else None))
            # What is compiled draws other random numbers without gradients than with them.
            with torch.no_grad() if compiled is None else nullcontext():
                before = states[-1] if compiled is None else self._leaves(states[-1])
                out, state = self._step(number, before, detach=True, first_of_two=True)
                out = pytree.tree_map_only(Tensor, Tensor.detach, out)
            eager.append(compiled is not None and compiled.eager)
            targets.append(self._labels(number, out))
            # As it will be called again: a loss may ask what has a gradient, or take one itself.
            loss = self._loss(number, pytree.tree_map_only(Tensor, self._afresh, out), targets[-1])
            states.append(state)
            self._note(out, loss, targets[-1])
        # The last step is differentiated as it is run: no gradient comes from a later one.
        leaves = self._leaves(states[-1])
        out, _ = self._step(end, leaves, detach=True)
        target = self._labels(end, out)
        loss = self._loss(end, out, target)
        self._note(out, loss, target)
        cotangents = self._pull(loss, {}, {}, leaves)
        del out, loss
        for number in reversed(range(end)):
            states.pop()
            leaves = self._leaves(states[-1])
            again = nullcontext() if compiled is None else compiled.as_before(eager.pop())
            with replays.pop(), again:
                out, state = self._step(number, leaves, detach=False)
                loss = self._again(number, out, targets[number])
                cotangents = self._pull(loss, state, cotangents, leaves)
            del out, loss, state

    def _afresh(self, x: Tensor) -> Tensor:
        """An answer cut off from the graph that made it."""
        if self.trained and (x.is_floating_point() or x.is_complex()):
            return x.detach().requires_grad_().clone()
        return x

    def _leaves(self, state: State) -> State:
        """The state with its floating and complex tensors as leaves that gather gradients."""
        return {
            k: v.detach().requires_grad_()
            if self.trained and (v.is_floating_point() or v.is_complex())
            else v
            for k, v in state.items()
        }

    def _pull(
        self, loss: Tensor | None, state: State, cotangents: dict[str, Tensor], leaves: State
    ) -> dict[str, Tensor]:
        """Backward through one step: the gradients of the state that it began with."""
        tensors: list[Tensor] = []
        gradients: list[Tensor | None] = []
        if loss is not None and loss.requires_grad:
            tensors.append(self._scaled(loss))
            gradients.append(None)
        for name, cotangent in cotangents.items():
            if state[name].requires_grad:
                tensors.append(state[name])
                gradients.append(cotangent)
        if tensors:
            torch.autograd.backward(tensors, gradients)
            self.differentiated = True
        return {k: v.grad for k, v in leaves.items() if v.grad is not None}

    def _step(
        self, number: int, state: State, *, detach: bool, first_of_two: bool = False
    ) -> tuple[Any, State]:
        args, kwargs = self.chunks[number]
        args, kwargs = pytree.tree_map_only(
            Tensor,
            # A model may write into its clip, which is to be read again, or gathers a gradient.
            lambda x: x.clone() if first_of_two or x.requires_grad else x,
            (args, kwargs),
        )
        with self.autocast:
            return stepped(
                self.prog, self.around.call, state, *args, last=self._last(number), detach=detach,
                **kwargs,
            )  # fmt: skip

    def _loss(self, number: int, out: Any, target: Any) -> Tensor | None:
        if out is None or (self.on == "last" and not self._last(number)):
            return None
        if is_empty(out) or (self.labels.own and is_empty(target)):
            return no_loss(out)
        with self.autocast, of_labels(number + 1, out, target):
            loss = self.loss_fn(out, target)
        return check_loss(loss)

    def _labels(self, number: int, out: Any) -> Any:
        return None if out is None else self.labels.of(number, self._elements(out))

    def _elements(self, out: Any) -> int | None:
        """How many elements along time an answer has; None for one without a time axis."""
        flat = pytree.tree_leaves(out)
        for item, dim in zip(flat, self.prog.time_dims, strict=True):
            if isinstance(item, Tensor) and dim is not None:
                return int(item.shape[dim])
        return None

    def _scaled(self, loss: Tensor) -> Tensor:
        loss = loss * self.scale if self.scale != 1.0 else loss
        return self.scaler.scale(loss) if self.scaler is not None else loss

    def _last(self, number: int) -> bool:
        return number == len(self.chunks) - 1

    def _note(self, out: Any, loss: Tensor | None, target: Any) -> None:
        self.found.targets.append(target)
        detached = pytree.tree_map_only(Tensor, Tensor.detach, out)
        self.found.outputs.append(detached)
        self.found.losses.append(None if loss is None else loss.detach())

    def _cut_off(self, x: Tensor) -> Tensor:
        """An input that has a graph, or is to have a gradient, as a leaf."""
        if not x.requires_grad:
            return x
        leaf = x.detach().requires_grad_()
        self.inputs.append((x, leaf))
        return leaf

    def into_the_video(self) -> None:
        """The gradients of all chunks, through what made the video: once, as its graph is one."""
        found = [(x, leaf.grad) for x, leaf in self.inputs if leaf.grad is not None]
        if found:
            torch.autograd.backward([x for x, _ in found], [grad for _, grad in found])

    def _again(self, number: int, out: Any, target: Any) -> Tensor | None:
        """The loss of a step that is run a second time; what it is beside the first is noted."""
        then = self.found.losses[number]
        with self.autocast:
            twice = Twice.of(self.found.outputs[number], out, rough=self.around.rough)
        loss = self._loss(number, out, target)
        if (then is None) != (loss is None):
            raise OptionError(_of_step(number, IMPURE))
        self.twice.append((number, twice.and_losses(then, loss)))
        return loss

    def check(self) -> None:
        """Raises OptionError or ClipError: what makes the gradients none, or wrong."""
        self.labels.check_end()
        for number, twice in self.twice:
            if (reason := twice.reason()) is not None:
                raise OptionError(_of_step(number, reason))
        if all(loss is None for loss in self.found.losses):
            if any(output is not None for output in self.found.outputs):
                raise OptionError("loss_fn: it gave no loss (None) for any step that answered")
            raise ClipError(
                f"no step answered in {counted(len(self.chunks), 'step')}, so there is no loss; "
                "feed a longer "
                "video"
            )
        if not self.differentiated:
            raise OptionError(
                "backward: no loss of this video depends on anything that requires a gradient: are "
                "all parameters frozen, or is the loss computed from detached tensors?"
            )


def _of_step(number: int, reason: str) -> str:
    return f'gradient="exact": of step {number + 1}, {reason}'


def _answered(prog: Progressive, chunks: list[Chunk]) -> int | None:
    """Outputs along time of the whole video; None where they have no time axis."""
    lengths = [prog.lengths(*args, **kwargs) for args, kwargs in chunks]
    frames = tuple(map(sum, zip(*lengths, strict=True)))
    analysis = prog.inspect.analysis
    for item, dim in zip(analysis.outputs, prog.time_dims, strict=True):
        if dim is not None and (clock := analysis.value(item).clock) is not None:
            return clock.at(frames, True).total
    return None


def _check_length(prog: Progressive, chunks: list[Chunk]) -> None:
    """Under ``future="zero"`` every step is to answer: T' must reach the model's smallest clip.

    Raises:
        ClipError: naming T' and that clip.
    """
    lengths = [min(prog.lengths(*args, **kwargs)) for args, kwargs in chunks]
    if prog.options.future == "zero" and not prog.answers(lengths)[0]:
        least = prog.smallest_clip
        clip = "none, however long" if least is None else counted(least, "frame")
        raise ClipError(
            f"a first step of T'={counted(lengths[0], 'frame')} gives no output: the model's "
            f"smallest clip is {clip}. Use a longer Schedule(length=…) or, where a model ends "
            'in a pool over its clip, clip_pools="global", under which a shorter step has an answer'
        )

"""Runs of the model without compute: does it take a clip of this size, and what are its pools?

A forward on tensors without data costs a thirtieth of a capture and touches no memory.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from pgt_fx.capture.observe.active_modules import followed
from pgt_fx.capture.observe.call_overrides import POOLS, Noted, Spelling
from pgt_fx.capture.observe.clip_table_op import ClipTable, JoinCall, find_table, is_join, join_call
from pgt_fx.capture.observe.failing_line import Lines
from pgt_fx.capture.observe.module_attributes import Memory, changing, memories
from pgt_fx.capture.observe.snapshots import restored
from pgt_fx.capture.observe.surroundings import surroundings
from pgt_fx.capture.probe.returned_caches import Tail, Tails
from pgt_fx.capture.probe.varying_pads import PadCall, pad_call
from pgt_fx.capture.torch_patches import QUIET, UNCOMPILED
from pgt_fx.core.errors import of_this_machine
from pgt_fx.core.torch_private import FakeTensorMode, pytree

Run = Callable[..., Any]

RELUS = (F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)

#: Tables of one model after which the search is given up.
MOST_TABLES = 100


@dataclass(frozen=True)
class PoolCall:
    """One call of a pool: kernel along the first windowed axis, its length before and after."""

    how: str
    kernel: int
    before: int
    after: int


class Recorder:
    """Records the pools, the pads and the elementwise calls of a forward, in order, as the model
    makes them; ``spelling`` runs them."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self.pools: list[PoolCall] = []
        self.joins: list[JoinCall] = []
        self.pads: list[PadCall] = []
        self.tails = Tails()

    def __call__(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if (same := _as_large(func, args, kwargs)) is not None:
            return same
        if is_join(func):
            self.joins.append(join_call(args))
        if (pad := pad_call(func, args, kwargs, self.spelling.running)) is not None:
            self.pads.append(pad)
        out = self.spelling(func, args, kwargs)
        self.tails.look(func, args, out)
        if func in POOLS and isinstance(out, torch.Tensor):
            kernel = [*args, *kwargs.values()][1]
            rank = 3 if "3d" in func.__name__ else 1
            first = kernel[0] if isinstance(kernel, (tuple, list)) else kernel
            self.pools.append(
                PoolCall(POOLS[func], int(first), int(args[0].shape[-rank]), int(out.shape[-rank]))
            )
        return out


def _as_large(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The input of a call whose result is just as large; None where it has to be made.

    Without data the two are the same, and torch takes 0.5 ms to find the sizes of a batch norm:
    nine tenths of a run of a ResNet. Strides are the same for contiguous inputs alone.
    """
    x = args[0] if args else None
    if not isinstance(x, torch.Tensor) or not x.is_meta or not x.is_contiguous():
        return None
    if func in RELUS:
        return x.detach()  # not the same object: its sizes may be changed in place
    if func is F.batch_norm:
        # Those that fail are made: channels of another number, one value for each to learn from.
        sizes = [a.shape for a in (*args[1:], *kwargs.values()) if isinstance(a, torch.Tensor)]
        fits = x.dim() > 1 and x.numel() > x.shape[1]
        if fits and all(size == x.shape[1:2] for size in sizes):
            return x.detach()
    return None


def quiet() -> AbstractContextManager[None]:
    """Keeps torch from logging the traceback of a failure that is expected and handled."""
    return QUIET.on()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Has parts that ``torch.compile`` wraps run as they were written: they would compile what
    looks on as well, and torch warns that it does."""
    with warnings.catch_warnings(), UNCOMPILED.on():
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global")
        yield


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restores what a run writes into the model: buffers (batches are counted without compute
    too), and attributes and variables in which it keeps values for the next call, which are no real
    tensors."""
    saved = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with restored(list(model.modules())):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


class Stopped(Exception):
    """Raised by a hook to end a run that has shown what was to be seen."""


@dataclass
class Probe:
    """What a run without compute showed.

    Attributes:
        error: the exception that the model raised, None when it ran.
        pools: its pool calls, up to the error.
        joins: its elementwise calls of two operands, up to the error.
        noted: the calls that a capture has to see.
        calls: how often each module was called, up to the error.
        tails: of each tensor that the model returned whether it is the end of another one.
        pads: its calls of pads.
    """

    error: Exception | None
    pools: list[PoolCall]
    joins: list[JoinCall] = field(default_factory=list)
    noted: Noted = field(default_factory=Noted)
    calls: Counter[nn.Module] = field(default_factory=Counter)
    tails: list[Tail | None] = field(default_factory=list)
    pads: list[PadCall] = field(default_factory=list)


def probe(
    model: nn.Module,
    spec: Any,
    leaves: Sequence[Any],
    pools: Sequence[int] = (),
    tables: Sequence[ClipTable] = (),
) -> Probe:
    """Run the model without compute on leaves of these shapes.

    Args:
        spec: pytree of ``(args, kwargs)``.
        pools: numbers of the pool calls to be taken over all of time.
        tables: operands that have one row per frame of the clip.
    """
    found = _probe(model, spec, leaves, (pools, tables), _on_meta)
    error = found.error
    if error is not None and not isinstance(error, Stopped) and _of_the_device(error):
        found = _probe(model, spec, leaves, (pools, tables), _on_fake)
    return found


def _probe(
    model: nn.Module, spec: Any, leaves: Sequence[Any], spelled: tuple[Any, Any], run: Run
) -> Probe:
    with quiet(), unchanged(model), torch.no_grad(), followed() as running:
        recorder = Recorder(Spelling(*spelled, running=running))
        lines = Lines(recorder)
        try:
            with changing(model) as kept, surroundings() as around, uncompiled():
                output = run(model, spec, leaves, lines)
        except Exception as error:
            if of_this_machine(error):
                raise
            return Probe(error, recorder.pools, recorder.joins, calls=running.calls)
    noted = recorder.spelling.noted
    noted.kept = kept
    noted.tried, noted.gradless = lines.tried, lines.gradless
    noted.caught = [where for where, error in lines.caught if _of_sizes(error)]
    noted.read, noted.layouts, noted.sized = lines.read, lines.layouts, lines.sized
    noted.asked = {*around.asked, *lines.read}
    tails = recorder.tails.returned(output)
    found = (recorder.pools, recorder.joins, noted, running.calls, tails, recorder.pads)
    return Probe(None, *found)


def leaves_behind(
    model: nn.Module, spec: Any, leaves: Sequence[Any], names: Sequence[str]
) -> list[Memory]:
    """Which attributes that forward changes are a memory of the call before (see
    :func:`~pgt_fx.capture.observe.module_attributes.memories`); the model is left as it is."""
    on_meta = _probe(model, spec, leaves, ((), ()), _on_meta).error is None
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with quiet(), unchanged(model), torch.no_grad():
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        if on_meta:
            given, weights = [x.to("meta") for x in tensors], _without_data(model)
        else:
            given, weights = [fake.from_tensor(x) for x in tensors], {}
        rest = iter(given)
        flat = [next(rest) if isinstance(x, torch.Tensor) else x for x in leaves]
        args, kwargs = pytree.tree_unflatten(flat, spec)

        def run(followed: AbstractContextManager[Any]) -> None:
            with nullcontext() if on_meta else fake, Lines(Spelling()), followed:
                functional_call(model, weights, args, kwargs)

        return memories(model, names, given, run)


def _on_meta(model: nn.Module, spec: Any, leaves: Sequence[Any], lines: Lines) -> Any:
    """What the model gives on tensors without data: three times as fast as fake ones, which are
    that and a device.

    A model that makes tensors on a device of its own, or reads values, fails here.
    """
    weights = _without_data(model)
    bare = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in leaves]
    args, kwargs = pytree.tree_unflatten(bare, spec)
    lines.inputs = [x for x in bare if isinstance(x, torch.Tensor)]
    with lines:
        return functional_call(model, weights, args, kwargs)


def _without_data(model: nn.Module) -> dict[str, torch.Tensor]:
    kept = [*model.named_parameters(), *model.named_buffers()]
    try:
        return {name: tensor.to("meta") for name, tensor in kept}
    except Exception as error:  # tensors of other kinds (quantized ones) may have no such form
        raise NotImplementedError("weights without data") from error


def _on_fake(model: nn.Module, spec: Any, leaves: Sequence[Any], lines: Lines) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        faked = [fake.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in leaves]
        args, kwargs = pytree.tree_unflatten(faked, spec)
        lines.inputs = [x for x in faked if isinstance(x, torch.Tensor)]
        with lines:
            return model(*args, **kwargs)


def _of_the_device(error: Exception) -> bool:
    """Whether a failure may be owed to tensors without data or device, not to the sizes.

    For sizes that don't go together torch raises a RuntimeError, and models raise errors of plain
    types with a reason.
    """
    plain = type(error) in (RuntimeError, Exception, ValueError, AssertionError)
    return not plain or not str(error) or _names_a_device(error)


def _names_a_device(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("meta", "device", "cpu", "cuda"))


def _of_sizes(error: Exception) -> bool:
    """Whether an error that the model has caught may be owed to sizes, so that at others there is
    none: it is not that tensors have no data, or an operator that is nowhere."""
    kinds = (RuntimeError, IndexError, ValueError, AssertionError)
    fits = isinstance(error, kinds) and not isinstance(error, NotImplementedError)
    return fits and not _names_a_device(error)


def clip_pools(at_clip: list[PoolCall], longer: list[PoolCall]) -> list[int]:
    """Numbers of the pool calls that cover exactly the clip along time.

    A pool covers the clip when its kernel is the whole axis and one element comes out; the axis
    is time when its length differs between the two runs.
    """
    return [
        i
        for i, (short, long) in enumerate(zip(at_clip, longer, strict=False))
        if short.kernel == short.before > 1
        and short.after == 1
        and long.before != short.before
        and short.kernel == long.kernel
    ]


def clip_tables(
    model: nn.Module,
    spec: Any,
    leaves: Sequence[Any],
    longer: Sequence[Any],
    pools: Sequence[int] = (),
) -> tuple[list[ClipTable], Probe]:
    """Operands with one row per frame of the clip, for which the model fails on a longer one.

    Returns:
        those with which it runs at both lengths, none when there is no such set; and the longer
        run.
    """
    at_clip = probe(model, spec, leaves, pools)
    found: list[ClipTable] = []
    while at_clip.error is None and len(found) < MOST_TABLES:
        run = probe(model, spec, longer, pools, found)
        if run.error is None:
            return found, run
        table = find_table(at_clip.joins, run.joins)
        if table is None or table in found:
            break
        found.append(table)
    return [], at_clip

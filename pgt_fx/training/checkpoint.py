"""Checkpoints from which a training goes on bit by bit: tensors and plain data, never code."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor, nn

from pgt_fx.core.errors import PgtError
from pgt_fx.training.parallel import of_rank_0

VERSION = 2
Plain = dict[str, Any]
_SHOWN = 8


class CheckpointError(PgtError, RuntimeError):
    """A checkpoint can't be read or written, or is another training's."""


def random_state(loader: Any = None) -> Plain:
    """Of the generators of Python, NumPy and torch (CPU and all visible GPUs), and of a loader that
    has its own, as tensors and lists."""
    version, internal, gauss = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    state: Plain = {
        "python": [version, list(internal), gauss],
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(d) for d in devices],
        "loader": [g.get_state() for g in _generators(loader)],
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [kind, keys.tolist(), *rest]
    return state


def set_random_state(state: Plain, loader: Any = None) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["cpu"])
    for device, one in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(one, device)
    for generator, one in zip(_generators(loader), state["loader"], strict=False):
        generator.set_state(one)
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy" in state:
        numpy.random.set_state(tuple(state["numpy"]))


def _generators(loader: Any) -> list[torch.Generator]:
    """A DataLoader's own, and its samplers'; the same one is there once."""
    found: list[torch.Generator] = []
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    for one in (loader, *samplers):
        generator = getattr(one, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not g for g in found):
            found.append(generator)
    return found


def check(path: Path) -> None:
    """Whether a checkpoint could be written there, asked before there is one to lose.

    Raises:
        CheckpointError: when it could not.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise CheckpointError(f"checkpoint: {path} is a folder; expected a file to write")
    if not path.parent.is_dir():
        raise CheckpointError(f"checkpoint: there is no folder {path.parent}; make it first")
    try:  # permissions alone don't tell what a file system that is read-only or full allows
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: {path.parent} can't be written to: {error.strerror}"
        ) from error


@contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Hold a checkpoint's path: two trainings that write to one would each lose theirs.

    Under data parallel one rank holds it for all. The lock ends with the process at the latest.

    Raises:
        CheckpointError: another training holds it, or the file beside it that is locked can't be.
    """
    if path is None:
        yield
        return
    path = Path(os.path.realpath(path))
    file = path.with_name(path.name + ".lock")
    lock, fault = FileLock(file, timeout=0), None
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            lock.acquire()
        except Timeout:
            fault = (
                f"another training is writing to {path}; wait for its end, or write to another file"
            )
        except (OSError, NotImplementedError) as error:  # some file systems have no locks
            fault = (
                f"{file}, which keeps other trainings away, can't be locked: {error}; write to "
                "another folder"
            )
    fault = of_rank_0(fault)  # the others wait for it
    if fault is not None:
        raise CheckpointError(f"checkpoint: {fault}")
    try:
        yield
    finally:
        if lock.is_locked:
            if os.name == "posix":  # elsewhere an open file can't be removed
                file.unlink(missing_ok=True)
            lock.release()


def save(path: Path, parts: Plain, about: Plain, history: list[Any], *, loader: Any = None) -> None:
    """Write a checkpoint in one move: a reader finds the old one or the new one, whole.

    Args:
        parts: name -> object with ``state_dict()`` (model, optimizer, …); None is left out.
        about: "start" and "now": what defines the training, as :mod:`.identity` describes it,
            before its first epoch and after its last; "environment".
        history: rows of the epochs so far.
        loader: whose generators are saved.
    """
    ranks = [random_state(loader)]
    if dist.is_initialized():
        ranks = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(ranks, random_state(loader))
        if dist.get_rank():
            return
    data = {
        "pgt_fx_checkpoint": VERSION,
        "about": about,
        "history": history,
        "random": ranks,
        **{name: part.state_dict() for name, part in parts.items() if part is not None},
    }
    path = Path(os.path.realpath(path))  # of a link, what it points to is replaced
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name on an empty file
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read(path: Path, parts: Plain, about: Plain) -> Plain:
    """A checkpoint of this training; nothing is changed yet.

    Raises:
        CheckpointError: no such file, not a checkpoint, of another version, of another model or
            of a training with other settings, each of which is named.
    """
    data = _read(path)
    if data["pgt_fx_checkpoint"] != VERSION:
        raise CheckpointError(
            f"{path} has version {data['pgt_fx_checkpoint']}, expected {VERSION}; its weights can "
            f"be taken: {_init(path)}"
        )
    model = parts.get("model")
    if isinstance(model, nn.Module):
        _compare(path, model.state_dict(), data["model"])
    then, now = data["about"], about["now"]
    # "now" is what a training has that goes on with the very objects it was stopped with.
    differences = min((_differences(then[when], now) for when in ("start", "now")), key=len)
    if differences:
        shown = differences[:_SHOWN]
        more = len(differences) - len(shown)
        lines = [f"  {name} was {a}, and is now {b}" for name, a, b in shown]
        raise CheckpointError(
            "\n".join(
                [
                    f"{path} is of another training:",
                    *lines,
                    *([f"  and {more} more"] if more else []),
                    "To go on bit by bit, put this back. To start a new training from these "
                    f"weights: {_init(path)}",
                ]
            )
        )
    for name, value in then["environment"].items():
        if about["environment"].get(name, value) != value:
            warnings.warn(
                f"{path}: {name} was {value}, and is now {about['environment'][name]}: the "
                "training goes on, but numbers may be rounded otherwise than if it had not stopped",
                stacklevel=3,
            )
    return data


def load(data: Plain, parts: Plain, loader: Any = None) -> None:
    """Bring all parts and random generators to where a checkpoint was written."""
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(data[name])
    rank = dist.get_rank() if dist.is_initialized() else 0
    set_random_state(data["random"][rank], loader)


def load_weights(path: Path, model: nn.Module) -> None:
    """The model's parameters and buffers out of a checkpoint of any training.

    Raises:
        CheckpointError: no such file, not a checkpoint, or of a model with other tensors.
    """
    data = _read(path)
    _compare(path, model.state_dict(), data["model"])
    model.load_state_dict(data["model"])


def _init(path: Path) -> str:
    return f"init={str(path)!r} in place of resume (--init {path}), and another checkpoint to write"


def _differences(then: Plain, now: Plain) -> list[tuple[str, Any, Any]]:
    """Name, value then, value now. What the user set is named, not what follows from it; and what
    another version of torch may have added to a scheduler is passed over."""
    absent = "not there"
    found = [
        (name, then.get(name, absent), now.get(name, absent))
        for name in [*then, *(n for n in now if n not in then)]
        if then.get(name, absent) != now.get(name, absent)
        and not (name.startswith("scheduler.") and (name not in then or name not in now))
    ]
    return [f for f in found if f[0].startswith("[")] or found


def _read(path: Path) -> Plain:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; leave out resume for a new training")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, not torch's, or with objects that would run code
        raise CheckpointError(
            f"{path} can't be read as a checkpoint: it is cut off, of another kind, or holds more "
            f"than plain data ({type(error).__name__})"
        ) from error
    if not isinstance(data, dict) or "pgt_fx_checkpoint" not in data or "model" not in data:
        raise CheckpointError(f"{path} is not a checkpoint of a pgt_fx training")
    return data


def _compare(path: Path, mine: Plain, its: Plain) -> None:
    """The first parameter or buffer that differs in name or shape."""
    for name in [*mine, *its]:
        if name not in its or name not in mine:
            side = "the checkpoint" if name not in its else "the model"
            raise CheckpointError(f"{path} is another model's: {side} has no {name!r}")
        if not isinstance(mine[name], Tensor) or not isinstance(its[name], Tensor):
            continue  # what a module adds of its own (get_extra_state)
        if mine[name].shape != its[name].shape:
            raise CheckpointError(
                f"{path} is another model's: {name!r} is {tuple(its[name].shape)} there and "
                f"{tuple(mine[name].shape)} in the model"
            )

"""Checkpoints from which a training goes on bit by bit: tensors and plain data, never code."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pgt_fx.errors import PgtError

VERSION = 1


class CheckpointError(PgtError, RuntimeError):
    """A checkpoint can't be read, or is another training's."""


def random_state() -> dict[str, Any]:
    """Of Python's and torch's generators, on the CPU and all visible GPUs, as tensors and lists."""
    version, internal, gauss = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else range(0)
    return {
        "python": [version, list(internal), gauss],
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(d) for d in devices],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["cpu"])
    for device, one in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(one, device)


def check(path: Path) -> None:
    """Whether a checkpoint could be written there, asked before there is one to lose.

    Raises:
        CheckpointError: when it could not.
    """
    if path.is_dir():
        raise CheckpointError(f"checkpoint: {path} is a folder; expected a file to write")
    if not path.parent.is_dir():
        raise CheckpointError(f"checkpoint: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise CheckpointError(f"checkpoint: {path.parent} can't be written to")


def save(path: Path, parts: dict[str, Any], about: dict[str, str], history: list[Any]) -> None:
    """Write a checkpoint in one move: a reader finds the old one or the new one.

    Args:
        parts: name -> object with ``state_dict()`` (model, optimizer, …); None is left out.
        about: what must be the same when it is loaded: schedule, options.
        history: rows of the epochs so far.
    """
    ranks = [random_state()]
    if dist.is_initialized():
        ranks = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(ranks, random_state())
        if dist.get_rank():
            return
    data = {
        "pgt_fx_checkpoint": VERSION,
        "about": about,
        "history": history,
        "random": ranks,
        **{name: part.state_dict() for name, part in parts.items() if part is not None},
    }
    part = path.with_name(path.name + ".part")
    torch.save(data, part)
    os.replace(part, path)


def load(path: Path, parts: dict[str, Any], about: dict[str, str]) -> list[Any]:
    """Bring all parts and random generators to where a checkpoint was written; its history.

    Raises:
        CheckpointError: no such file, not a checkpoint, of another version, of another model or
            of a training with other settings.
    """
    data = _read(path)
    for name, value in about.items():
        if data["about"].get(name) != value:
            raise CheckpointError(
                f"{path}: {name} was {data['about'].get(name)}, and is now {value}; go on with the "
                "same settings, or write to another checkpoint"
            )
    model = parts.get("model")
    if isinstance(model, nn.Module):
        _compare(path, model.state_dict(), data["model"])
    for name, part in parts.items():
        if part is not None:
            if name not in data:
                raise CheckpointError(f"{path} holds no {name}; it is of another kind of training")
            part.load_state_dict(data[name])
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank >= len(data["random"]):
        raise CheckpointError(f"{path} is of {len(data['random'])} ranks; this is rank {rank}")
    set_random_state(data["random"][rank])
    return list(data["history"])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; leave out resume for a new training")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, not torch's, or with objects that would run code
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} can't be read as a checkpoint: {type(error).__name__}: {text}"
        ) from error
    version = data.get("pgt_fx_checkpoint") if isinstance(data, dict) else None
    if version is None:
        raise CheckpointError(f"{path} is not a checkpoint of a pgt_fx training")
    if version != VERSION:
        raise CheckpointError(f"{path} has version {version}, expected {VERSION}")
    return data


def _compare(path: Path, mine: dict[str, Any], its: dict[str, Any]) -> None:
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

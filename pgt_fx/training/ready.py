"""Checks before the first update that a training on folders of videos can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from pgt_fx import video as files
from pgt_fx.core.clip import as_call
from pgt_fx.core.counts import counted
from pgt_fx.core.errors import PgtError
from pgt_fx.core.schedule import DPR, Schedule
from pgt_fx.core.torch_private import pytree
from pgt_fx.inference import predict
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.training.config import ConfigError
from pgt_fx.training.folder import FolderError, VideoFolder
from pgt_fx.training.gradients import _check_length

_SHOWN = 8
_READERS = 8


def check_videos(
    splits: Mapping[str, VideoFolder],
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> None:
    """Open every video of all splits and decode its first frame.

    Args:
        splits: folders of videos, by what they are called in a message: ``"[data] train"``.
        progress: called with the number of videos looked at, and that of all.

    Raises:
        FolderError: naming those that can't be read, the first few of them.
    """
    faults = []
    paths = [path for split in splits.values() for path, _ in split.items]
    keys = [key for key, split in splits.items() for _ in split.items]
    with ThreadPoolExecutor(_READERS) as pool:
        for number, fault in enumerate(pool.map(_unreadable, paths), 1):
            faults += [f"{keys[number - 1]}: {fault}"] if fault else []
            progress(number, len(paths))
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise FolderError(
            f"{len(faults)} of {counted(len(paths), 'video')} can't be read; repair them or take "
            "them away:\n" + "\n".join(f"  {fault}" for fault in faults[:_SHOWN]) + more
        )


def _unreadable(path: Any) -> str:
    try:
        files.check(path)
    except (files.VideoError, OSError) as error:
        return str(error)
    return ""


def check_classes(training: VideoFolder, validation: VideoFolder | None) -> None:
    """Whether there are classes to distinguish, the same in both splits.

    Raises:
        ConfigError: fewer than two classes, or others in the validation, which are named.
    """
    if len(training.classes) < 2:
        raise ConfigError(
            f"[data] train: expected at least 2 classes (folders of videos) in {training.root}, "
            f"got {training.classes}"
        )
    if validation is None or validation.classes == training.classes:
        return
    there, here = set(training.classes), set(validation.classes)
    lacking, extra = sorted(there - here), sorted(here - there)
    said = [f"{what} {names}" for what, names in (("lacks", lacking), ("adds", extra)) if names]
    raise ConfigError(
        f"[data] validation: expected the classes of the training set {training.classes}; "
        f"{validation.root} {' and '.join(said)}"
    )


def check_model(
    prog: Progressive,
    batches: Iterable[tuple[str, tuple[Any, Tensor]]],
    classes: int,
    schedule: Schedule | DPR,
    autocast: AbstractContextManager[Any],
) -> None:
    """Run a first clip of each split through the model, in the steps of every schedule.

    Args:
        batches: name of the split, and a batch of it: video as the model takes it, and labels.
        classes: how many scores are expected of each video.

    Raises:
        ConfigError: when the model does not take the clip in such steps, or answers something
            else.
    """
    device = next(prog.parameters()).device
    drawn = schedule.schedules if isinstance(schedule, DPR) else (schedule,)
    base = schedule.base if isinstance(schedule, DPR) else schedule
    for split, (clip, _) in batches:
        args, kwargs = as_call(clip)
        shapes = [tuple(x.shape) for x in pytree.tree_leaves(args) if isinstance(x, Tensor)]
        try:
            for one in drawn:
                _check_length(prog, prog.chunks(*args, schedule=one, **kwargs))
            moved = pytree.tree_map_only(Tensor, lambda x: x.to(device), args)
            with autocast:
                scores = predict(prog, *moved, schedule=base, cost=False).scores
        except Exception as error:  # the user's model may raise anything
            why = str(error) if isinstance(error, PgtError) else f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"[data] size, [schedule]: the model can't take the first clip of {split}, "
                f"{shapes}, in steps of {base}: {why}"
            ) from error
        if not isinstance(scores, Tensor) or scores.shape[1:] != (classes,):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigError(
                f"[data] train: {classes} classes, and the model answers {got} for a video; "
                f"expected (1, {classes}) scores"
            )

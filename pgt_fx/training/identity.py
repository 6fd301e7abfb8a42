"""The inputs of a training as plain data, so that a resumed one can be compared with it.

Each function gives names and plain values (numbers, text, lists of them). Two trainings whose
values are equal compute the same, except for what can't be read: the code of a loss or a data set.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sized
from contextlib import nullcontext
from functools import partial
from os import sep
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from pgt_fx.core.schedule import DPR
from pgt_fx.core.tensor_bytes import bytes_of
from pgt_fx.core.torch_private import is_autocast_on

Plain = dict[str, Any]
#: Elements of a tensor that are read for its digest, at even distances.
_SAMPLE = 1 << 16
_LONG = 16
#: Of samplers and data sets: where they are, and not what they are.
_MOVING = frozenset({"epoch", "rank", "generator", "data_source", "dataset", "sampler"})


def schedule_of(schedule: Any) -> str:
    """A schedule with the numbers that it uses: a random DPR has no use for ``epochs``, one in a
    cycle none for ``seed``, and both take ``lengths`` from their kind once."""
    if not isinstance(schedule, DPR):
        return str(schedule)
    s = schedule
    own = f"seed={s.seed}" if s.order == "random" else f"epochs={s.epochs}"
    return (
        f"DPR(length={s.length}, steps={s.steps}, overlap={s.overlap}, lengths={s.lengths}, "
        f"order={s.order!r}, {own})"
    )


def model_of(model: nn.Module) -> Plain:
    """Each module with its settings (the probability of a dropout, the momentum of a norm), and
    which parameters are frozen. Names and shapes of tensors are compared when they are loaded."""
    found = {
        f"model.{path}" if path else "model": _text(f"{type(m).__name__}({m.extra_repr()})")
        for path, m in model.named_modules()
    }
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    return {**found, "frozen parameters": plain(frozen)}


def optimizer_of(optimizer: Optimizer, scheduler: LRScheduler | None) -> Plain:
    """Kind and settings of the optimizer's groups and of the scheduler, as they are now."""
    found: Plain = {"optimizer": type(optimizer).__name__}
    for number, group in enumerate(optimizer.param_groups):
        for name, value in group.items():
            value = len(value) if name == "params" else value
            found[f"optimizer.group {number}.{name}"] = plain(value)
    found["scheduler"] = None if scheduler is None else type(scheduler).__name__
    if scheduler is not None:
        # The rates are the optimizer's own entries, too.
        state = scheduler.state_dict()
        rest = {k: v for k, v in state.items() if k not in ("base_lrs", "_last_lr")}
        found |= _flat("scheduler", rest)
    return found


def precision_of(autocast: Any, scaler: Any) -> Plain:
    kind: Any = type(autocast).__name__
    if autocast is None or isinstance(autocast, nullcontext):
        kind = None
    elif isinstance(autocast, torch.autocast):
        kind = f"{autocast.device}, {autocast.fast_dtype}, enabled={is_autocast_on(autocast)}"
    found: Plain = {"autocast": kind, "scaler": None if scaler is None else type(scaler).__name__}
    return found if scaler is None else found | _flat("scaler", scaler.state_dict())


def data_of(loader: Any) -> Plain:
    """The batches: how a DataLoader makes them, and of what.

    A data set says what it gives by a method ``fingerprint() -> dict`` of plain values, and then
    also that what it gives does not depend on the worker that reads it. Of others the plain public
    attributes are taken, a sample of their tensors, and the number of workers, as each of them
    draws from torch's generator.
    """
    if not isinstance(loader, DataLoader):
        of = {} if isinstance(loader, list | tuple) else _attributes(loader)
        found = {"data": type(loader).__name__, **{f"data.{k}": v for k, v in of.items()}}
        if isinstance(loader, list | tuple):
            found["data.batches"] = plain([_digest_of(batch) for batch in loader[:64]])
        return found | _length("data", loader)
    found = {
        "data": type(loader).__name__,
        "data.batch_size": loader.batch_size,
        "data.drop_last": loader.drop_last,
        "data.collate": function_of(loader.collate_fn),
        "data.sampler": type(loader.sampler).__name__,
        **{f"data.sampler.{k}": v for k, v in _attributes(loader.sampler).items()},
    }
    if loader.batch_size is None:  # a batch sampler of the user's, or none
        for name, one in (
            ("data.batch_sampler", loader.batch_sampler),
            ("data.batch_sampler.sampler", getattr(loader.batch_sampler, "sampler", None)),
        ):
            found[name] = type(one).__name__
            found |= {f"{name}.{k}": v for k, v in _attributes(one).items()}
    if not hasattr(loader.dataset, "fingerprint"):
        found["data.workers"] = loader.num_workers
    return found | _data_set("data.set", loader.dataset)


def function_of(loss: Any) -> Any:
    """A loss, or another function, by its name and what it was made with."""
    if isinstance(loss, partial):
        made = [plain(x) for x in loss.args], {k: plain(v) for k, v in loss.keywords.items()}
        return f"partial({function_of(loss.func)}, {made[0]}, {made[1]})"
    if isinstance(loss, nn.Module):
        return _text(repr(loss)) + _digest_of(loss.state_dict())
    name = getattr(loss, "__qualname__", None)
    if name is None:
        return f"{type(loss).__qualname__}({_attributes(loss)})"
    within = [c.cell_contents for c in getattr(loss, "__closure__", None) or () if _filled(c)]
    if not str(loss.__module__).startswith("torch"):  # whose arguments grow with its versions
        within += [*(getattr(loss, "__defaults__", None) or ())]
    return f"{name}({[plain(x) for x in within]})" if within else name


def environment_of(device: torch.device) -> Plain:
    """What rounding depends on, and no setting of a training says."""
    cuda = device.type == "cuda"
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "threads": None if cuda else torch.get_num_threads(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
    }


def plain(value: Any) -> Any:
    """A value as a number, text or list; what is long as a digest, what is neither by its kind."""
    if isinstance(value, float) and math.isnan(value):
        return "nan"  # which is not equal to itself
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):  # NumPy's and enumerations, too, which are no plain data
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Tensor):
        return plain(value.item()) if value.numel() == 1 else _digest_of(value)
    if isinstance(value, str):
        return str(value) if len(value) < 200 else _digest(value)
    if isinstance(value, list | tuple | set | frozenset):
        unordered = isinstance(value, set | frozenset)  # their order differs between processes
        each = [plain(x) for x in (sorted(value, key=str) if unordered else value)]
        return each if len(each) <= _LONG else f"{len(each)} items, {_digest(str(each))}"
    if isinstance(value, Mapping):
        return plain([[str(k), plain(v)] for k, v in value.items()])
    if type(value).__module__ == "numpy":
        return _digest_of(torch.as_tensor(value)) if _numeric(value) else plain(value.tolist())
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else plain(text)


def _data_set(name: str, data: Any) -> Plain:
    found: Plain = {name: type(data).__name__}
    if hasattr(data, "fingerprint"):
        return found | {f"{name}.{k}": plain(v) for k, v in data.fingerprint().items()}
    for key, value in _attributes(data).items():
        found[f"{name}.{key}"] = value
    for key, value in vars(data).items() if hasattr(data, "__dict__") else ():
        if isinstance(value, Dataset):  # a subset's
            found |= _data_set(f"{name}.{key}", value)
    return found | _length(name, data)


def _attributes(thing: Any) -> Plain:
    """Public attributes, but other data sets, and paths: a folder may move."""
    found = {}
    for name, value in vars(thing).items() if hasattr(thing, "__dict__") else ():
        if name.startswith("_") or name in _MOVING or isinstance(value, Dataset):
            continue
        if hasattr(value, "__fspath__") or (isinstance(value, str) and sep in value):
            continue
        found[name] = plain(value)
    return found


def _length(name: str, thing: Any) -> Plain:
    try:
        return {f"{name}.length": len(thing)} if isinstance(thing, Sized) else {}
    except TypeError:
        return {}


def _flat(name: str, value: Any) -> Plain:
    """A state dict with one name per entry; what is neither plain nor nested is left out."""
    if isinstance(value, Mapping):
        pairs = [(f"{name}.{k}", v) for k, v in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{name}.{i}", v) for i, v in enumerate(value)]
    elif callable(value):
        return {}
    else:
        return {name: plain(value)}
    return {k: v for key, inner in pairs for k, v in _flat(key, inner).items()}


def _numeric(array: Any) -> bool:
    return getattr(array, "ndim", 0) > 0 and array.dtype.kind in "bifc"


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _text(text: str) -> str:
    return re.sub(r" ?(at )?0x[0-9a-fA-F]+", "", text)


def _digest(text: str) -> str:
    return "sha256 " + hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest_of(value: Any) -> str:
    """Of tensors in lists and mappings: their shapes, and elements at even distances."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return f"{tuple(value.shape)} {value.dtype}"
        flat = value.detach().reshape(-1)
        some = flat[:: max(1, -(-flat.numel() // _SAMPLE))].cpu().contiguous()
        some = some.resolve_conj().resolve_neg().view(torch.uint8)
        raw = bytes_of(some) if some.numel() else b""
        return f"{tuple(value.shape)} {value.dtype} sha256 {hashlib.sha256(raw).hexdigest()[:12]}"
    if isinstance(value, Mapping):
        return _digest(str([(str(k), _digest_of(v)) for k, v in value.items()]))
    if isinstance(value, list | tuple):
        return _digest(str([_digest_of(v) for v in value]))
    return str(plain(value))

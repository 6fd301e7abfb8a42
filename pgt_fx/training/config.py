"""A training in a TOML file. It is data: names from closed lists, numbers and paths, no code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_origin, get_type_hints

from pgt_fx.errors import PgtError
from pgt_fx.options import ClipPools, Future, Operator, Pooling
from pgt_fx.schedule import DPR, Kind, Order, Schedule
from pgt_fx.training.gradients import Gradient


class ConfigError(PgtError, ValueError):
    """A config has an unknown key, a wrong type or value, or can't be read."""


@dataclass(frozen=True)
class Model:
    """The backbone, by its name in the zoo, and the policies of :func:`pgt_fx.transform`."""

    name: str = "slow_r50"
    pretrained: bool = False
    operator: Operator = "mco"
    pooling: Pooling = "step"
    future: Future = "zero"
    clip_pools: ClipPools = "auto"


@dataclass(frozen=True)
class Steps:
    """``kind``: "fixed", "DPR-A" or "DPR-B"; the others as :class:`Schedule` and :class:`DPR`."""

    kind: Literal["fixed", "DPR-A", "DPR-B"] = "fixed"
    length: int = 8
    steps: int = 5
    overlap: int = 1
    order: Order = "random"

    def build(self, seed: int, epochs: int) -> Schedule | DPR:
        if self.kind == "fixed":
            return Schedule(self.length, self.steps, self.overlap)
        kind = cast(Kind, self.kind.removeprefix("DPR-"))
        return DPR(kind, self.length, self.steps, self.overlap, seed, self.order, epochs)


@dataclass(frozen=True)
class Data:
    """Folders of videos (``train/CLASS/*.mp4``), sampled at stride τ; ``size`` in pixels."""

    train: str = ""
    validation: str = ""
    stride: int = 8
    size: int = 224
    batch: int = 8
    workers: int = 2


@dataclass(frozen=True)
class Optim:
    """SGD, half-period cosine, linear warm-up of ``warm_up`` epochs; see ``fit``."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.0
    epochs: int = 10
    accumulate: int = 1
    gradient: Gradient = "truncated"
    keep: int = 1
    freeze_norms: bool = False


@dataclass(frozen=True)
class Run:
    """``precision``: "float32", "bf16" or "fp16" (autocast); paths are relative to the config."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    checkpoint: str = "checkpoint.pt"


@dataclass(frozen=True)
class Config:
    """All sections; every key has a default except the folder of training videos."""

    model: Model = field(default_factory=Model)
    schedule: Steps = field(default_factory=Steps)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


CHOICES = {
    ("schedule", "kind"): ("fixed", "DPR-A", "DPR-B"),
    ("run", "precision"): ("float32", "bf16", "fp16"),
    ("optim", "gradient"): ("truncated", "exact"),
}


def read_config(path: str | Path) -> Config:
    """A config from a TOML file.

    Raises:
        ConfigError: saying which key or value, what was expected, and what was given.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no config file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {error}") from error
    return _read(Config, data, "")


def _read(kind: Any, data: dict[str, Any], section: str) -> Any:
    known = {f.name: f for f in fields(kind)}
    types = get_type_hints(kind)
    values = {}
    for key, value in data.items():
        where = f"[{section}] {key}" if section else f"[{key}]"
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown key{hint} There are: {', '.join(known)}")
        expected = types[key]
        if get_origin(expected) is Literal:  # its choices are told below, or by what takes them
            expected = str
        if is_dataclass(expected):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: expected a section, got {value!r}")
            values[key] = _read(expected, value, key)
            continue
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise ConfigError(
                f"{where}: expected {expected.__name__}, got {type(value).__name__} {value!r}"
            )
        allowed = CHOICES.get((section, key))
        if allowed and value not in allowed:
            raise ConfigError(f"{where}: expected one of {', '.join(allowed)}, got {value!r}")
        values[key] = value
    return kind(**values)

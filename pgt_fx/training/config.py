"""A training in a TOML file. It is data: names from closed lists, numbers and paths, no code."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import OptionError, PgtError
from pgt_fx.core.options import ClipPools, Future, Operator, Pooling
from pgt_fx.core.schedule import DPR, Kind, Order, Schedule
from pgt_fx.inference.video import Short
from pgt_fx.training.gradients import Gradient


class ConfigError(PgtError, ValueError):
    """A config has an unknown key, a wrong type or value, or can't be read."""


@dataclass(frozen=True)
class Model:
    """The backbone, by its name in the zoo, and the policies of :func:`pgt_fx.transform`."""

    name: str = ""
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
    """Folders of videos (``train/CLASS/*.mp4``), sampled at stride τ; ``size`` in pixels. ``fps``:
    frames a second that τ counts, whatever a file's rate; without it the file's own. ``short``:
    "repeat" the last frame of a video that is too short, or "refuse" it."""

    train: str = ""
    validation: str = ""
    stride: int = 8
    fps: float = 0.0
    short: Short = "repeat"
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
    """All sections; every key has a default except the folder of training videos and, where no
    model is named on the command line, the backbone."""

    model: Model = field(default_factory=Model)
    schedule: Steps = field(default_factory=Steps)
    data: Data = field(default_factory=Data)
    optim: Optim = field(default_factory=Optim)
    run: Run = field(default_factory=Run)


@dataclass(frozen=True)
class Range:
    """Numbers that are allowed, in words; NaN and infinity never are."""

    words: str
    least: float
    below: float = math.inf
    without_least: bool = False

    def allows(self, value: Any) -> bool:
        above = value > self.least if self.without_least else value >= self.least
        return math.isfinite(value) and above and value < self.below


_COUNT = Range("at least 1", 1)
_NONE_OR_MORE = Range("at least 0", 0)
RANGES = {
    ("schedule", "length"): _COUNT,
    ("schedule", "steps"): _COUNT,
    ("schedule", "overlap"): _NONE_OR_MORE,
    ("data", "stride"): _COUNT,
    ("data", "fps"): Range(
        "a number above 0, or no such key for each file's own frames", 0, without_least=True
    ),
    ("data", "size"): _COUNT,
    ("data", "batch"): _COUNT,
    ("data", "workers"): _NONE_OR_MORE,
    ("optim", "lr"): Range("a number above 0", 0, without_least=True),
    ("optim", "momentum"): Range("a number from 0 up to below 1", 0, 1),
    ("optim", "weight_decay"): Range("a number from 0 on", 0),
    ("optim", "warm_up"): Range("a number of epochs from 0 on", 0),
    ("optim", "epochs"): _COUNT,
    ("optim", "accumulate"): _COUNT,
    ("optim", "keep"): _COUNT,
    ("run", "seed"): Range("a whole number from 0 up to below 2^63", 0, 2**63),
    ("run", "threads"): Range("a whole number from 0 (torch's own choice) to 1024", 0, 1025),
}


def read_config(path: str | Path) -> Config:
    """A config from a TOML file.

    Raises:
        ConfigError: for all that is wrong with it, each time saying which key or value, what was
            expected, and what was given.
    """
    if not isinstance(path, (str, PathLike)):
        raise ConfigError(f"expected the name of a config file, got {path!r}")
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no config file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {error}") from error
    faults: list[str] = []
    config = _read(Config, data, "", faults)
    faults = faults or _at_odds(config)
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise ConfigError(f"{path} has {counted(len(faults), 'fault')}:\n{lines}")
    return config


def _read(kind: Any, data: dict[str, Any], section: str, faults: list[str]) -> Any:
    """A section; what is wrong is added to ``faults``, and has the default's value."""
    known = {f.name: f for f in fields(kind)}
    types = get_type_hints(kind)
    values = {}
    for key, value in data.items():
        where = f"[{section}] {key}" if section else f"[{key}]"
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            faults.append(f"{where}: unknown key{hint} There are: {', '.join(known)}")
            continue
        expected = types[key]
        if is_dataclass(expected):
            if isinstance(value, dict):
                values[key] = _read(expected, value, key, faults)
            else:
                faults.append(f"{where}: expected a section, got {value!r}")
            continue
        if expected is float and type(value) is int:
            value = float(value)
        fault = _fault(section, key, value, expected)
        if fault:
            faults.append(f"{where}: {fault}")
        else:
            values[key] = value
    return kind(**values)


def _fault(section: str, key: str, value: Any, expected: Any) -> str:
    """What was expected of a value, and what was given; nothing for one that is allowed."""
    allowed = get_args(expected) if get_origin(expected) is Literal else ()
    kind = str if allowed else expected
    if type(value) is not kind:  # a flag is no number
        return f"expected {kind.__name__}, got {type(value).__name__} {value!r}"
    if allowed and value not in allowed:
        return f"expected one of {', '.join(allowed)}, got {value!r}"
    numbers = RANGES.get((section, key))
    if numbers and not numbers.allows(value):
        return f"expected {numbers.words}, got {value!r}"
    return ""


def _at_odds(config: Config) -> list[str]:
    """Values that are allowed each, and don't go together."""
    o, s = config.optim, config.schedule
    found: list[str] = []
    if s.overlap >= s.length:
        found.append(f"[schedule] overlap: expected less than length = {s.length}, got {s.overlap}")
    else:
        try:
            s.build(config.run.seed, o.epochs)
        except OptionError as error:
            found.append(f"[schedule] {error}")
    if o.warm_up >= o.epochs:
        found.append(
            f"[optim] warm_up: expected fewer epochs than epochs = {o.epochs}, got {o.warm_up:g}"
        )
    if o.gradient == "exact" and o.keep != 1:
        found.append(
            f'[optim] keep: is for gradient = "truncated"; expected 1 with "exact", got {o.keep}'
        )
    return found


def defining(config: Config) -> dict[str, Any]:
    """Values that define what is trained, by the name that they have in the file; those are left
    out that may change when a training goes on."""
    free = {
        *("[model] name", "[model] pretrained", "[data] train", "[data] validation"),
        *("[data] workers", "[run] device", "[run] threads", "[run] checkpoint"),
    }
    if config.schedule.kind == "fixed":
        free.add("[schedule] order")
    pairs = (
        (f"[{section.name}] {key.name}", getattr(getattr(config, section.name), key.name))
        for section in fields(config)
        for key in fields(getattr(config, section.name))
    )
    return {name: value for name, value in pairs if name not in free}

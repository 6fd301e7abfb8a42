"""What the benchmarks share: interleaved timing, peaks of memory, the machine in words, JSON.

Two ways of doing the same are timed A B A B …, not one after the other, so that a machine that
grows slower or faster does so for both; what is reported of them is the median over the pairs of
the ratio within a pair. The first rounds warm up and are not counted.
"""

from __future__ import annotations

import argparse
import ctypes.util
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from file_names import file_ending_in
from peak_memory import PeakMemory
from rich.table import Table
from torch import nn

from pgt_fx.core.terminal import console
from pgt_fx.runtime.torch_compile import plain_numbers

RESULTS = Path(__file__).parent / "results"
#: For jemalloc: pages are never given back.
KEPT = {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"}
#: Packages whose versions are written down, when they are there.
PACKAGES = (
    "pgt-fx",
    "torchvision",
    "pytorchvideo",
    "timm",
    "diffusers",
    "networkx",
    "continual-inference",
    "torchstream-lib",
)


# -- time ------------------------------------------------------------------------------------------


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    repeat: int,
    *,
    warm_up: int = 1,
    at_least: float = 0.0,
    before: Callable[[], object] = lambda: None,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each side in ``repeat`` rounds, A B A B …, after ``warm_up`` rounds unclocked.

    Args:
        at_least: seconds that are to be clocked in all: short rounds are repeated more often.
        before: runs before each, unclocked.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in itertools.count():
        clocked = sum(map(sum, seconds.values()))
        if number >= warm_up + repeat and clocked >= at_least:
            break
        for name, work in sides.items():
            before()
            synchronize(device)
            start = clock()
            work()
            synchronize(device)
            if number >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def spread(samples: Iterable[float]) -> dict[str, float]:
    """Median and quartiles, rounded to five digits."""
    ordered = sorted(samples)
    if len(ordered) < 2:
        low = middle = high = ordered[0]
    else:
        low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return {"median": digits(middle), "low": digits(low), "high": digits(high)}


def ratio(seconds: Mapping[str, Sequence[float]], a: str, b: str) -> dict[str, Any]:
    """Of ``a`` over ``b``: within each pair, then median and quartiles over the pairs."""
    pairs = [x / y for x, y in zip(seconds[a], seconds[b], strict=True)]
    return {**spread(pairs), "pairs": len(pairs)}


def digits(x: float) -> float:
    """Five significant digits: more is noise."""
    return float(f"{x:.5g}")


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


# -- memory ----------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """Most bytes that tensors made by ``work`` hold at once; what was there before is not in it.

    On the CPU counted storage by storage (:mod:`peak_memory`), on a GPU by its allocator.
    """
    if device == "cpu":
        with PeakMemory() as memory:
            work()
        return memory.peak
    synchronize(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated() - before


def process_bytes() -> int:
    """The most memory that this process has ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage counts the parent's memory in: it is kept when a process becomes another.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Count the most memory of this process from here on, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        warnings.warn("the peak of the process is that since its start", stacklevel=2)


def in_a_process(
    script: str, work: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run ``script --one WORK`` in a process of its own, so that peaks are of this work alone,
    under the system's allocator.

    Args:
        environment: variables to add.

    Returns:
        the JSON of the last line it prints; ``{"error": …}`` when it fails (out of memory).
    """
    command = [sys.executable, script, "--one", json.dumps(work)]
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", *KEPT)}
    env |= environment or {}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"ended by signal {-done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


# -- models ----------------------------------------------------------------------------------------


def any_length(model: nn.Module) -> nn.Module:
    """Make a head's pool over exactly the clip one over all there is, in place.

    The original can then be run on a clip of any length beside the steps. It is what
    ``clip_pools="global"`` does, and changes nothing at the clip length.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.AvgPool3d):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, nn.AdaptiveAvgPool3d(1))
    return model


def compilable(model: nn.Module) -> nn.Module:
    """Make a model of pytorchvideo one that torch.compile takes, in place, with the same answers.

    Some of its layers have NumPy's integers as sizes, and the backward of its Swish reads a name
    that torch.compile does not know.
    """
    plain_numbers(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Swish":
                setattr(module, name, nn.SiLU())
    return model


def one_line(error: Exception) -> str:
    """An error in one line of bounded length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# -- options, tables, JSON -------------------------------------------------------------------------


def parser(doc: str | None, name: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    out = argparse.ArgumentParser(
        prog=f"pgt-fx bench {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--threads", type=int, default=defaults.get("threads", 2))
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    out.add_argument(
        "--out", type=file_ending_in(".json"), help="JSON; default: benchmarks/results/NAME.json"
    )
    out.add_argument(
        "--allocator",
        default=defaults.get("allocator", "jemalloc"),
        choices=("jemalloc", "default"),
        help="of the CPU's memory; jemalloc keeps what is freed, see under_jemalloc",
    )
    if "repeat" in defaults:
        out.add_argument("--repeat", type=int, default=defaults["repeat"], help="timed rounds")
    if "models" in defaults:
        out.add_argument("--models", nargs="*", default=defaults["models"], help="names of the zoo")
    out.add_argument("--one", help=argparse.SUPPRESS)  # one configuration, see in_a_process
    return out


def prepare(options: argparse.Namespace) -> None:
    """Seed, threads and allocator; warnings of the models' own packages are not what is looked at.

    A process of its own (``--one``) measures memory, and gets the allocator as it is.
    """
    if options.one is None and options.allocator == "jemalloc" and not under_jemalloc():
        options.allocator = "default"
        print("no libjemalloc here: long clips are slowed by the system's allocator")
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)


def under_jemalloc() -> bool:
    """Start this program anew under jemalloc, which keeps what is freed; False where there is none.

    glibc maps every block over 32 MiB anew and gives it back when it is freed; the system then
    clears its pages at each use, at up to ten times what a kept block takes. A long clip, whose
    activations are over that limit, would be slower by frame than a short one for that alone. On a
    GPU torch keeps memory itself. (Thresholds of glibc don't do: an aligned block is cut out of a
    larger one, and what it leaves when it is freed is too small for the next.)
    """
    if "jemalloc" in os.environ.get("LD_PRELOAD", ""):
        return True
    library = ctypes.util.find_library("jemalloc")
    if library is None or sys.platform != "linux":
        return False
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**os.environ, **KEPT, "LD_PRELOAD": library},
    )


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures depend on; nothing that tells whose machine it is."""
    return {
        "cpu": _cpu(),
        "instructions": _instructions(),
        "cores": len(_cores()),
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": _packages(),
        "threads": torch.get_num_threads(),
        **({} if device == "cpu" else _of_cuda()),
    }


def _of_cuda() -> dict[str, Any]:
    """What decides how fast a GPU multiplies; torch's own defaults unless someone set them."""
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "cudnn_benchmark": cudnn.benchmark,
        "tf32_convolutions": cudnn.allow_tf32,
        "tf32_matmuls": torch.backends.cuda.matmul.allow_tf32,
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | _commit()


def _commit() -> dict[str, str]:
    """Of this repository; marked where files that it follows have been changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent)
    except OSError:
        return {}
    return {"commit": done.stdout.strip()} if done.returncode == 0 else {}


def _cores() -> Iterable[int]:
    import os

    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _cpu() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine()


def _instructions() -> str:
    """Processors of one name differ in them; without those for bfloat16 it is emulated, slowly."""
    flags = _cpu_field("flags").split()
    found = [torch.backends.cpu.get_cpu_capability()]
    found += [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    return " ".join(found)


def _cpu_field(what: str) -> str:
    """The first line of /proc/cpuinfo on it; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((x.partition(":")[2].strip() for x in lines if x.startswith(what)), "")


def save(
    name: str,
    options: argparse.Namespace,
    rows: list[dict[str, Any]],
    *,
    variant: str = "",
    **more: Any,
) -> Path:
    """Write what was found to ``--out``, or to ``results/`` under the benchmark's name.

    Args:
        variant: of the same benchmark beside which this run is to be kept ("compiled").
        more: further entries, beside the machine, the options and the rows.
    """
    kind = "_".join(x for x in (name, options.device.replace("cpu", ""), variant) if x)
    path: Path = options.out or RESULTS / f"{kind}.json"
    given = {k: v for k, v in vars(options).items() if k not in ("out", "one")}
    data = {"benchmark": name, "machine": machine(options.device), "options": given, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**data, "rows": rows}, indent=2, default=str) + "\n")
    return path


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)

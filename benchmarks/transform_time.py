"""How long does ``transform`` take beside ``torch.export.export`` alone on the same model?

Interleaved runs (A B A B …) in one process, ratio pair by pair, medians. Prints a table and
writes JSON: ``python benchmarks/transform_time.py --out transform_time.json [names …]``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.capture.export import _lenient_solver
from pgt_fx.capture.inputs import read_example
from pgt_fx.capture.probe import quiet


def export_alone(model: torch.nn.Module, example: Any) -> float:
    """Seconds of ``torch.export.export`` with batch, time and space dynamic.

    At the length at which the model exports at all: a model with two paths does so at the clip
    length only (its pools over the clip must agree).
    """
    spec, leaves = read_example(example)
    stretch = 1 if len(spec.paths) > 1 else 2
    sample = []
    for leaf, time_dim in zip(leaves, spec.times, strict=True):
        shape = list(leaf.shape)
        shape[0], shape[time_dim or 0] = 2, shape[time_dim or 0] * stretch
        sample.append(torch.empty(shape))
    dims = [{0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO, 4: Dim.AUTO} for _ in sample]
    args, _ = pytree.tree_unflatten(sample, spec.spec)
    shapes, _ = pytree.tree_unflatten(dims, spec.spec)
    start = time.perf_counter()
    with quiet(), _lenient_solver():
        torch.export.export(model, args, dynamic_shapes=tuple(shapes), strict=False)
    return time.perf_counter() - start


def transform(model: torch.nn.Module, example: Any) -> float:
    """Seconds of ``pgt_fx.transform``."""
    start = time.perf_counter()
    pgt_fx.transform(model, example, strict=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help="zoo names; none: all")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    rows = []
    for name in options.names or zoo.names():
        model, example = zoo.build(name), zoo.clip(name)
        if not rows:
            transform(model, example)  # warm-up
        pairs = [
            (export_alone(model, example), transform(model, example)) for _ in range(options.pairs)
        ]
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append(
            {
                "model": name,
                "export_s": round(statistics.median(a for a, _ in pairs), 2),
                "transform_s": round(statistics.median(b for _, b in pairs), 2),
                "ratio": round(ratio, 2),
            }
        )
        print("{model:16}{export_s:8} s{transform_s:8} s   ratio {ratio}".format(**rows[-1]))
    result = {
        "question": "transform over torch.export.export alone",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "pairs": options.pairs,
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

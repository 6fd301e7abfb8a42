"""How long does ``transform`` take beside ``torch.export.export`` alone on the same model?

Over the models of the zoo. One that export or transform refuses is listed with the reason.

    pgt-fx bench compile_time
    pgt-fx bench compile_time --models r3d_18 --repeat 1
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import torch
from harness import interleaved, one_line, parser, prepare, ratio, save, show, spread
from torch.export import Dim
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.capture.probe.meta_run import quiet
from pgt_fx.capture.torch_export import lenient_solver
from pgt_fx.core.clip import read_example


def export_alone(model: torch.nn.Module, example: Any, stretch: int) -> None:
    """``torch.export.export`` with batch, time and space dynamic, at ``stretch`` clips' length."""
    spec, leaves = read_example(example)
    sample, dims = [], []
    for leaf, time_dim in zip(leaves, spec.times, strict=True):
        if time_dim is None:  # boxes, or no tensor at all
            sample.append(leaf)
            dims.append(None)
            continue
        shape = list(leaf.shape)
        shape[0], shape[time_dim] = 2, shape[time_dim] * stretch
        sample.append(torch.empty(shape))
        dims.append(dict.fromkeys((0, *range(2, len(shape))), Dim.AUTO))
    args, _ = pytree.tree_unflatten(sample, spec.spec)
    shapes, _ = pytree.tree_unflatten(dims, spec.spec)
    with quiet(), lenient_solver():
        torch.export.export(model, args, dynamic_shapes=tuple(shapes), strict=False)


def transform(model: torch.nn.Module, example: Any) -> None:
    pgt_fx.transform(model, example, strict=False, check=False)


def measure(name: str, repeat: int) -> dict[str, Any]:
    model, example = zoo.build(name), zoo.clip(name)
    # A length at which no time axis is 1; but a model whose pools fit the clip alone, as those of
    # two paths and those for detection do, exports at the clip's only.
    exports = [partial(export_alone, model, example, stretch) for stretch in (2, 1)]
    ways = {"export": exports, "transform": [partial(transform, model, example)]}
    sides, missing = {}, {}
    for side, tries in ways.items():
        for work in tries:
            try:
                work()  # the warm-up
            except Exception as error:  # each package has its own; none may end the survey
                missing.setdefault(side, one_line(error))
            else:
                sides[side] = work
                missing.pop(side, None)
                break
    # As timeit does: a collection takes a third of a second, and whose time it falls on is chance.
    gc.disable()
    try:
        seconds = interleaved(sides, repeat, warm_up=0, before=gc.collect)
    finally:
        gc.enable()
    row: dict[str, Any] = {"model": name, "seconds": {k: spread(v) for k, v in seconds.items()}}
    if missing:
        return row | {"refused": missing}
    return row | {"transform_over_export": ratio(seconds, "transform", "export")}


def main() -> None:
    cli = parser(__doc__, "compile_time", repeat=3, models=[], allocator="default")
    options = cli.parse_args()
    prepare(options)
    rows: list[dict[str, Any]] = []
    for name in options.models or zoo.names():
        rows.append(measure(name, options.repeat))
        print(name, rows[-1].get("transform_over_export", rows[-1].get("refused")), flush=True)
        save("compile_time", options, rows)
    lines = []
    for row in rows:
        times = [row["seconds"].get(k, {}).get("median") for k in ("export", "transform")]
        over = row.get("transform_over_export", {}).get("median", row.get("refused"))
        lines.append((row["model"], *times, over))
    show("seconds", ("model", "export", "transform", "transform/export"), lines)


if __name__ == "__main__":
    main()

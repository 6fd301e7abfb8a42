"""The study: what each part of the method buys on long-range order. One command:

    python benchmarks/longrange/study.py [--device cuda] [--workers 2]

writes results.json after each training (a run that is stopped goes on where it was), then
RESULTS.md and RESULTS.png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from costs import costs
from report import write
from rows import ROWS, Setting, setting
from train import train

HERE = Path(__file__).parent


def one(s: Setting, number: int, seed: int, device: str) -> dict[str, Any]:
    """One training, in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row, start = ROWS[number], time.perf_counter()
    found = train(s, row, seed, device)
    took = round(time.perf_counter() - start, 1)
    return {"backbone": s.backbone, "row": row.name, "seed": seed, **found, "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=["cpu", "gpu", "smoke"], help="sizes; else the device's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--backbones", nargs="*", default=["slowonly", "slowfast"])
    parser.add_argument("--only", nargs="*", default=[], help="names of rows; else all")
    parser.add_argument("--rounds", type=int, default=5, help="timed iterations per row")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    unknown = set(options.only) - {row.name for row in ROWS}
    if unknown:
        sys.exit(f"--only: no row {sorted(unknown)}; rows: {[r.name for r in ROWS]}")
    scale = options.scale or ("cpu" if options.device == "cpu" else "gpu")
    rows = [r for r in ROWS if not options.only or r.name in options.only]
    settings = [setting(b, scale) for b in options.backbones]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    results = load(path, scale, options.device)
    trainings(results, path, settings, [ROWS.index(r) for r in rows], options)
    torch.set_num_threads(1)
    for s in settings:
        results["costs"].setdefault(s.backbone, {}).update(
            costs(s, rows, options.device, options.rounds)
        )
    save(results, path)
    write(results, [r.name for r in ROWS], options.out)
    print((options.out / "RESULTS.md").read_text())


def trainings(
    results: dict[str, Any], path: Path, settings: list[Setting], rows: list[int], options: Any
) -> None:
    """All that are not in the results yet, seeds outermost: a stopped run has whole seeds."""
    done = {(r["backbone"], r["row"], r["seed"]) for r in results["trainings"]}
    wanted = [
        (s, row, seed)
        for seed in range(options.seeds)
        for s in settings
        for row in rows
        if (s.backbone, ROWS[row].name, seed) not in done
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        futures = [pool.submit(one, *job, options.device) for job in wanted]
        for number, future in enumerate(as_completed(futures), 1):
            found = future.result()
            results["trainings"].append(found)
            save(results, path)
            accuracy = {w: round(a["order"], 3) for w, a in found["test"].items()}
            print(
                f"{number}/{len(wanted)} {found['backbone']} {found['row']} seed {found['seed']}: "
                f"order {accuracy}, {found['seconds']} s",
                flush=True,
            )


def load(path: Path, scale: str, device: str) -> dict[str, Any]:
    about = {
        "scale": scale,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "torch": torch.__version__,
    }
    if path.exists():
        results = json.loads(path.read_text())
        if {k: results[k] for k in about} == about:
            return results
        sys.exit(f"{path.name} is of another run ({results['scale']}, {results['device']}); "
                 "name another folder with --out")  # fmt: skip
    return {**about, "trainings": [], "costs": {}}


def save(results: dict[str, Any], path: Path) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    main()

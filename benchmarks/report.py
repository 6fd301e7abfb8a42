"""RESULTS.md with its figures, from everything in benchmarks/results: what is met, what missed.

What the profiles say of a missed bound is written by hand, in results/notes.md.

pgt-fx bench report
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path
from typing import Any

import plots
from file_names import file_ending_in
from headline import FIGURES
from sections import SECTIONS, table

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Made by `pgt-fx bench report` from `benchmarks/results/*.json`, which `pgt-fx bench NAME` writes.
Ratios are medians over interleaved pairs (A B A B …), quartiles in brackets. Bytes are those of
tensors alive at once unless another is named. Of several models or passes the first table shows
the worst.

- **plain**: the model as it is, on a clip. **step**: one call of the transformed model with new
  frames, the first of which see what was carried from the step before; 7 new frames against a plain
  clip of T' = 8, or as many as a section says. **the paper's**: carrying the last frame in front of
  every block's input and computing it again.
- **full**: the model's own resolution; otherwise pixels of a side. **P**: steps in a video.
- **wait**: `future="wait"`, the exact answers of the whole video, late by what the model looks
  ahead. **truncated**, **exact**: `gradient="truncated"`, `"exact"` of `pgt_fx.training.backward`.
- **allocator jemalloc**: the process keeps memory that it frees, on all sides of a comparison. The
  **default**, glibc's, maps blocks over 32 MiB anew at each use, which costs a long clip more than
  a short one. Peaks of memory are under the default in any case.
"""


def runs_of(folder: Path) -> list[dict[str, Any]]:
    """All results, in the order of the sections."""
    order = list(SECTIONS)
    found = []
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        if run.get("benchmark") in SECTIONS:
            found.append({**run, "file": path.stem})
    return sorted(found, key=lambda run: (order.index(run["benchmark"]), run["file"]))


def question(name: str, first: bool) -> str:
    """A benchmark's docstring without its command lines; its first line where it has been said."""
    doc = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or name
    if not first:
        return doc.splitlines()[0]
    return "\n".join(x for x in doc.splitlines() if not x.startswith("    ")).rstrip()


def setting(run: dict[str, Any]) -> str:
    """Machine and versions in one line."""
    m = run["machine"]
    device = "" if m.get("device", "cpu") == "cpu" else f", {m['device']}"
    if m.get("tf32_convolutions"):
        device += ", convolutions of float32 in TF32 (torch's default)"
    threads = f"{m['threads']} threads" if "threads" in m else ""
    known = [f"{m['cores']} cores"] if "cores" in m else []
    known += [m["instructions"]] if "instructions" in m else []
    cores = f" ({', '.join(known)})" if known else ""
    options = {
        k: v
        for k, v in run["options"].items()
        if k not in ("threads", "device") and v not in ([], None)
    }
    given = ", ".join(f"{k} {_plain(v)}" for k, v in options.items())
    return f"CPU {m['cpu']}{cores}{device}, torch {m['torch']}, {threads}; {given}."


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def write(folder: Path, out: Path) -> None:
    """``out`` and, beside it, a figure per run."""
    runs = runs_of(folder)
    notes = folder / "notes.md"
    said = [notes.read_text().rstrip(), ""] if notes.exists() else []
    text = [HEAD, *_headline(runs), "", *said]
    said_of: set[str] = set()
    for run in runs:
        name = run["benchmark"]
        variant = run["file"].removeprefix(name).strip("_").replace("_", ", ")
        text += [
            f"## {name}{f' ({variant})' if variant else ''}",
            "",
            question(name, name not in said_of),
            "",
        ]
        said_of.add(name)
        text += [setting(run), "", *SECTIONS[name](run), ""]
        picture = folder / f"{run['file']}.png"
        if plots.draw(run, picture):
            text += [f"![{run['file']}]({_relative(picture, out.parent)})", ""]
    lines = "\n".join(text).splitlines()
    kept = [line for n, line in enumerate(lines) if line or (n and lines[n - 1])]
    out.write_text("\n".join(kept).rstrip() + "\n")


def _headline(runs: list[dict[str, Any]]) -> list[str]:
    columns = ("figure", "bound", "aim", "measured", "")
    return table(columns, [figure.line(runs) for figure in FIGURES])


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def main() -> None:
    cli = argparse.ArgumentParser(
        prog="pgt-fx bench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON")
    cli.add_argument("--out", type=file_ending_in(".md"), default=HERE / "RESULTS.md")
    options = cli.parse_args()
    write(options.results, options.out)
    print("\n".join(_headline(runs_of(options.results))))


if __name__ == "__main__":
    main()

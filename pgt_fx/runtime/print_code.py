"""The generated code of a step for a reader: every temporal operator with its source line."""

from __future__ import annotations

import re

from pgt_fx.runtime.program import Program

ITEM = re.compile(r'getattr\(([\w.\[\]]+), "(\d+)"\)')
FETCH = re.compile(r"(\w+) = (self\.[\w.\[\]]+)$")


def listing(program: Program) -> str:
    """Python of one step; above each Markov operator its line in the user's model.

    Weights stand where they are used, and ``self.layer1[0]`` for the numbered children that the
    generated code fetches by ``getattr``. What runs is the same, with each child of the model
    fetched once (:mod:`pgt_fx.runtime.hoist_lookups`).
    """
    notes = program.emitted.notes
    fetched: dict[str, str] = {}
    out = []
    for line in program.emitted.graph.python_code("self").src.strip().splitlines():
        if line.strip() in ("", "import torch"):
            continue
        # fx frees values by assigning None at the end of a line; that is no part of the reading.
        line = _items(line.split(";  ", 1)[0])
        fetch = FETCH.match(line.strip())
        if fetch:
            fetched[fetch[1]] = fetch[2]
            continue
        line = re.sub(r"\b\w+\b", lambda m: fetched.get(m[0], m[0]), line)
        name = line.strip().split(" ", 1)[0]
        if name in notes and "=" in line:
            indent = line[: len(line) - len(line.lstrip())]
            out.append(f"{indent}# {notes[name]}")
        out.append(line.replace("torch.ops.aten.", "aten."))
    return "\n".join(out) + "\n"


def _items(line: str) -> str:
    while ITEM.search(line):
        line = ITEM.sub(r"\1[\2]", line)
    return line

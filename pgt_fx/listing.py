"""The generated code of a step as a person reads it: provenance beside every temporal operator."""

from __future__ import annotations

from pgt_fx.program import Program


def listing(program: Program) -> str:
    """Python of one step; above each Markov operator its line in the user's model."""
    notes = program.emitted.notes
    out = []
    for line in program.module().code.strip().splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        name = line.strip().split(" ", 1)[0]
        if name in notes and "=" in line:
            out.append(f"{indent}# {notes[name]}")
        # fx frees values by assigning None at the end of a line; that is no part of the reading.
        out.append(line.split(";  ", 1)[0] if ";  " in line else line)
    return "\n".join(line for line in out if line.strip() not in ("", "import torch")) + "\n"

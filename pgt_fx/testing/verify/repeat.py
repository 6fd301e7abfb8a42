"""Checks that results repeat: run again, saved and loaded, switched to train mode and back."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import torch

from pgt_fx.compiler.selfcheck.measure import same_bits
from pgt_fx.core.errors import StateError
from pgt_fx.testing.verify.locality import _policies, _steps
from pgt_fx.testing.verify.result import Check
from pgt_fx.testing.verify.subject import Subject


def deterministic(check: Check, subject: Subject, chunkings: int) -> Check:
    """The same video twice."""
    chunks = _steps(subject, 41)
    faults = []
    for policy, prog in _policies(subject):
        first, second = (subject.run(prog, subject.main, chunks) for _ in range(2))
        faults += [
            f"{policy}: step {n} of {chunks}"
            for n, (a, b) in enumerate(zip(first, second, strict=True), 1)
            if not same_bits(a, b)
        ]
    return _check_of(check, faults, f"steps {chunks} twice, both policies")


def through_a_file(prog: Any) -> None:
    """Save the state, load it again."""
    file = io.BytesIO()
    torch.save(prog.state, file)
    file.seek(0)
    prog.reset()
    prog.state = torch.load(file, weights_only=True)


def there_and_back(prog: Any) -> None:
    """To train mode and back; a state must be the same there."""
    here = prog.inspect.program.places
    there = prog.train().inspect.program.places
    prog.eval()
    if other := sorted(here ^ there):
        mode = "eval" if other[0] in here else "train"
        raise StateError(f"{other[0]!r} has a place in the state in {mode} mode alone")


def state_round_trip(check: Check, subject: Subject, chunkings: int) -> Check:
    """The state saved in the middle of a video and loaded (``weights_only=True``)."""
    return _interrupted(check, subject, through_a_file, "saved and loaded between all steps")


def mode_switching(check: Check, subject: Subject, chunkings: int) -> Check:
    """To train mode and back in the middle of a video."""
    return _interrupted(check, subject, there_and_back, "train() and eval() between all steps")


def _interrupted(check: Check, subject: Subject, what: Any, words: str) -> Check:
    chunks = _steps(subject, 42)
    faults = []
    for policy, prog in _policies(subject):
        wanted = subject.run(prog, subject.main, chunks)
        prog.reset()
        pieces = subject.cut(subject.main, chunks)
        for number, piece in enumerate(pieces):
            with torch.no_grad():
                got = subject.feed(prog, piece, number == len(pieces) - 1)
            if not same_bits(got, wanted[number]):
                faults.append(f"{policy}: step {number + 1} of {chunks}")
                break
            if number < len(pieces) - 1:
                what(prog)
        prog.reset()
    return _check_of(check, faults, f"steps {chunks}, {words}, both policies")


def _check_of(check: Check, faults: list[str], detail: str) -> Check:
    if faults:
        found = f"{len(faults)} differ"
        return replace(check, ok=False, measured=found, detail=f"{faults[0]}; {detail}")
    return replace(check, ok=True, measured="0 bits differ", detail=detail)

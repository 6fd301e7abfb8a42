"""``pgt-fx verify MODEL``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import pgt_fx
from pgt_fx.cli.models import load
from pgt_fx.cli.talk import (
    HOLDS,
    UNCHECKED,
    VIOLATED,
    AsJson,
    Model,
    Space,
    Threads,
    out,
    refusals,
    set_threads,
    spinner,
)


def verify(
    model: Model,
    space: Space = 64,
    json_: AsJson = False,
    features: Annotated[
        bool, typer.Option("--features", help="Only stem and stages of a model of the zoo.")
    ] = False,
    chunkings: Annotated[int, typer.Option(min=1, help="Random cuts of the video.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the videos, cuts and redrawn norms.")] = 0,
    threads: Threads = None,
) -> None:
    """Measure the promises: exactness, one-way time, isolation, bounded state, reset."""
    set_threads(threads)
    with refusals(), spinner("building") as step:
        module, example = load(model, space, features=features)
        step(f"turning {model} progressive")
        prog = pgt_fx.transform(module, example)

        def tell(what: str, number: int, total: int) -> None:
            step(f"measuring {what}", number, total)

        found = pgt_fx.verify(prog, chunkings=chunkings, seed=seed, progress=tell)
    if json_:
        typer.echo(json.dumps(found.to_dict(), indent=2, default=str))
    else:
        out().print(found)
    raise typer.Exit(HOLDS if found.ok else VIOLATED if found.violations else UNCHECKED)

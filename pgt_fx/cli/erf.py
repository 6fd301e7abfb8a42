"""``pgt-fx erf MODEL``."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from pgt_fx.cli.talk import (
    FIGURES,
    AsJson,
    Model,
    Space,
    Threads,
    check_file,
    out,
    set_threads,
    spinner,
)
from pgt_fx.testing.model_names import load


def erf(
    model: Model,
    operator: Annotated[
        str, typer.Option(help="What is carried from the past: mco, cmco-avg, cmco-max, pmco.")
    ] = "mco",
    length: Annotated[
        int | None,
        typer.Option(min=2, help="T', the frames of a step (of the slow path of two)."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="P, the number of steps.")] = 5,
    frame: Annotated[
        int | None,
        typer.Option(min=0, help="Which output frame; else the middle one of the last step."),
    ] = None,
    space: Space = None,
    inputs: Annotated[int, typer.Option(min=1, help="Random videos to average over.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the videos and redrawn norms.")] = 0,
    redraw: Annotated[
        bool,
        typer.Option(help="Give norms generic weights first; --no-redraw for trained weights."),
    ] = True,
    head: Annotated[
        bool,
        typer.Option("--head", help="Of a model of the zoo the pooled answer, not the features."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The figure: .png, .svg or .pdf; else MODEL_erf.png here."),
    ] = None,
    json_: AsJson = False,
    threads: Threads = None,
) -> None:
    """Draw the temporal receptive field, theoretical and effective: original and progressive."""
    path = output or Path(re.sub(r"[^\w.-]", "_", model) + "_erf.png")
    check_file("--output", path, FIGURES)
    with spinner("building") as step:
        from pgt_fx import erf as erf_job
        from pgt_fx import transform
        from pgt_fx.core.errors import OptionError
        from pgt_fx.core.options import Operator
        from pgt_fx.erf import figure

        set_threads(threads)
        figure.check(path)
        features = ":" not in model and not head
        if ":" in model and head:
            raise typer.BadParameter("--head is for models of the zoo")
        module, example = load(model, space, usual=64, features=features)
        step(f"turning {model} progressive")
        prog = transform(module, example, operator=cast(Operator, operator))
        try:
            found = erf_job.measure(
                prog,
                steps=steps,
                length=length,
                inputs=inputs,
                seed=seed,
                output=frame,
                redraw=redraw,
                progress=step,
            )
        except OptionError as error:
            about, _, said = str(error).partition(": ")
            if about != "output":
                raise
            raise typer.BadParameter(f"--frame: {said}") from None
        found = replace(found, model=f"{model} (features)" if features else model)
        figure.save(found, path)
    if json_:
        typer.echo(json.dumps(found.to_dict() | {"figure": str(path)}, indent=2))
        return
    out().print(found)
    typer.echo(f"\nfigure: {path}")

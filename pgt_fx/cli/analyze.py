"""``pgt-fx analyze MODEL``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.syntax import Syntax

from pgt_fx.cli.talk import AsJson, Model, Space, TimeDim, out, spinner
from pgt_fx.testing.model_names import load


def analyze(
    model: Model,
    json_: AsJson = False,
    space: Space = None,
    time_dim: TimeDim = None,
    code: Annotated[bool, typer.Option(help="Print the generated code of one step too.")] = False,
) -> None:
    """What a model does along time: receptive field, stride, look-ahead, state, verdicts."""
    with spinner("analyzing") as step:
        module, example = load(model, space)
        step(f"analyzing {model}")
        # Of the policies the one under which outputs can be the model's own, so that the report
        # says whether they are.
        options: dict[str, Any] = {"future": "wait", "pooling": "running", "strict": False}
        from pgt_fx import transform

        prog = transform(module, example, time_dim=time_dim, **options)
        report, listing = prog.report, prog.code if code else ""
    if json_:
        data = report.to_dict() | ({"code": listing} if code else {})
        typer.echo(json.dumps(data, indent=2, default=str))
        return
    console = out()
    console.print(report)
    if code:
        console.print()
        if console.is_terminal:
            console.print(Syntax(listing, "python"))
        else:
            typer.echo(listing)

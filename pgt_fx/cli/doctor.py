"""``pgt-fx doctor MODEL``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pgt_fx.cli.talk import HOLDS, VIOLATED, AsJson, Model, Space, TimeDim, check_file, out, spinner
from pgt_fx.testing.model_names import load

PAGES = {".html": "a page", ".htm": "a page"}


def doctor(
    model: Model,
    space: Space = None,
    features: Annotated[
        bool, typer.Option("--features", help="Only stem and stages of a model of the zoo.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with the graph drawn too.")
    ] = None,
    json_: AsJson = False,
    time_dim: TimeDim = None,
) -> None:
    """Why a model is refused, or late: which operators, at which lines, and what to change.

    Exit code 0: it can be made progressive; 1: something stands in the way; 2: it could not be
    examined.
    """
    if html is not None:
        check_file("--html", html, PAGES)
    with spinner("examining") as step:
        module, example = load(model, space, features=features)
        step(f"examining {model}")
        from pgt_fx.doctor import examine

        found = examine(module, example, time_dim=time_dim)
    if html is not None:
        html.write_text(found.to_html(), encoding="utf-8")
    if json_:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        out().print(found)
    raise typer.Exit(VIOLATED if found.verdict == "refused" else HOLDS)

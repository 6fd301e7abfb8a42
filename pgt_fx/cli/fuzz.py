"""``pgt-fx fuzz``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from pgt_fx.cli.talk import (
    HOLDS,
    UNCHECKED,
    VIOLATED,
    AsJson,
    Threads,
    check_folder,
    set_threads,
    spinner,
)
from pgt_fx.core.counts import counted


def fuzz(
    minutes: Annotated[float, typer.Option(min=0.0, help="How long.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the first batch of graphs.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", help="Folder for files that show what failed.")
    ] = Path(),
    json_: AsJson = False,
    threads: Threads = 1,
) -> None:
    """Random graphs, cuts, dtypes and options; what fails is shrunk and written to a file.

    Exit code 1: something does not hold; 2: not checked because of an error, or nothing was.
    """
    check_folder("--output", output)
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError:
        raise typer.BadParameter(
            "drawing random graphs needs Hypothesis, which is not installed: pip install hypothesis"
        ) from None
    set_threads(threads)
    from pgt_fx.testing.fuzz.campaign import Campaign
    from pgt_fx.testing.fuzz.campaign import fuzz as run

    with spinner("drawing") as step:

        def tell(campaign: Campaign) -> None:
            done = campaign.seconds / 60
            graphs, failures = counted(campaign.checked, "graph"), len(campaign.failures)
            text = f"{graphs}, {counted(failures, 'failure')}"
            step(text, min(done, minutes), minutes)

        with warnings.catch_warnings():
            # Of torch about what random graphs do: nobody wrote them, so nobody can mend them.
            warnings.simplefilter("ignore", UserWarning)
            campaign = run(minutes, seed, output, tell)
    typer.echo(json.dumps(campaign.to_dict(), indent=2) if json_ else str(campaign))
    if not all(f.error for f in campaign.failures):
        raise typer.Exit(VIOLATED)
    if campaign.failures:
        raise typer.Exit(UNCHECKED)
    raise typer.Exit(HOLDS if campaign.checked else UNCHECKED)

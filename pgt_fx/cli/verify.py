"""``pgt-fx verify MODEL``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgt_fx.cli.promises import MaxLookAhead, MaxState, Require, exactness_lost
from pgt_fx.cli.talk import (
    HOLDS,
    UNCHECKED,
    VIOLATED,
    AsJson,
    Space,
    Threads,
    TimeDim,
    check_file,
    out,
    set_threads,
    spinner,
)
from pgt_fx.core.errors import OptionError, PgtError
from pgt_fx.testing.model_names import load, progressive

if TYPE_CHECKING:
    from pgt_fx.testing.verify.certificate import Certificate
    from pgt_fx.testing.verify.result import Verification

#: What is written into a file, by its suffix.
OUTPUTS = {".xml": "JUnit", ".json": "JSON", ".md": "Markdown", ".txt": "the table"}
CERTIFICATES = {".json": "a certificate"}


class Format(StrEnum):
    """How the result is printed."""

    table = "table"
    json = "json"
    junit = "junit"
    markdown = "markdown"


class Precision(StrEnum):
    """What is computed in."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"


#: Options that a certificate answers itself.
_OF_A_CERTIFICATE = (
    *("causal", "save", "check", "space", "features", "chunkings", "seed", "dtype", "time_dim"),
)


def verify(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A name of the zoo, or package.module:factory for one of your own. May be left "
            "out with --certificate, which says what it is of."
        ),
    ] = None,
    space: Space = None,
    json_: AsJson = False,
    format_: Annotated[Format, typer.Option("--format", help="What to print.")] = Format.table,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            help="Write this file too: .xml JUnit, .json, .md Markdown, .txt the table. May be "
            "repeated.",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write a certificate of what was checked.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Check a certificate again.")
    ] = None,
    causal: Annotated[
        bool, typer.Option("--causal", help="The model is meant to be causal: check it as it is.")
    ] = False,
    check: Annotated[
        list[str] | None, typer.Option("--check", help="Only this promise; may be repeated.")
    ] = None,
    require: Require = None,
    max_look_ahead: MaxLookAhead = None,
    max_state: MaxState = None,
    features: Annotated[
        bool, typer.Option("--features", help="Only stem and stages of a model of the zoo.")
    ] = False,
    chunkings: Annotated[int, typer.Option(min=1, help="Random cuts of the video.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the videos, cuts and redrawn norms.")] = 0,
    dtype: Annotated[Precision, typer.Option(help="What to compute in.")] = Precision.float64,
    time_dim: TimeDim = None,
    threads: Threads = None,
) -> None:
    """Measure the promises of a model; exit code 0: they hold, 1: violated, 2: not checked, for a
    reason of the model's or because of an error.

    What is required, and all that a certificate records, has to hold: then "not checked" is no 0.
    """
    form = Format.json if json_ else format_
    if certificate is not None:
        _only(context, "--certificate", *_OF_A_CERTIFICATE)
    outputs = output or []
    for path in outputs:
        check_file("--output", path, OUTPUTS)
    if save is not None:
        check_file("--save", save, CERTIFICATES)
    if certificate is not None:
        set_threads(threads)
        _again(certificate, model, form, outputs, (require or (), max_look_ahead, max_state))
    if model is None:
        raise typer.BadParameter("which model? A name of the zoo, or package.module:factory")
    if causal:
        _only(context, "--causal", "chunkings")
    given = {"model": model, "space": space or 64, "features": features, "time_dim": time_dim}
    show = exactness_lost(model, lambda found: _show(found, form, outputs))
    with show, spinner("building") as step:
        import torch

        from pgt_fx.testing.verify.causal import verify_causal
        from pgt_fx.testing.verify.contract import verify as measure
        from pgt_fx.testing.verify.required import requirements

        set_threads(threads)
        required = requirements(require or (), max_look_ahead, max_state, plain=causal)
        _check_names(check, causal)
        module, example = load(model, space, usual=64, features=features)
        kind = getattr(torch, dtype.value)
        if causal:
            step(f"measuring {model}")
            with _failure_in_files(model, outputs):
                found = verify_causal(
                    module,
                    example,
                    time_dim=time_dim,
                    checks=check or None,
                    seed=seed,
                    dtype=kind,
                    require=required.words,
                    max_look_ahead=required.max_look_ahead,
                )
        else:
            step(f"turning {model} progressive")
            with _failure_in_files(model, outputs):
                prog = progressive(module, example, time_dim)
                found = measure(
                    prog,
                    checks=check or None,
                    chunkings=chunkings,
                    seed=seed,
                    dtype=kind,
                    require=required.words,
                    max_look_ahead=required.max_look_ahead,
                    max_state=required.max_state,
                    progress=lambda what, n, of: step(f"measuring {what}", n, of),
                )
        found.record["model"]["given"] = given
        if save is not None and not found.errors:
            found.save(save)
    _show(found, form, outputs)
    if save is not None and found.errors:
        typer.echo(f"no certificate was written to {save}: see the errors above", err=True)
    raise typer.Exit(HOLDS if found.ok else VIOLATED if found.violations else UNCHECKED)


def _only(context: typer.Context, option: str, *others: str) -> None:
    """Refuse options that mean nothing beside another one."""
    given = [n for n in others if str(context.get_parameter_source(n)).endswith("COMMANDLINE")]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"{option} goes without {names}")


def _check_names(wanted: list[str] | None, causal: bool) -> None:
    """Refuse a promise that there isn't, before a model is built."""
    from pgt_fx.testing.verify import causal as of_causal
    from pgt_fx.testing.verify import promises

    known = [name for name, *_ in (of_causal.CHECKS if causal else promises.CHECKS)]
    promises.check_names("--check", wanted or [], known)


@contextmanager
def _failure_in_files(model: str, outputs: list[Path]) -> Iterator[None]:
    """A model that can't be measured is reported in the files too."""
    try:
        yield
    except PgtError as error:
        if not isinstance(error, OptionError):
            from pgt_fx.testing.verify.result import Check, Verification

            detail = f"{type(error).__name__}: {error}"
            check = Check("converts", "the model can be made progressive", None, detail=detail)
            found = Verification(model, "nothing", (check,))
            for path in outputs:
                path.write_text(_text(found, _form(path)), encoding="utf-8")
        raise


def _show(found: Verification, form: Format, outputs: list[Path]) -> None:
    for path in outputs:
        path.write_text(_text(found, _form(path)), encoding="utf-8")
    if form is Format.table:
        out().print(found)
    else:
        typer.echo(_text(found, form), nl=False)


def _form(path: Path) -> Format:
    forms = {".xml": Format.junit, ".json": Format.json, ".md": Format.markdown}
    return forms.get(path.suffix.lower(), Format.table)


def _text(found: Verification, form: Format) -> str:
    texts: dict[Format, Callable[[], str]] = {
        Format.table: lambda: f"{found}\n",
        Format.json: lambda: json.dumps(found.to_dict(), indent=2, default=str) + "\n",
        Format.junit: found.to_junit,
        Format.markdown: found.to_markdown,
    }
    return texts[form]()


def _again(
    path: Path, model: str | None, form: Format, outputs: list[Path], required: tuple[Any, ...]
) -> None:
    """Check a certificate again; does not return."""
    from pgt_fx.testing.verify.certificate import load as load_certificate

    try:
        certificate = load_certificate(path)
    except OSError as error:
        raise typer.BadParameter(f"--certificate: {error.strerror}: {path}") from None

    def refused(found: Verification) -> None:
        _show(found, form, outputs)
        for line in certificate.exactness_lost(found["exact-wait"].where):
            typer.echo(f"contradicts the certificate: {line}", err=form is not Format.table)

    with exactness_lost(model or "the model", refused), spinner("reading") as step:
        demands = certificate.requirements(*required)
        name, module, example = _certified(certificate, model)
        if not certificate.causal:
            given_dim = certificate.data["model"]["given"].get("time_dim")
            step(f"turning {name} progressive")
            module, example = progressive(module, example, given_dim), None
        step(f"measuring {name}")
        found, contradictions, notes = certificate.recheck(module, example, demands)
    _show(found, form, outputs)
    unmeasured = certificate.unmeasured(found)
    lost = [x for x in contradictions if x not in unmeasured]
    lines = [f"contradicts the certificate: {x}" for x in lost]
    lines += [f"could not be measured again: {x}" for x in unmeasured]
    lines += [f"changed since: {x}" for x in notes]
    lines += [f"not compared because of an error: {c}" for c in found.errors]
    if not contradictions and not found.errors:
        lines.append(f"the certificate of {certificate.data['created']} still holds")
    for line in lines:
        typer.echo(line, err=form is not Format.table)
    raise typer.Exit(VIOLATED if lost or found.violations else HOLDS if found.ok else UNCHECKED)


def _certified(certificate: Certificate, model: str | None) -> tuple[str, Any, Any]:
    """Name, module and example of the model that a certificate is of."""
    given = certificate.data["model"]["given"]
    name = model or given.get("model")
    if not isinstance(name, str):
        raise typer.BadParameter("the certificate doesn't say how to make its model: name it")
    module, example = load(
        name, None, usual=given.get("space", 64), features=bool(given.get("features"))
    )
    return name, module, example

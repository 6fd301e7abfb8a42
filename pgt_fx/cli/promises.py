"""Options of ``pgt-fx verify`` for the promises that it demands, and reports of broken ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pgt_fx.cli.talk import VIOLATED
from pgt_fx.core.errors import ExactnessError

if TYPE_CHECKING:
    from pgt_fx.testing.verify.result import Verification

Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="WORD",
        help="What has to hold: exact, causal, one-way, gradients, or the id of a check. Where it "
        "is absent the exit code is 1, where it could not be checked 2. May be repeated.",
    ),
]
MaxLookAhead = Annotated[
    int | None,
    typer.Option(
        "--max-look-ahead", min=0, help="Most frames after its own that an output may read."
    ),
]
MaxState = Annotated[
    str | None,
    typer.Option(
        "--max-state",
        metavar="BYTES",
        help="Most bytes carried from step to step, such as 4MiB: at the clip's space and dtype, "
        "for a batch of one.",
    ),
]


@contextmanager
def exactness_lost(model: str, show: Callable[[Verification], object]) -> Iterator[None]:
    """A factory that asks for ``future="wait"`` promises exactness. That the model refuses it is no
    error in how it was called: the promise is violated, shown like any other, and the exit code 1.

    Args:
        model: as it was named.
        show: prints and writes what was found.
    """
    try:
        yield
    except (ExactnessError, typer.BadParameter) as error:
        lost = error if isinstance(error, ExactnessError) else error.__cause__
        if not isinstance(lost, ExactnessError):
            raise
        from pgt_fx.testing.verify.promises import CHECKS
        from pgt_fx.testing.verify.result import Check, Verification

        sentence = next(text for name, text, _ in CHECKS if name == "exact-wait")
        where = "; ".join(lost.operators)
        check = Check("exact-wait", sentence, False, "refused", detail=str(lost), where=where)
        must = frozenset({check.id})
        show(Verification(model, "nothing: transform refused it", (check,), required=must))
        raise typer.Exit(VIOLATED) from None

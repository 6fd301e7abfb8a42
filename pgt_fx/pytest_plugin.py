"""``pytest --pgt-model package.module:factory``: one test for each promise of a model.

The factory makes an ``nn.Module``, a pair of one and an example clip, or what ``pgt_fx.transform``
returned, with options of its own; names of the zoo will do as well. ``--pgt-causal`` takes models
that are meant to be causal as they are. Options may stand in the project's configuration:

    [tool.pytest.ini_options]
    pgt_models = ["package.module:factory"]

Nothing here imports torch before a model was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgt_fx.verification.result import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgt_fx", "progressive video models")
    group.addoption(
        "--pgt-model",
        action="append",
        default=[],
        metavar="MODEL",
        help="package.module:factory, or a name of the zoo: test that it can be made progressive",
    )
    group.addoption(
        "--pgt-causal",
        action="append",
        default=[],
        metavar="MODEL",
        help="the same for a model that is meant to be causal as it is",
    )
    group.addoption(
        "--pgt-check",
        action="append",
        default=[],
        metavar="ID",
        help="only this promise (may be given several times)",
    )
    group.addoption("--pgt-chunkings", type=int, default=5, help="random cuts of the video")
    group.addoption("--pgt-seed", type=int, default=0, help="of videos, cuts and redrawn norms")
    group.addoption("--pgt-dtype", default="float64", help="float64, float32 or bfloat16")
    parser.addini("pgt_models", "models to test as --pgt-model does", type="linelist", default=[])
    parser.addini("pgt_causal", "models to test as --pgt-causal does", type="linelist", default=[])


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    models = [*config.getini("pgt_models"), *config.getoption("--pgt-model")]
    causal = [*config.getini("pgt_causal"), *config.getoption("--pgt-causal")]
    for name in dict.fromkeys(models):
        items += Progressive.from_parent(session, name=f"pgt-model:{name}", model=name).collect()
    for name in dict.fromkeys(causal):
        items += Causal.from_parent(session, name=f"pgt-causal:{name}", model=name).collect()


class ModelTests(pytest.Collector):
    """The tests of one model. What they share is made when the first one runs.

    The first test is that the model can be measured at all; where it can't, the others are skipped.
    """

    opening = ""

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self._made: Any = None
        self._refusal = ""

    def collect(self) -> list[pytest.Item]:
        chosen = self.config.getoption("--pgt-check")
        known = self.promises()
        if unknown := sorted(set(chosen) - set(known)):
            raise pytest.UsageError(
                f"--pgt-check: no {', '.join(unknown)}; there are {', '.join(known)}"
            )
        wanted = [c for c in known if not chosen or c in chosen]
        return [PromiseTest.from_parent(self, name=name) for name in (self.opening, *wanted)]

    def promises(self) -> list[str]:
        """Ids of the checks."""
        raise NotImplementedError

    def make(self) -> Any:
        """What the checks share."""
        raise NotImplementedError

    def check(self, name: str) -> Check:
        """Make one check."""
        raise NotImplementedError

    def made(self) -> Any:
        """What the checks share, made once; PromiseError with the reason where it can't be."""
        from pgt_fx.errors import PgtError

        if self._made is None and not self._refusal:
            try:
                self._made = self.make()
            except PgtError as error:
                self._refusal = f"{type(error).__name__}: {error}"
            except PromiseError as error:
                self._refusal = str(error)
        if self._refusal:
            raise PromiseError(self._refusal)
        return self._made

    def load(self) -> tuple[Any, Any]:
        """The model and its example."""
        import typer

        from pgt_fx.cli.models import load

        try:
            return load(self.model, None)
        except typer.BadParameter as error:
            raise PromiseError(str(error)) from None

    def settings(self) -> dict[str, Any]:
        import torch

        name = self.config.getoption("--pgt-dtype")
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise PromiseError(f"--pgt-dtype {name}: expected float64, float32 or bfloat16")
        return {"seed": self.config.getoption("--pgt-seed"), "dtype": dtype}


class Progressive(ModelTests):
    opening = "converts"

    def promises(self) -> list[str]:
        from pgt_fx.verification.promises import CHECKS

        return [name for name, *_ in CHECKS]

    def make(self) -> Any:
        from pgt_fx.cli.models import progressive
        from pgt_fx.verification.session import Session

        settings = self.settings()
        prog = progressive(*self.load())
        return Session(prog, self.config.getoption("--pgt-chunkings"), **settings)

    def check(self, name: str) -> Check:
        return self.made().check(name)


class Causal(ModelTests):
    opening = "runs"

    def promises(self) -> list[str]:
        from pgt_fx.verification.causal import CHECKS

        return [name for name, *_ in CHECKS]

    def make(self) -> Any:
        from pgt_fx.verification.causal import verify_causal

        settings = self.settings()
        return verify_causal(*self.load(), **settings)

    def check(self, name: str) -> Check:
        return self.made()[name]


class PromiseError(Exception):
    """A promise is broken, or a model can't be checked; the message says it all."""


class PromiseTest(pytest.Item):
    """One promise of one model."""

    parent: ModelTests

    def runtest(self) -> None:
        if self.name == self.parent.opening:
            self.parent.made()
            return
        try:
            found = self.parent.check(self.name)
        except PromiseError:
            pytest.skip(f"see {self.parent.name}::{self.parent.opening}")
        self.user_properties += _properties(found)
        if found.ok is False:
            raise PromiseError(str(found))
        if found.ok is None and self.name == "time-sensitive":
            # Else a model to which time is all one would pass with nothing but skips.
            raise PromiseError(f"nothing can be checked: {found}")
        if found.ok is None:
            pytest.skip(found.detail)
        self.add_report_section("call", "pgt_fx", str(found))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, PromiseError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        return self.parent.name, None, f"{self.parent.name}::{self.name}"


def _properties(found: Check) -> Iterator[tuple[str, object]]:
    """For JUnit files: the figure and its bound."""
    yield "measured", str(found.measured)
    if found.bound:
        yield "bound", str(found.bound)
    if found.where:
        yield "where", found.where

"""``pytest --pgt-model package.module:factory``: one test for each promise of a model.

The factory makes an ``nn.Module``, a pair of one and an example clip, or what ``pgt_fx.transform``
returned, with options of its own; names of the zoo will do as well. ``--pgt-causal`` takes models
that are meant to be causal as they are. Options may stand in the project's configuration:

    [tool.pytest.ini_options]
    pgt_models = ["package.module:factory"]

The id of a test says by itself what it is of, and can be given to pytest again. It begins with the
file in which the model is made; that of a model of the zoo, or of no file that is found, does not:

    pytest package/module.py::pgt-model:package.module:factory::exact-wait
    pytest pgt-model:x3d_s::exact-wait

``--pgt-require``, ``--pgt-max-look-ahead`` and ``--pgt-max-state`` (in the configuration
``pgt_require`` and so on) say what has to hold. A required promise that can't be measured is an
error of its test, where another one is skipped.

Nothing here imports torch before a model was asked for.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from abc import abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgt_fx.testing.pytest_required import add_options, required_of

if TYPE_CHECKING:
    from pgt_fx.testing.verify.required import Requirements
    from pgt_fx.testing.verify.result import Check


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
    add_options(parser, group)
    parser.addini("pgt_models", "models to test as --pgt-model does", type="linelist", default=[])
    parser.addini("pgt_causal", "models to test as --pgt-causal does", type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Give ids without a file one, as pytest looks for files."""
    for number, arg in enumerate(config.args):
        name = Path(str(arg).partition("::")[0]).name
        if name.startswith(PREFIXES):
            names = [name, *str(arg).split("::")[1:]]
            config.args[number] = "::".join([os.path.abspath(__file__), *names])


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the tests of the models that options name; ids name theirs by themselves."""
    ids = asked_by_id(config)
    names = [f"pgt-model:{model}" for model in config.getoption("--pgt-model")]
    names += [f"pgt-causal:{model}" for model in config.getoption("--pgt-causal")]
    if not any("::" in str(arg) for arg in config.args):
        # Who asks for single tests doesn't want all that stand in the configuration.
        names = [f"pgt-model:{model}" for model in config.getini("pgt_models")] + names
        names += [f"pgt-causal:{model}" for model in config.getini("pgt_causal")]
    known = {name for found in ids.values() for name in found}
    by_file: dict[Path, list[str]] = {}
    for name in dict.fromkeys(names):
        if name not in known:
            by_file.setdefault(file_of(name.partition(":")[2]), []).append(name)
    for path, found in by_file.items():
        for tests in ModelFile.from_parent(session, path=path, names=found).collect():
            items += tests.collect()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """The tests of models of which ids were given; their file may be one of tests as well."""
    others = yield
    names = asked_by_id(parent.config).get(file_path)
    if names is None:
        return others
    if all(name.startswith(PREFIXES) for name in names):
        others = []  # else pytest would import the file as one of tests
    own = [name for name in names if name.startswith(PREFIXES)]
    return [*others, ModelFile.from_parent(parent, path=file_path, names=own)]


#: How the names of the tests of a model begin; the model follows.
PREFIXES = ("pgt-model:", "pgt-causal:")
#: Stands for the file of models that have none; ids are without it.
NO_FILE = Path(os.path.abspath(__file__))


def asked_by_id(config: pytest.Config) -> dict[Path, list[str]]:
    """Files of which ids of models' tests were given, with the names that follow the file in each
    id; "" stands for all of a file."""
    found: dict[Path, list[str]] = {}
    for arg in config.args:
        file, *names = str(arg).split("::")
        path = Path(os.path.abspath(config.invocation_params.dir / file))
        found.setdefault(path, []).append(names[0] if names else "")
    return {
        path: list(dict.fromkeys(names))
        for path, names in found.items()
        if any(name.startswith(PREFIXES) for name in names)
    }


def file_of(model: str) -> Path:
    """The file of a model's module; :data:`NO_FILE` for a model of the zoo, and for a module that
    is not found, which its tests say."""
    module, colon, _ = model.partition(":")
    if colon and str(Path.cwd()) not in sys.path:  # as when the model is made
        sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(module) if colon else None
    except Exception:  # of the package around it
        spec = None
    if spec is None or not spec.has_location or not spec.origin:
        return NO_FILE
    return Path(os.path.abspath(spec.origin))


class ModelFile(pytest.File):
    """The file in which models are made, with their tests."""

    def __init__(self, *, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names

    def collect(self) -> list[ModelTests]:
        kinds: dict[str, type[ModelTests]] = {"pgt-model": Progressive, "pgt-causal": Causal}
        out = []
        for name in self.names:
            kind, _, model = name.partition(":")
            options = {"nodeid": name} if self.path == NO_FILE else {}
            out.append(kinds[kind].from_parent(self, name=name, model=model, **options))
        return out


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
        self._error: Exception | None = None

    def collect(self) -> list[pytest.Item]:
        chosen = list(self.config.getoption("--pgt-check"))
        known = self.promises()
        always = self.required().checks
        if unknown := sorted(set(chosen) - set(known)):
            raise pytest.UsageError(
                f"--pgt-check: no {', '.join(unknown)}; there are {', '.join(known)}"
            )
        wanted = [c for c in known if not chosen or c in chosen or c in always]
        wanted += sorted(always - set(known))  # those with a bound of the user's
        return [PromiseTest.from_parent(self, name=name) for name in (self.opening, *wanted)]

    @abstractmethod
    def promises(self) -> list[str]:
        """Ids of the checks."""

    @abstractmethod
    def make(self) -> Any:
        """What the checks share."""

    def required(self) -> Requirements:
        """What has to hold of this model."""
        from pgt_fx.core.errors import OptionError

        try:
            return required_of(self.config, plain=isinstance(self, Causal))
        except OptionError as error:
            raise pytest.UsageError(str(error)) from None

    @abstractmethod
    def must(self) -> Collection[str]:
        """Ids of the checks that have to hold; those are errors where they can't be made."""

    @abstractmethod
    def check(self, name: str) -> Check:
        """Make one check."""

    def made(self) -> Any:
        """What the checks share, made once; PromiseError with the reason where it can't be, and
        any other error as it is: it says nothing about the model."""
        from pgt_fx.core.errors import PgtError

        if self._error is not None:
            raise self._error
        if self._made is None and not self._refusal:
            try:
                self._made = self.make()
            except PgtError as error:
                self._refusal = f"{type(error).__name__}: {error}"
            except PromiseError as error:
                self._refusal = str(error)
            except Exception as error:
                self._error = error
                raise
        if self._refusal:
            raise PromiseError(self._refusal)
        return self._made

    @property
    def unmade(self) -> bool:
        """Whether what the checks share could not be made."""
        return bool(self._refusal) or self._error is not None

    def load(self) -> tuple[Any, Any]:
        """The model and its example."""
        import typer

        from pgt_fx.testing.model_names import load
        from pgt_fx.zoo import MissingPackageError, UnknownModelError

        self._find()
        try:
            return load(self.model, None)
        except (typer.BadParameter, MissingPackageError, UnknownModelError) as error:
            raise PromiseError(str(error)) from None

    def _find(self) -> None:
        """Make the module of an id the one in its file, whatever the current folder is."""
        if self.path in (NO_FILE, file_of(self.model)):
            return
        module = self.model.partition(":")[0].split(".")
        parts = self.path.with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        root = str(Path(*parts[: -len(module)]))
        if list(parts[-len(module) :]) == module:
            sys.path.insert(0, root)

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
        from pgt_fx.testing.verify.promises import CHECKS

        return [name for name, *_ in CHECKS]

    def make(self) -> Any:
        from pgt_fx.testing.model_names import progressive
        from pgt_fx.testing.verify.session import Session

        settings = self.settings()
        prog = progressive(*self.load())
        chunkings = self.config.getoption("--pgt-chunkings")
        return Session(prog, chunkings, **settings, required=self.required())

    def must(self) -> Collection[str]:
        return self.made().must

    def check(self, name: str) -> Check:
        return self.made().check(name)


class Causal(ModelTests):
    opening = "runs"

    def promises(self) -> list[str]:
        from pgt_fx.testing.verify.causal import CHECKS

        return [name for name, *_ in CHECKS]

    def make(self) -> Any:
        from pgt_fx.testing.verify.causal import verify_causal

        asked = self.required()
        return verify_causal(
            *self.load(),
            **self.settings(),
            require=asked.words,
            max_look_ahead=asked.max_look_ahead,
        )

    def must(self) -> Collection[str]:
        return self.made().required

    def check(self, name: str) -> Check:
        return self.made()[name]


class PromiseError(Exception):
    """A promise is broken, or a model can't be checked; the message says it all."""


class PromiseTest(pytest.Item):
    """One promise of one model.

    It is measured in ``setup``, where an error counts as one of the test's own: a failed test would
    read as a broken promise. So does a check that has to hold and could not be made.
    """

    parent: ModelTests
    found: Check | None = None
    refusal: PromiseError | None = None

    def setup(self) -> None:
        try:
            if self.name == self.parent.opening:
                self.parent.made()
                return
            self.found = self.parent.check(self.name)
        except Exception as error:
            required = self.name in self.parent.required().checks
            if required and isinstance(error, PromiseError):
                raise PromiseError(f"{self.name} is required: {error}") from error
            first = f"{self.parent.nodeid}::{self.parent.opening}"
            others = (item.nodeid for item in self.session.items if item is not self)
            if first in others and self.parent.unmade:
                pytest.skip(f"see {first}")
            if not isinstance(error, PromiseError):
                raise
            self.refusal = error
            return
        self.user_properties += _properties(self.found)
        if self.found.error:
            raise PromiseError(f"not checked because of an error: {self.found}")
        if self.found.ok is None and self.name in self.parent.must():
            raise PromiseError(str(self.found))

    def runtest(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        found = self.found
        if found is None:  # the opening
            return
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

    def reportinfo(self) -> tuple[Path, None, str]:
        # Not the end of the id: pytest would print that with `::` for every dot in it.
        return self.path, None, f"{self.name} of {self.parent.name}"


def _properties(found: Check) -> Iterator[tuple[str, object]]:
    """For JUnit files: the figure and its bound."""
    yield "measured", str(found.measured)
    if found.bound:
        yield "bound", str(found.bound)
    if found.where:
        yield "where", found.where

"""The page about adding an operator: its code is one file that works as the page says, and nothing
else has to be told of a new kind."""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from oracles import random_chunks, relative_error

import pgt_fx
from pgt_fx.core.layout import plain
from pgt_fx.doctor import examine
from pgt_fx.rules import RULES, Kind

PAGE = Path(__file__).parents[2] / "docs/adding-an-operator.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """All code of the page, imported as the file that it says it is."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    path = tmp_path_factory.mktemp("page") / "running_median.py"
    path.write_text("\n\n".join(blocks))
    spec = importlib.util.spec_from_file_location("running_median", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec.loader.exec_module(module)
    yield module
    for name in ("mylib::median_padded", "mylib::running_median"):
        del RULES[name]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["Steady", "Live"])
def test_streams_are_the_whole_video(page: ModuleType, name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, video = getattr(page, name)().eval(), torch.randn(1, 3, 23, 16, 16)
    prog = pgt_fx.transform(model, page.clip, future="wait", check=False)
    pieces = video.split(random_chunks(23, 6, random.Random(seed)), 2)
    with torch.no_grad():
        outs = [prog(piece, last=n == len(pieces) - 1) for n, piece in enumerate(pieces)]
        whole = model(video)
    assert relative_error(torch.cat([o for o in outs if o is not None], 2), whole) <= 1e-6


def test_exact_frames_are_those_that_are(page: ModuleType) -> None:
    """Under ``zero`` frames that are named exact are. Of the others some may be: a median may drop
    the one that is wrong."""
    model = page.Live().eval()
    prog = pgt_fx.transform(model, page.clip, future="zero")
    video = torch.randn(1, 3, 20, 16, 16)
    with torch.no_grad():
        outs = torch.cat([prog(piece, last=False) for piece in video.split(10, 2)], 2)
        whole = model(video)
    wrong = {n for n in range(20) if not torch.allclose(outs[:, :, n], whole[:, :, n], atol=1e-5)}
    exact = prog.exact_frames([10, 10])
    assert wrong <= {n for n, ok in enumerate(exact) if not ok} == {9, *range(10, 14)}


def test_the_doctor_knows_both(page: ModuleType) -> None:
    found = examine(page.Live().eval(), page.clip)
    assert found.verdict == "late" and found.picture is not None
    assert "running median k=5" in {box.note for box in found.picture.boxes.values()}


def test_a_kind_must_say_what_no_default_is_right_for() -> None:
    class Silent(Kind):
        layout = plain([1])

    with pytest.raises(TypeError, match=r"clock.*emit.*reads.*touched.*verdict"):
        Silent()  # type: ignore[abstract]


def _kinds(of: type[Kind] = Kind) -> Iterator[type[Kind]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)


def test_nobody_asks_which_kind_an_operator_is() -> None:
    """What depends on the kind is a method of its class: a question elsewhere would have to be
    answered again for each new kind."""
    names = {kind.__name__ for kind in _kinds() if kind.__module__.startswith("pgt_fx.")}
    assert len(names) == 9
    root = Path(pgt_fx.__file__).parent
    files = [f for f in root.rglob("*.py") if root / "rules/kinds" not in f.parents]
    asked = [
        f"{file.relative_to(root)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass")
        for name in ast.walk(node.args[1])
        if isinstance(name, (ast.Name, ast.Attribute)) and ast.unparse(name).split(".")[-1] in names
    ]
    assert not asked

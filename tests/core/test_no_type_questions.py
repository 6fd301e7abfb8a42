"""Laws, clocks and items of a plan answer for themselves: no code asks which one it has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgt_fx
from pgt_fx.core import laws  # noqa: F401  (defines the subclasses of Law)
from pgt_fx.core.clocks import Clock
from pgt_fx.core.law import Law
from pgt_fx.rules import Kind
from pgt_fx.runtime.plan_items import Item
from pgt_fx.runtime.work import Work


def below(kind: type) -> set[str]:
    """Names of a class and of all that derive from it."""
    return {kind.__name__}.union(*(below(one) for one in kind.__subclasses__()))


def asked(source: str) -> Iterator[str]:
    """Names of the classes that a source asks ``isinstance`` for, or matches by ``case``."""
    for node in ast.walk(ast.parse(source)):
        classes: ast.AST | None = None
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            classes = node.args[1]
        elif isinstance(node, ast.MatchClass):
            classes = node.cls
        for name in [] if classes is None else ast.walk(classes):
            if isinstance(name, ast.Name | ast.Attribute):
                yield name.id if isinstance(name, ast.Name) else name.attr


def test_the_question_is_found_where_it_is_asked() -> None:
    source = "isinstance(law, (Window, laws.Repeat))\nmatch clock:\n    case LawClock(): pass"
    assert set(asked(source)) >= {"Window", "Repeat", "LawClock"}


@pytest.mark.parametrize("kind", [Law, Clock, Item, Work, Kind], ids=lambda k: k.__name__)
def test_no_code_asks_which_one_it_has(kind: type) -> None:
    names, root = below(kind), Path(pgt_fx.__file__).parent
    assert len(names) > 3
    found = {
        str(file.relative_to(root)): here
        for file in root.rglob("*.py")
        if (here := names.intersection(asked(file.read_text())))
    }
    assert not found

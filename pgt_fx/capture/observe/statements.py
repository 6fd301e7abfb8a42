"""The statement around a line of the model: one that only makes a message, or a ``try``."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
from collections.abc import Iterator
from types import FrameType

#: Names of functions and methods that take a text for a person to read.
SAYING = frozenset(
    ("print", "warn", "warning", "debug", "info", "error", "exception", "critical", "log")
)

#: Names of functions of torch that take such a text after a condition, and what that is called.
ASSERTING = frozenset(
    ("_assert", *(f"_check{of}" for of in ("", "_value", "_index", "_type", "_not_implemented")))
)
CONDITION = ("cond", "condition")


def only_said(frame: FrameType) -> bool:
    """Whether what is calculated now is a message's: of an error, an assertion, a log, a print."""
    tree, at = _tree(frame.f_code.co_filename), _running(frame)
    if tree is None or at is None:
        return False
    found = list(_around(tree, *at))
    for number, node in enumerate(found):
        inside = found[number + 1 :]
        if any(isinstance(n, (ast.Lambda, ast.FunctionDef, ast.ClassDef)) for n in inside):
            continue  # what runs is inside of it
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Assert):
            return node.msg is not None and node.msg in inside
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            return name in SAYING or (name in ASSERTING and _is_message(node.value, inside[1:]))
    return False


def _is_message(call: ast.Call, inside: list[ast.AST]) -> bool:
    """Whether what runs inside of a call's brackets is another argument than its condition."""
    given = [k for k in call.keywords if k.arg in CONDITION]
    return bool(inside) and inside[0] not in (*call.args[:1], *given)


def handed_on(frame: FrameType, name: str) -> bool:
    """Whether an attribute that is read now is an argument of a call, and decides nothing."""
    tree, at = _tree(frame.f_code.co_filename), _running(frame)
    around = [] if tree is None or at is None else list(_around(tree, *at))
    for node, inner in itertools.pairwise(around):
        if isinstance(inner, ast.Attribute) and inner.attr == name:
            call = isinstance(node, ast.Call) and inner in node.args
            return call or isinstance(node, ast.keyword)
    return False


def caught(frame: FrameType) -> bool:
    """Whether an error of what is called now is caught on one of the lines around it, in its
    function, and the function goes on."""
    code = frame.f_code
    return bool(code.co_exceptiontable) and _caught(code.co_filename, frame.f_lineno)


@functools.lru_cache(maxsize=4096)
def _caught(file: str, line: int) -> bool:
    tree = _tree(file)
    if tree is None:
        return True  # without its source it is not known what the function catches
    around = list(_around(tree, line, None))
    functions = [n for n, node in enumerate(around) if isinstance(node, _FUNCTIONS)]
    for node in around[max(functions, default=0) :]:
        if isinstance(node, (ast.Try, ast.TryStar)):
            goes_on = [h for h in node.handlers if not isinstance(h.body[-1], ast.Raise)]
            if goes_on and any(n.lineno <= line <= (n.end_lineno or 0) for n in node.body):
                return True
        if isinstance(node, ast.With):
            calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
            if any(ast.unparse(call.func).endswith("suppress") for call in calls):
                return True
    return False


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _around(tree: ast.AST, line: int, column: int | None) -> Iterator[ast.AST]:
    """The nodes that a place is inside of, outermost first."""
    for node in ast.iter_child_nodes(tree):
        first, last = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
        if first is None or last is None:
            yield from _around(node, line, column)  # arguments, an item of a with
            continue
        begins = (first, getattr(node, "col_offset", 0))
        ends = (last, getattr(node, "end_col_offset", 0))
        here = begins[0] <= line <= ends[0]
        if here and (column is None or begins <= (line, column) < ends):
            yield node
            yield from _around(node, line, column)


def _running(frame: FrameType) -> tuple[int, int] | None:
    """Line and column of what a frame runs now; None where Python was run without them."""
    for number, (line, _, column, _) in enumerate(frame.f_code.co_positions()):
        if number == frame.f_lasti // 2:
            return None if line is None or column is None else (line, column)
    return None


def _tree(file: str) -> ast.AST | None:
    """What a file says; None where there is none."""
    text = "".join(linecache.getlines(file))
    return _parsed(text) if text else None


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> ast.AST | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None

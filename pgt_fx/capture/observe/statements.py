"""The statement around a line of the model: one that only makes a message, or a ``try``."""

from __future__ import annotations

import ast
import dis
import functools
import itertools
import linecache
from collections.abc import Iterator
from types import FrameType
from typing import Any

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


def answer_without_error(frame: FrameType, whole: bool) -> bool | None:
    """What a question that is asked now has to be answered for the statement around it not to raise
    an error; None where it is no part of a statement that does nothing else.

    ``if (std == 0).any(): raise …`` and ``assert x.isfinite().all()`` are such: what they ask
    decides whether there is an answer, and not which.

    Args:
        whole: whether the call is the question itself, as ``torch.equal(a, b)`` is; else it is what
            Python asks of its result.
    """
    tree, asking = _tree(frame.f_code.co_filename), _asking(frame, whole)
    if tree is None or asking is None:
        return None
    for node in reversed(list(_around(tree, asking[0], asking[2]))):
        if isinstance(node, _FUNCTIONS):
            return None
        if isinstance(node, ast.Assert) or (isinstance(node, ast.If) and _only_raises(node.body)):
            wanted = isinstance(node, ast.Assert)
            for part, answer in _parts(node.test, wanted):
                if _span(part) == asking and (whole or not _is_call_of(part, _CHOOSING)):
                    return answer
    return None


#: Calls of Python's own that ask the truth of what they are given, and more is true the more of it
#: is; and those whose result is one of their operands.
_TRUTH, _CHOOSING = frozenset(("bool", "any", "all")), frozenset(("max", "min", "sorted", "next"))


def _asking(frame: FrameType, whole: bool) -> tuple[int, int, int, int] | None:
    """Where the expression stands whose truth is asked now: first and last line, first and last
    column."""
    code, at = frame.f_code, frame.f_lasti // 2
    places = list(code.co_positions())
    name = dis.opname[code.co_code[2 * at]]
    if name.startswith(("CALL", "PRECALL")):  # Python runs the two of a call as one when it is warm
        if not whole and not _calls_for_truth(frame, places[at]):
            return None
    elif whole or not (("JUMP" in name and "_IF_" in name) or name == "TO_BOOL"):
        return None
    else:  # the instruction before it has made what is asked for
        at -= 1
        while at > 0 and dis.opname[code.co_code[2 * at]] in ("CACHE", "NOP", "COPY", "TO_BOOL"):
            at -= 1
    found = places[at]
    return None if None in found else found  # type: ignore[return-value]


def _calls_for_truth(frame: FrameType, place: tuple[int | None, ...]) -> bool:
    tree = _tree(frame.f_code.co_filename)
    if tree is None or None in place:
        return False
    around = _around(tree, place[0], place[2])  # type: ignore[arg-type]
    return any(_span(node) == place and _is_call_of(node, _TRUTH) for node in around)


def _is_call_of(node: ast.AST, names: frozenset[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _span(node: Any) -> tuple[int, int, int, int]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _parts(test: ast.expr, wanted: bool) -> Iterator[tuple[ast.expr, bool]]:
    """The parts of a test that ``and``, ``or`` and ``not`` join, each with the answer that makes it
    more of what is wanted."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _parts(value, wanted)
    elif isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield from _parts(test.operand, not wanted)
    else:
        yield test, wanted


def _only_raises(body: list[ast.stmt]) -> bool:
    """Whether a block ends in an error, and in nothing else."""
    *before, last = body
    simple = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Pass)
    awaits = (ast.Yield, ast.YieldFrom, ast.Await)
    inside = [n for statement in body for n in ast.walk(statement)]
    return (
        isinstance(last, ast.Raise)
        and all(isinstance(statement, simple) for statement in before)
        and not any(isinstance(n, awaits) for n in inside)
    )


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

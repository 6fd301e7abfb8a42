"""ATen operators on entries that are followed by cases (:mod:`pgt_fx.core.entries.cases`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pgt_fx.core.entries.cases import (
    ANY,
    FALSE,
    FINITE,
    LEAST,
    TRUE,
    Case,
    Cases,
    Entries,
    Form,
    Infinite,
    Value,
    hides,
    number,
    ordinary,
)

#: Gives the cases of an argument: of a tensor or a number.
Get = Callable[[Any], Cases]
COMPARED = {
    **{name: name for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{"less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne"},
}
SAME = {
    *("clone", "contiguous", "detach", "alias", "lift_fresh", "lift_fresh_copy", "positive"),
    *("to", "_to_copy", "float", "half", "double", "bool", "int", "long", "type_as", "copy"),
}
#: Bounded or growing no faster than their operand: of an ordinary number they make one.
TAME = {
    *("relu", "hardtanh", "sigmoid", "gelu", "silu", "tanh", "softplus", "sin", "cos", "erf"),
    *("atan", "atan2", "frac", "sign", "sgn", "square", "exp", "exp2", "hypot", "logaddexp"),
    *("fmod", "lerp", "expm1", "heaviside", "copysign"),
}
#: What stays one of these numbers at these numbers.
POINTS: dict[str, dict[float, float]] = {
    "exp": {-math.inf: 0.0, 0.0: 1.0},
    "exp2": {-math.inf: 0.0, 0.0: 1.0, 1.0: 2.0},
    "log": {0.0: -math.inf, 1.0: 0.0},
    "log2": {0.0: -math.inf, 1.0: 0.0},
    "log10": {0.0: -math.inf, 1.0: 0.0},
    "log1p": {-1.0: -math.inf, 0.0: 0.0},
    "relu": {-math.inf: 0.0, 0.0: 0.0, 1.0: 1.0},
    "square": {0.0: 0.0, 1.0: 1.0, -1.0: 1.0},
    "sqrt": {0.0: 0.0, 1.0: 1.0},
    "reciprocal": {1.0: 1.0, -1.0: -1.0},
    "sign": {0.0: 0.0, 1.0: 1.0, -1.0: -1.0, -math.inf: -1.0},
    "tanh": {0.0: 0.0, -math.inf: -1.0},
    "sigmoid": {-math.inf: 0.0},
}
NARROW = (torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16)


def operate(entries: Entries, name: str, args: dict[str, Any], get: Get, dtype: Any) -> Cases:
    """What an elementwise operator makes of the entries of its operands.

    Args:
        name: of the operator, without namespace.
        args: by the names of its schema.
        get: gives the cases of one of them.
        dtype: of the result.
    """
    found = _operate(entries, name, args, get, dtype)
    return held(entries, found, dtype)


def held(entries: Entries, cases: Cases, dtype: Any) -> Cases:
    """Cases as a tensor of a type holds them."""
    if dtype is torch.bool:
        return entries.truth(cases)
    return entries.each([cases], lambda x: iter([Case((), _held(x, dtype))]))


def _held(x: Value, dtype: Any) -> Value:
    """A value as a tensor of a type holds it: in few bits positions are rounded or wrap around."""
    if not isinstance(x, Form) or dtype not in NARROW:
        return x
    if x.linear.terms:
        return FINITE
    value = x.linear.constant
    if dtype.is_floating_point:
        if value <= torch.finfo(dtype).min:
            return number(-float(LEAST) * 10)
        return x if abs(value) <= 256 and value.denominator == 1 else FINITE
    limits = torch.iinfo(dtype)
    return x if limits.min <= value <= limits.max else FINITE


def _operate(entries: Entries, name: str, args: dict[str, Any], get: Get, dtype: Any) -> Cases:
    def operand(key: str) -> Cases:
        return get(args[key])

    first = "self" if "self" in args else "input"
    floats = bool(dtype.is_floating_point)
    if name in COMPARED:
        return entries.compared(COMPARED[name], operand("self"), operand("other"))
    if name in ("logical_and", "logical_or", "logical_not", "logical_xor"):
        return _logical(entries, name, operand)
    if name.strip("_") in ("and", "or", "xor", "lshift", "rshift") or name.startswith("bitwise_"):
        return _bits(entries, name, operand, dtype)
    if name == "where":
        return entries.chosen(operand("condition"), operand("self"), operand("other"))
    if name == "masked_fill":
        return entries.chosen(operand("mask"), operand("value"), operand("self"))
    if name in ("add", "sub", "subtract"):
        factor = _scalar(get(args.get("alpha", 1)))
        if dtype is torch.bool:
            return entries.either(operand("self"), operand("other"))
        if factor is None:
            return [Case((), ANY)]
        back = factor if name == "add" else _negative(factor)
        return entries.plus(operand("self"), operand("other"), back, floats=floats)
    if name == "rsub":
        if args.get("alpha", 1) != 1:
            return [Case((), ANY)]
        return entries.plus(operand("other"), operand("self"), number(-1), floats=floats)
    if name in ("mul", "multiply"):
        if dtype is torch.bool:
            return entries.both(operand("self"), operand("other"))
        return entries.times(operand("self"), operand("other"), floats=floats)
    if name in ("div", "divide", "true_divide"):
        mode = args.get("rounding_mode")
        if mode is None:
            return entries.over(operand("self"), operand("other"))
        return entries.floored(operand("self"), str(mode), divisor=operand("other"))
    if name == "floor_divide":
        return entries.floored(operand("self"), divisor=operand("other"))
    if name == "remainder":
        return entries.remainder(operand("self"), operand("other"))
    if name in ("floor", "ceil", "trunc", "round"):
        plain = not args.get("decimals")
        return entries.floored(operand("self"), name) if plain else [Case((), ANY)]
    if name == "neg":
        return entries.times(operand("self"), [Case((), number(-1))], floats=floats)
    if name == "abs":
        return entries.absolute(operand("self"))
    if name in ("maximum", "max", "fmax"):
        return entries.larger(operand("self"), operand("other"))
    if name in ("minimum", "min", "fmin"):
        return entries.smaller(operand("self"), operand("other"))
    if name in ("clamp", "clamp_min", "clamp_max"):
        out = operand("self")
        if args.get("min") is not None:
            out = entries.larger(out, operand("min"))
        return out if args.get("max") is None else entries.smaller(out, operand("max"))
    if name in SAME:
        out = get(args["src"]) if name == "copy" else get(args[first])
        whole = not floats and dtype is not torch.bool
        return entries.floored(out, "trunc") if whole else out
    if name in ("zeros_like", "ones_like", "zero"):
        return [Case((), TRUE if name == "ones_like" else FALSE)]
    if name in ("full_like", "fill"):
        return operand("fill_value" if name == "full_like" else "value")
    if name in ("isinf", "isneginf", "isposinf"):
        return entries.infinite(operand("self"), {"isneginf": -1, "isposinf": 1}.get(name, 0))
    if name == "isfinite":
        return entries.negated(entries.infinite(operand("self")))
    if name == "isnan":
        return entries.each([operand("self")], _is_nan)
    if name == "nan_to_num":
        return entries.each([operand("self")], lambda x: _no_nan(x, args, dtype))
    return _of_points(entries, name, [get(a) for a in args.values() if _is_operand(a)])


def _logical(entries: Entries, name: str, operand: Callable[[str], Cases]) -> Cases:
    a = entries.truth(operand("self"))
    if name.endswith("not"):
        return entries.negated(a)
    b = entries.truth(operand("other"))
    if name.endswith("and"):
        return entries.both(a, b)
    return entries.either(a, b) if name.endswith("_or") else entries.compared("ne", a, b)


def _bits(entries: Entries, name: str, operand: Callable[[str], Cases], dtype: Any) -> Cases:
    """Bitwise operators: of truths the logical ones; ``& (2^k - 1)`` is a remainder."""
    plain = name.strip("_").removeprefix("bitwise_")
    if dtype is torch.bool:
        return _logical(entries, f"logical_{plain}", operand)
    if plain == "not":  # -x - 1
        return entries.plus([Case((), number(-1))], operand("self"), number(-1), floats=False)
    if plain == "and":
        for key, other in (("other", "self"), ("self", "other")):
            k = _scalar(operand(key))
            bits = k.constant if isinstance(k, Form) else None
            if bits and bits > 0 and not (int(bits) & (int(bits) + 1)):
                return entries.remainder(operand(other), [Case((), number(bits + 1))])
    k = _scalar(operand("other")) if plain in ("rshift", "right_shift") else None
    if isinstance(k, Form) and k.constant is not None and 0 <= k.constant < 32:
        return entries.floored(operand("self"), divisor=[Case((), number(2 ** int(k.constant)))])
    return [Case((), FINITE)]


def _is_operand(argument: Any) -> bool:
    return isinstance(argument, (torch.fx.Node, float)) or type(argument) is int


def _scalar(cases: Cases) -> Value | None:
    """The value of what is the same number everywhere."""
    return cases[0].value if len(cases) == 1 and not cases[0].given else None


def _negative(x: Value) -> Value:
    if isinstance(x, Form):
        return Form(-x.linear, x.error)
    return Infinite(-x.sign) if isinstance(x, Infinite) else x


def _is_nan(x: Value) -> Any:
    yield Case((), FINITE if x == ANY else FALSE)


def _no_nan(x: Value, args: dict[str, Any], dtype: Any) -> Any:
    if isinstance(x, Infinite):
        given = args.get("neginf" if x.sign < 0 else "posinf")
        least = torch.finfo(dtype)
        yield Case((), number(float(given if given is not None else x.sign * least.max)))
    else:
        yield Case((), x)


def _of_points(entries: Entries, name: str, operands: list[Cases]) -> Cases:
    """Functions that are known at a few numbers, and otherwise to give ordinary ones or any."""

    def ask(*values: Value) -> Any:
        points = POINTS.get(name, {})
        if len(values) == 1:
            (x,) = values
            known = x.constant if isinstance(x, Form) else None
            at = None if known is None else float(known)
            at = -math.inf if isinstance(x, Infinite) and x.sign < 0 else at
            if at in points:
                yield Case((), number(points[at]))
                return
            if name in ("exp", "exp2", "sigmoid", "relu") and hides(x):
                yield Case((), FALSE)
                return
        fine = name in TAME and all(map(ordinary, values))
        yield Case((), FINITE if fine else ANY)

    return entries.each(operands, ask)

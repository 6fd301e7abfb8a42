"""Lines of the user's model: which call failed, which one fixed the number of frames."""

from __future__ import annotations

import io
import linecache
import os
import re
import sys
import tokenize
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import MethodWrapperType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.fx.proxy
from torch import Tensor, nn
from torch.fx.experimental.sym_node import SymNode
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx.capture.running import on_inside
from pgt_fx.errors import Place

_PACKAGES = tuple(os.path.dirname(f) + os.sep for f in (torch.__file__, pgt_fx.__file__))
#: Of this package's files those in which models are written: the zoo, and the random graphs.
_MODELS = tuple(
    os.path.join(os.path.dirname(pgt_fx.__file__), *path)
    for path in (("zoo", ""), ("testing", "modules.py"), ("testing", "graphs.py"))
)


#: Lines over which a call is followed when it is quoted.
_LINES = 8


def is_ours(path: str) -> bool:
    """Whether a source file is torch's or this package's, and so no part of a model."""
    return path.startswith(_PACKAGES) and not path.startswith(_MODELS)


def short(path: str) -> str:
    """The last two parts of a path: it is the user who knows where their files are."""
    return "/".join(path.split(os.sep)[-2:])


def quoted(path: str, number: int) -> str:
    """A line of source; a call that goes on over several is quoted as if it stood in one, without
    the comments between."""
    first = linecache.getline(path, number).strip()
    lines = [first]
    while first and _open("\n".join(lines)) > 0:
        following = linecache.getline(path, number + len(lines))
        if not following or len(lines) == _LINES:
            return f"{first} …"
        lines.append(following.strip())
    if len(lines) == 1:
        return first
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    text = " ".join(line for line in bare if line)
    return re.sub(r",? ([)\]}])", r"\1", re.sub(r"([(\[{]) ", r"\1", text))


def _open(text: str) -> int:
    """How many brackets are open at the end of a text; those in strings don't count."""
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            depth += (token.string in "([{") - (token.string in ")]}") if token.string else 0
    except (tokenize.TokenError, SyntaxError):  # it ends inside of brackets, or is cut out of more
        pass
    return depth


def calling_place(func: Any, module: str = "") -> Place:
    """Where the innermost line of the user's own that is running now stands."""
    name = resolve_name(func) or getattr(func, "__name__", str(func))
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if not _ours(path):
            line = quoted(path, frame.f_lineno)
            return Place(name, module, f"{short(path)}:{frame.f_lineno}", line)
        frame = frame.f_back  # type: ignore[assignment]
    return Place(name, module)


def place_of(error: BaseException | None) -> Place | None:
    """Where an error was raised, if :class:`Lines` saw it."""
    return getattr(error, "pgt_place", None)


def draws_alone(error: BaseException) -> bool:
    """Whether the call in which an error was raised was given a generator of random numbers."""
    return getattr(error, "pgt_generator", None) is not None


def raised_at(error: BaseException) -> str:
    """The innermost line of the user's own on which an error was raised, "" where there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _ours(f.filename)]
    return at_frame(frames[-1]) if frames else ""


def at_frame(frame: traceback.FrameSummary) -> str:
    """The file, the number and the text of a frame's line."""
    number = frame.lineno or 0
    return f"{short(frame.filename)}:{number}: {quoted(frame.filename, number) or frame.line}"


def _ours(path: str) -> bool:
    return is_ours(path) or path == "<string>"  # torch makes code of its own


class Lines(TorchFunctionMode):
    """Notes the call in which an error is raised, and the first call after which a size that was
    symbolic is a number.

    Args:
        spelling: makes the calls, ``spelling(func, args, kwargs)``; None: as they are. One mode
            does both, as most of its time goes into entering it for each call.

    Attributes:
        fixed: that call; None while all watched sizes are symbolic.
        types_read: whether the model has read the type of a tensor.
    """

    def __init__(self, spelling: Callable[[Any, Any, dict[str, Any]], Any] | None = None) -> None:
        super().__init__()
        self.spelling = spelling or _as_it_is
        self.watched: list[Any] = []
        self.fixed: Place | None = None
        self.types_read = False

    def watch(self, sizes: list[Any]) -> None:
        """Sizes to look at; numbers among them are no news."""
        self.watched = [s for s in sizes if isinstance(s, torch.SymInt) and not _is_number(s)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if type(func) is MethodWrapperType:  # reads an attribute, as nine calls of ten do
            if func.__self__ is torch.Tensor.dtype and not self.types_read:
                self.types_read = not _ours(sys._getframe(1).f_code.co_filename)
            return func(*args, **(kwargs or {}))
        try:
            out = self.spelling(func, args, kwargs or {})
        except Exception as error:
            self._look(func)
            if place_of(error) is None:
                error.pgt_place = calling_place(func)  # type: ignore[attr-defined]
                error.pgt_generator = (kwargs or {}).get("generator")  # type: ignore[attr-defined]
            raise
        # Python between two calls may have fixed it: then it is the line of the call behind it.
        self._look(func)
        return out

    def _look(self, func: Any) -> None:
        if self.watched and self.fixed is None and any(map(_is_number, self.watched)):
            self.fixed = calling_place(func)


def _as_it_is(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _is_number(size: torch.SymInt) -> bool:
    return not size.node.expr.free_symbols


@contextmanager
def watching(
    model: nn.Module,
    times: tuple[int | None, ...],
    spelling: Callable[[Any, Any, dict[str, Any]], Any] | None = None,
    modules: Collection[nn.Module] | None = None,
) -> Iterator[Lines]:
    """:class:`Lines` over a capture of ``model``, watching the time axes of its inputs; with
    ``modules`` inside these alone: over all calls it costs a capture a fifth."""
    lines = Lines(spelling)

    def entered(module: nn.Module, args: Any, kwargs: Any) -> None:
        if not lines.watched:
            flat = pytree.tree_leaves((args, kwargs))
            pairs = zip(flat, times, strict=False)
            lines.watch([x.shape[t] for x, t in pairs if isinstance(x, Tensor) and t is not None])

    handle = model.register_forward_pre_hook(entered, with_kwargs=True)
    try:
        with (
            _all_frames(),
            _numbers_noted(),
            lines if modules is None else on_inside(lines, modules),
        ):
            yield lines
    finally:
        handle.remove()


#: Shape environment of a capture -> size -> the line of the model where torch took a number for it.
_NUMBERS: WeakKeyDictionary[Any, dict[Any, Place]] = WeakKeyDictionary()


def taken_as_number(env: Any) -> dict[Any, Place]:
    """Sizes for which torch took their number in the capture, as an operator's argument has to be
    one (the kernel of a pool, the scale of an attention), and the lines of the model."""
    return _NUMBERS.get(env, {})


@contextmanager
def _numbers_noted() -> Iterator[None]:
    plain = SymNode.guard_int, SymNode.guard_float

    def note(node: Any) -> None:
        if getattr(node.expr, "free_symbols", None):
            _NUMBERS.setdefault(node.shape_env, {}).setdefault(node.expr, calling_place(int))

    def guard_int(self: Any, file: str, line: int) -> int:
        note(self)
        return plain[0](self, file, line)

    def guard_float(self: Any, file: str, line: int) -> float:
        note(self)
        return plain[1](self, file, line)

    SymNode.guard_int, SymNode.guard_float = guard_int, guard_float  # type: ignore[method-assign]
    try:
        yield
    finally:
        SymNode.guard_int, SymNode.guard_float = plain  # type: ignore[method-assign]


@contextmanager
def _all_frames() -> Iterator[None]:
    """Let the graph's stack traces keep the user's helper functions: torch keeps the frames of
    functions called ``forward`` alone, and the line that matters is often in another one."""
    tracer = torch.fx.proxy.TracerBase
    original = getattr(tracer, "_filter_traceback_frames", None)
    if original is None:  # a torch that filters elsewhere: its own frames will do
        yield
        return

    def frames(self: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        names = [frame.name for frame in summary]
        if "forward" not in names:
            return original(self, summary)
        inner = list(summary)[names.index("forward") :]
        kept = [f for f in inner if f.name == "forward" or not is_ours(f.filename)]
        return traceback.StackSummary.from_list(kept)

    tracer._filter_traceback_frames = frames  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        tracer._filter_traceback_frames = original  # type: ignore[method-assign]

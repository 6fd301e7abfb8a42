"""Lines of the user's model: the innermost one on the stack, its place and its text."""

from __future__ import annotations

import io
import linecache
import os
import re
import sys
import sysconfig
import tokenize
import traceback
from collections.abc import Sequence
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch.overrides import resolve_name

from pgt_fx.capture.replacing import caller
from pgt_fx.core.errors import Place
from pgt_fx.core.torch_private import SymNode, assert_condition, expect_true

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_PACKAGES = (os.path.dirname(torch.__file__) + os.sep, _OURS + os.sep)
#: Of this package's files those in which models are written: the zoo, and the random graphs.
_MODELS = tuple(
    os.path.join(_OURS, *path)
    for path in (("zoo", ""), ("testing", "fuzz", "modules.py"), ("testing", "fuzz", "graphs.py"))
)
_INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\]([^/\\]+)")
_STANDARD = sysconfig.get_path("stdlib") + os.sep

#: Lines over which a call is followed when it is quoted.
_LINES = 8


@cache  # asked for each size that torch makes in a capture, of a few thousand files
def is_ours(path: str) -> bool:
    """Whether a source file is torch's or this package's, and so no part of a model."""
    return path.startswith(_PACKAGES) and not path.startswith(_MODELS)


@cache
def library(path: str) -> str:
    """The package that is installed, or "python" for one of Python's own, in which a source file
    stands; "" for one of the user's own."""
    installed = _INSTALLED.match(path)
    if installed is not None:
        return installed[1]
    return "python" if path.startswith(("<frozen", _STANDARD)) else ""


def innermost(frames: Sequence[tuple[str, str]]) -> int | None:
    """Which frame is the innermost line of the model's own; None where there is none.

    A package that this line calls (einops) is passed over. A module of a package is a model all
    the same: it is torch that calls its forward.

    Args:
        frames: files and names of functions, innermost first.
    """
    run: list[int] = []
    for number, (file, name) in enumerate(frames):
        ours = is_ours_or_generated(file)
        run += [] if ours else [number]
        if run and (ours or name == "forward" or number == len(frames) - 1):
            homes = [library(frames[n][0]) for n in run]
            outermost = next((home for home in reversed(homes) if home != "python"), None)
            if outermost is not None:
                return run[homes.index("" if "" in homes else outermost)]
            run = []
    return None


def model_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the model's own among those around a frame, itself included."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    number = innermost([(f.f_code.co_filename, f.f_code.co_name) for f in frames])
    return None if number is None else frames[number]


#: Where the numbers and the texts of sizes are made.
_OF_SIZES = {
    torch.__file__,
    expect_true.__code__.co_filename,
    SymNode.int_.__code__.co_filename,
    caller.__code__.co_filename,
    os.path.join(os.path.dirname(__file__), "size_questions.py"),
}
#: Parts of Python that show a text to a person, and make nothing else of it.
_SHOWING = ("logging", "warnings", "traceback")


def outside_of_sizes(frame: FrameType | None) -> FrameType | None:
    """The frame that calls what makes numbers and texts of sizes, or asserts something of them."""
    while frame is not None and frame.f_code.co_filename in _OF_SIZES:
        if frame.f_code is assert_condition.__code__:
            frame = _model_call_of(frame)
        frame = frame.f_back  # bool(size) asks whether it is 0
    return frame


def _model_call_of(frame: FrameType) -> FrameType:
    """The outermost frame of the same function of torch that only torch's own lie between: under a
    mode a function is called by the model, handed to the mode, and called once more by it."""
    around = frame.f_back
    while around is not None and is_ours(around.f_code.co_filename):
        if around.f_code is frame.f_code:
            frame = around
        around = around.f_back
    return frame


def asking_frame(frame: FrameType | None) -> FrameType | None:
    """The frame of the model in which something is asked of a size.

    Args:
        frame: in which it is asked.

    Returns:
        None where torch asks, or what shows a text to a person.
    """
    frame = outside_of_sizes(frame)
    around = frame
    while around is not None and library(around.f_code.co_filename) == "python":
        if around.f_globals.get("__name__", "").partition(".")[0] in _SHOWING:
            return None
        around = around.f_back
    if around is None or is_ours(around.f_code.co_filename):
        return None
    return model_frame(frame)


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
    resolved = None if isinstance(func, type) else resolve_name(func)  # a type is none of torch's
    name = str(resolved or getattr(func, "__name__", func))
    frame = model_frame(sys._getframe(1))
    return Place(name, module, *written_at(frame)) if frame is not None else Place(name, module)


def written_at(frame: FrameType) -> tuple[str, str]:
    """``("file.py:123", "the text of that line")``."""
    path = frame.f_code.co_filename
    return f"{short(path)}:{frame.f_lineno}", quoted(path, frame.f_lineno)


def raised_at(error: BaseException) -> str:
    """The innermost line of the user's own on which an error was raised, "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    number = innermost([(f.filename, f.name) for f in frames])
    return "" if number is None else at_frame(frames[number])


def at_frame(frame: traceback.FrameSummary) -> str:
    """The file, the number and the text of a frame's line."""
    number = frame.lineno or 0
    return f"{short(frame.filename)}:{number}: {quoted(frame.filename, number) or frame.line}"


def is_ours_or_generated(path: str) -> bool:
    """:func:`is_ours`, or code that torch generates and that no file holds."""
    return is_ours(path) or path.startswith(("<string>", "<eval_with_key>"))

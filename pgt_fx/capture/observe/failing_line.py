"""Lines of the user's model: which call failed, which one fixed the number of frames."""

from __future__ import annotations

import io
import linecache
import os
import re
import sys
import sysconfig
import tokenize
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, MethodWrapperType
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from pgt_fx.capture.observe.active_modules import on_inside
from pgt_fx.capture.observe.statements import caught, handed_on, only_said
from pgt_fx.capture.replacing import caller
from pgt_fx.capture.torch_patches import FLOATS, FRAMES, INTEGERS
from pgt_fx.core.errors import Place, annotate
from pgt_fx.core.torch_private import SymNode, expect_true, pytree, size_key

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


def is_ours(path: str) -> bool:
    """Whether a source file is torch's or this package's, and so no part of a model."""
    return path.startswith(_PACKAGES) and not path.startswith(_MODELS)


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
        ours = _ours(file)
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


#: Where the numbers and the texts of sizes are made, and where conditions are asserted.
_OF_SIZES = {
    torch.__file__,
    expect_true.__code__.co_filename,
    SymNode.int_.__code__.co_filename,
    caller.__code__.co_filename,
    os.path.join(os.path.dirname(__file__), "size_questions.py"),
}
#: Parts of Python that show a text to a person, and make nothing else of it.
_SHOWING = ("logging", "warnings", "traceback")


def _behind_sizes(frame: FrameType | None) -> FrameType | None:
    """The frame that calls what makes numbers and texts of sizes, or asserts something of them."""
    while frame is not None and frame.f_code.co_filename in _OF_SIZES:
        if frame.f_code is torch._assert.__code__:
            frame = _given_by(frame)
        frame = frame.f_back  # bool(size) asks whether it is 0
    return frame


def _given_by(frame: FrameType) -> FrameType:
    """The frame of a function of torch that was called by the model, where it is a mode, to which
    that call was handed on, that calls it once more."""
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
    frame = _behind_sizes(frame)
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


def place_of(error: BaseException | None) -> Place | None:
    """Where an error was raised, if :class:`Lines` saw it."""
    return getattr(error, "pgt_place", None)


def draws_alone(error: BaseException) -> bool:
    """Whether the call in which an error was raised was given a generator of random numbers."""
    return getattr(error, "pgt_generator", None) is not None


def raised_at(error: BaseException) -> str:
    """The innermost line of the user's own on which an error was raised, "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    number = innermost([(f.filename, f.name) for f in frames])
    return "" if number is None else at_frame(frames[number])


def at_frame(frame: traceback.FrameSummary) -> str:
    """The file, the number and the text of a frame's line."""
    number = frame.lineno or 0
    return f"{short(frame.filename)}:{number}: {quoted(frame.filename, number) or frame.line}"


def _ours(path: str) -> bool:
    return is_ours(path) or path.startswith(("<string>", "<eval_with_key>"))  # torch's own code


#: Questions for the type of a tensor: it is that of the weights, but for what autocast makes.
TYPES = "dtype"
#: For what of a tensor has or gets a gradient; for where it is; for how it lies in memory.
GRADIENTS, DEVICES, LAYOUTS = "requires_grad", "device", "is_contiguous"
#: For what is another thing in a step than in the model, or in each run of either.
INFERENCE = "is_inference"


def _reads(*names: str) -> list[Any]:
    """Attributes and methods of tensors, and functions of torch of the same name."""
    found = [getattr(home, name, None) for home in (Tensor, torch) for name in names]
    return [one for one in found if one is not None and not isinstance(one, type)]


_DEVICE: Any = Tensor.device
_READ: dict[Any, str] = {
    **dict.fromkeys(_reads("dtype", "itemsize", "nbytes", "is_floating_point"), TYPES),
    **dict.fromkeys(_reads("is_complex", "element_size", "result_type"), TYPES),
    **dict.fromkeys(
        _reads("is_leaf", "requires_grad", "grad_fn", "grad", "retains_grad"), GRADIENTS
    ),
    **dict.fromkeys(_reads("is_cuda", "is_cpu", "is_meta", "is_mps", "get_device"), DEVICES),
    **dict.fromkeys(_reads("is_contiguous", "stride", "storage_offset", "dim_order"), LAYOUTS),
    **dict.fromkeys(_reads("is_inference", "_version"), INFERENCE),
    Tensor.type: TYPES,
    _DEVICE: DEVICES,
}


class Lines(TorchFunctionMode):
    """Notes the call in which an error is raised, and the first call after which a size that was
    symbolic is a number.

    Args:
        spelling: makes the calls, ``spelling(func, args, kwargs)``; None: as they are. One mode
            does both, as most of its time goes into entering it for each call.

    Attributes:
        fixed: that call; None while all watched sizes are symbolic.
        read: what the model has asked its tensors for: :data:`TYPES`, :data:`GRADIENTS`,
            :data:`DEVICES`, :data:`LAYOUTS`, :data:`INFERENCE`; each with the line.
        layouts: the answers to ``is_contiguous()``, in order.
        tried: lines whose calls may fail: the model catches the error and goes on.
        caught: calls that failed; of a model that ran they are those whose errors it caught.
    """

    def __init__(self, spelling: Callable[[Any, Any, dict[str, Any]], Any] | None = None) -> None:
        super().__init__()
        self.spelling = spelling or _as_it_is
        self.watched: list[Any] = []
        self.fixed: Place | None = None
        self.read: dict[str, Place] = {}
        self.layouts: list[tuple[Place, bool]] = []
        self.tried: dict[tuple[str, str], None] = {}
        self.caught: list[tuple[Place, Exception]] = []
        self._known: dict[tuple[Any, int], tuple[str, str] | None] = {}
        self._handed_on: dict[tuple[Any, int], bool] = {}
        self._outer: FrameType | None = None

    def __enter__(self) -> Self:
        self._outer = sys._getframe(1)  # the run itself
        return super().__enter__()

    def watch(self, sizes: list[Any]) -> None:
        """Sizes to look at; numbers among them are no news."""
        self.watched = [s for s in sizes if isinstance(s, torch.SymInt) and not _is_number(s)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            torch.compiler.is_dynamo_compiling()
        ):  # which runs what it compiles in place of the model
            return func(*args, **(kwargs or {}))
        if type(func) is MethodWrapperType:  # reads an attribute, as nine calls of ten do
            self._note_read(func.__self__, func)
            return func(*args, **(kwargs or {}))
        if func in _READ:
            self._note_read(func, func)
        self._note_tried()
        try:
            out = self.spelling(func, args, kwargs or {})
        except Exception as error:
            self._look(func)
            self.caught.append((calling_place(func), error))
            if place_of(error) is None:
                generator = (kwargs or {}).get("generator")
                annotate(error, pgt_place=calling_place(func), pgt_generator=generator)
            raise
        if func is Tensor.is_contiguous and not _ours(sys._getframe(1).f_code.co_filename):
            self.layouts.append((calling_place(func), bool(out)))
        # Python between two calls may have fixed it: then it is the line of the call after it.
        self._look(func)
        return out

    def _note_read(self, descriptor: Any, func: Any) -> None:
        question = _READ.get(descriptor)
        if question is None or question in self.read:
            return
        frame = sys._getframe(2)
        if _ours(frame.f_code.co_filename):
            return
        if descriptor is _DEVICE:  # most often for another tensor to be made there
            at = frame.f_code, frame.f_lasti
            if at not in self._handed_on:
                self._handed_on[at] = handed_on(frame, "device")
            if self._handed_on[at]:
                return
        self.read[question] = calling_place(func)

    def _note_tried(self) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame is not self._outer:
            code, at = frame.f_code, frame.f_lineno
            if code.co_exceptiontable and not is_ours(code.co_filename):
                if (code, at) not in self._known:
                    self._known[code, at] = written_at(frame) if caught(frame) else None
                if (found := self._known[code, at]) is not None:
                    self.tried[found] = None
            frame = frame.f_back

    def _look(self, func: Any) -> None:
        fixed = [s for s in self.watched if _is_number(s)] if self.fixed is None else []
        if fixed:
            number = taken_as_number(fixed[0].node.shape_env).get(size_key(fixed[0]))
            self.fixed = number or calling_place(func)


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
            FRAMES.replaced(_all_frames),
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
    def note(node: Any) -> None:
        if getattr(node.expr, "free_symbols", None):
            _NUMBERS.setdefault(node.shape_env, {}).setdefault(node.expr, calling_place(int))

    def integers(plain: Callable[..., int]) -> Callable[..., int]:
        def guard_int(self: Any, file: str, line: int) -> int:
            if self.hint is not None and _shown(caller()):
                return int(self.hint)
            note(self)
            return plain(self, file, line)

        return guard_int

    def floats(plain: Callable[..., float]) -> Callable[..., float]:
        def guard_float(self: Any, file: str, line: int) -> float:
            note(self)
            return plain(self, file, line)

        return guard_float

    with INTEGERS.replaced(integers), FLOATS.replaced(floats):
        yield


def _shown(frame: FrameType) -> bool:
    """Whether ``int(size)`` is asked for by a message alone (``"%d frames" % size``).

    Torch asks for the model as well: ``ModuleList`` for the number of a layer, say.
    """
    if frame.f_code is not SymNode.int_.__code__:
        return False
    asking = asking_frame(frame)
    if asking is None:
        asking = _behind_sizes(frame)
        if asking is None or not is_ours(asking.f_code.co_filename):
            return True
    return only_said(asking)


def _all_frames(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the graph's stack traces keep the user's helper functions: torch keeps the frames of
    functions called ``forward`` alone, and the line that matters is often in another one."""

    def frames(self: Any, summary: traceback.StackSummary) -> traceback.StackSummary:
        names = [frame.name for frame in summary]
        if "forward" not in names:
            return original(self, summary)
        inner = list(summary)[names.index("forward") :]
        kept = [f for f in inner if f.name == "forward" or not is_ours(f.filename)]
        return traceback.StackSummary.from_list(kept)

    return frames

"""Which call of the user's model failed, and which one fixed the number of frames."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, MethodWrapperType
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pgt_fx.capture.observe.active_modules import on_inside
from pgt_fx.capture.observe.model_lines import (
    asking_frame,
    calling_place,
    is_ours,
    is_ours_or_generated,
    outside_of_sizes,
    written_at,
)
from pgt_fx.capture.observe.statements import (
    answer_without_error,
    caught,
    handed_on,
    only_said,
)
from pgt_fx.capture.replacing import caller
from pgt_fx.capture.torch_patches import FLOATS, FRAMES, INTEGERS
from pgt_fx.core.errors import Place, annotate
from pgt_fx.core.torch_private import SymNode, assert_condition, pytree, set_grad_enabled, size_key


def place_of(error: BaseException | None) -> Place | None:
    """Where an error was raised, if :class:`Lines` saw it."""
    return getattr(error, "pgt_place", None)


def draws_alone(error: BaseException) -> bool:
    """Whether the call in which an error was raised was given a generator of random numbers."""
    return getattr(error, "pgt_generator", None) is not None


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
#: What reads how large a tensor is, or counts the parts that it is cut into.
_SIZES = {
    Tensor.shape,
    *_reads("size", "numel", "nelement", "unbind", "split", "chunk", "tensor_split"),
    Tensor.__len__,
    Tensor.__iter__,
}
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


_DATA: Any = Tensor.data
_SWITCHES: Any = set_grad_enabled
#: Calls that ask something of values, and answer with a bool of Python's.
_ANSWERS = (torch.equal, torch.allclose, Tensor.equal, Tensor.allclose)


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
        inputs: the tensors that the model is given.
        sized: the first line on which it reads a size of another tensor.
        tried: lines whose calls may fail: the model catches the error and goes on.
        gradless: lines on which gradients are switched off inside a block of autocast, and whether
            it is on there.
        checks: checks of values that only raise an error, left out; each with what ``running``
            held.
        running: keys of the module calls that run, innermost last (:meth:`begin`).
        caught: calls that failed; of a model that ran they are those whose errors it caught.
    """

    def __init__(self, spelling: Callable[[Any, Any, dict[str, Any]], Any] | None = None) -> None:
        super().__init__()
        self.spelling = spelling or _as_it_is
        self.watched: list[Any] = []
        self.fixed: Place | None = None
        self.read: dict[str, Place] = {}
        self.layouts: list[tuple[Place, bool]] = []
        self.inputs: list[Any] = []
        self.sized: Place | None = None
        self.tried: dict[tuple[str, str], None] = {}
        self.caught: list[tuple[Place, Exception]] = []
        self.gradless: list[tuple[Place, bool]] = []
        self._nested = _autocasts()
        self.checks: list[tuple[Place, tuple[str, ...]]] = []
        self.running: Sequence[str] = ()
        self._known: dict[tuple[Any, int], tuple[str, str] | None] = {}
        self._handed_on: dict[tuple[Any, int], bool] = {}
        self._outer: FrameType | None = None

    def __enter__(self) -> Self:
        if self._outer is None:
            self._outer = sys._getframe(1)  # the run itself
        return super().__enter__()

    def begin(self, running: Sequence[str]) -> None:
        """The run begins in the frame that calls this.

        Args:
            running: keys of the module calls that run, innermost last; it is kept at them.
        """
        self._outer, self.running = sys._getframe(1), running

    def watch(self, sizes: list[Any]) -> None:
        """Sizes to look at; numbers among them are no news."""
        self.watched = [s for s in sizes if isinstance(s, torch.SymInt) and not _is_number(s)]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            torch.compiler.is_dynamo_compiling()
        ):  # which runs what it compiles in place of the model
            return func(*args, **(kwargs or {}))
        if type(func) is MethodWrapperType:  # reads an attribute, as nine calls of ten do
            if func.__self__ is _DATA and func.__name__ == "__get__" and self._of_the_model():
                self._note_call()
                return args[0].detach()  # the same values; .data, a capture can't follow
            self._note_read(func.__self__, func)
            self._note_size(func.__self__, func, args)
            return func(*args, **(kwargs or {}))
        if func is _SWITCHES and args[:1] == (False,) and _autocasts() > self._nested:
            on = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
            self.gradless.append((calling_place(torch.no_grad), on))
        if (answer := self._check_of_values(func, args)) is not None:
            return answer
        if func in _READ:
            self._note_read(func, func)
        self._note_size(func, func, args)
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
        if func is Tensor.is_contiguous and not is_ours_or_generated(
            sys._getframe(1).f_code.co_filename
        ):
            self.layouts.append((calling_place(func), bool(out)))
        # Python between two calls may have fixed it: then it is the line of the call after it.
        self._look(func)
        return out

    def _note_read(self, descriptor: Any, func: Any) -> None:
        question = _READ.get(descriptor)
        if question is None or question in self.read:
            return
        frame = sys._getframe(2)
        if is_ours_or_generated(frame.f_code.co_filename):
            return
        if descriptor is _DEVICE:  # most often for another tensor to be made there
            at = frame.f_code, frame.f_lasti
            if at not in self._handed_on:
                self._handed_on[at] = handed_on(frame, "device")
            if self._handed_on[at]:
                return
        self.read[question] = calling_place(func)

    def _note_size(self, descriptor: Any, func: Any, args: Any) -> None:
        if self.sized is not None or descriptor not in _SIZES:
            return
        if args and any(args[0] is given for given in self.inputs):
            return
        if not is_ours_or_generated(sys._getframe(2).f_code.co_filename):
            self.sized = calling_place(func)

    @staticmethod
    def _of_the_model() -> bool:
        return not is_ours_or_generated(_behind_modes(sys._getframe(2)).f_code.co_filename)

    def _note_call(self) -> None:
        """Have the capture see the calls of the module that runs."""
        note = getattr(self.spelling, "note", None)
        if note is not None:
            note()

    def _check_of_values(self, func: Any, args: Any) -> bool | None:
        """What a question about values is answered where the model only raises an error by it; None
        for any other call."""
        asserts = func is assert_condition and isinstance(args[0], Tensor)
        if not asserts and func is not Tensor.__bool__ and func not in _ANSWERS:
            return None
        frame = _behind_modes(sys._getframe(2))
        if asserts or frame.f_code is assert_condition.__code__:
            answer: bool | None = True
        elif is_ours_or_generated(frame.f_code.co_filename):
            return None
        else:
            answer = answer_without_error(frame, func in _ANSWERS)
        if answer is None or self._is_tried():
            return None
        self._note_call()
        self.checks.append((calling_place(func), tuple(self.running)))
        return answer

    def _is_tried(self) -> bool:
        """Whether the model catches an error that is raised now, and goes on."""
        frame: FrameType | None = sys._getframe(3)
        while frame is not None and frame is not self._outer:
            code = frame.f_code
            if code.co_exceptiontable and not is_ours(code.co_filename) and caught(frame):
                return True
            frame = frame.f_back
        return False

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


def _autocasts() -> int:
    """How many blocks of autocast are around, also of those that switch it off."""
    nested = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return nested


def _behind_modes(frame: FrameType) -> FrameType:
    """The frame that makes a call which modes of torch's own, on in a capture, hand on."""
    while (
        frame.f_code.co_name == "__torch_function__"
        and is_ours(frame.f_code.co_filename)
        and frame.f_back is not None
    ):
        frame = frame.f_back
    return frame


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
        asking = outside_of_sizes(frame)
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

"""The emitted module: a video model that is fed in successive steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.core.errors import ClipError, StateError
from pgt_fx.core.options import Changes, Options
from pgt_fx.core.schedule import Schedule, check_lengths
from pgt_fx.core.torch_private import pytree
from pgt_fx.core.trace import Trace
from pgt_fx.runtime.chunks import CLOCK, cut, lengths_of, moment
from pgt_fx.runtime.module_call import stepped
from pgt_fx.runtime.one_step import State, clock, run_step
from pgt_fx.runtime.print_code import listing
from pgt_fx.runtime.programs import Programs
from pgt_fx.runtime.shared_parameters import SHARED, SharedParameters
from pgt_fx.runtime.state_origin import Origin
from pgt_fx.runtime.tracing import refuse_tracing

if TYPE_CHECKING:
    from pgt_fx.compiler.guards import Guard
    from pgt_fx.compiler.inspect import Inspection
    from pgt_fx.compiler.report import Report


class Progressive(SharedParameters):
    """A video model that is fed a long video in successive steps; made by ``pgt_fx.transform``.

    Its parameters, buffers and ``state_dict`` keys are the original model's: they are shared.
    ``prog(*clip)`` is one step; the state is kept inside. The contract is in the project's
    design document: under ``future="wait"`` the outputs of all steps, put one after the other,
    are the original's; under ``future="zero"`` each step answers at once, and
    :meth:`exact_frames` says which outputs are the original's.
    """

    _state: State
    _origin: Origin | None
    _detach: bool | None

    def __init__(self, programs: Programs) -> None:
        super().__init__(programs)
        self.__dict__["_state"] = {}
        self.__dict__["_origin"] = None
        self.__dict__["_detach"] = None

    # -- one step ------------------------------------------------------------------------------

    if TYPE_CHECKING:
        # nn.Module says Any: type checkers would not see that an answer may be None.
        def __call__(self, *clip: Any, last: bool = False, **named: Any) -> Any | None: ...

    def forward(self, *clip: Any, last: bool = False, **named: Any) -> Any | None:
        """One progressive step; the state is kept inside.

        Args:
            clip: new frames, as the model takes a clip; any number of them, and with ``last`` none.
            last: whether the video ends with them.

        Returns:
            what the model returns, for the output elements that are due; None when none is.

        Raises:
            ClipError: for an empty chunk, or one unlike the example or the video so far; for a
                video that ends with paths of other lengths to one another than the example's.
            StateError: after the last step, until :meth:`reset`.
            TracedError: while an exporter or a tracer writes down what is done.

        Warns:
            StreamWarning: when a video goes on though the parameters or the mode have changed
                since its first step: probably :meth:`reset` was forgotten. Once for a stream.
        """
        refuse_tracing(clip, named)
        if self._detach is None and not torch.compiler.is_compiling():
            if self._origin is None or not self._state:
                self.__dict__["_origin"] = Origin(self._programs.model)
            else:
                self._origin.check(self._programs.model)
        detach = self._detach is not False
        out, state = self.step(self._state, *clip, last=last, detach=detach, **named)
        self.__dict__["_state"] = state
        return out

    def step(
        self,
        state: Mapping[str, Tensor],
        /,
        *clip: Any,
        last: bool = False,
        detach: bool = True,
        **named: Any,
    ) -> tuple[Any | None, State]:
        """One step as a pure function: ``(output, next state)``; see :meth:`forward`.

        Args:
            state: as returned by the last step, or by :meth:`init_state`; not written.
            detach: cut the next state from the autograd graph (truncated gradients).
        """
        refuse_tracing(clip, named)
        leaves = self._programs.spec.flatten(clip, named)
        return run_step(self._programs, state, leaves, last, detach)

    def flush(self) -> Any:
        """End the video without new frames, as a live one ends: what is still due.

        The same as a last step with an empty chunk, ``prog(video[:, :, :0], last=True)``, which a
        model with inputs beside its videos (boxes) needs, and ``step`` takes as well. Under
        ``future="wait"`` the outputs of all steps and this one are those of the model for the whole
        video; under ``future="zero"`` there is seldom anything left.

        Returns:
            what the model returns, for the output elements that are due; None when none is.

        Raises:
            StateError: when there was no frame, or the video has ended.
            ClipError: when the model takes no video of this length, or has other inputs.

        Example:
            >>> outputs = [prog(frames) for frames in camera]
            >>> outputs.append(prog.flush())
            >>> prog.reset()
        """
        sizes = self._state.get("clock.sizes", torch.empty(0)).tolist()
        if not sizes:
            raise StateError("no frame has come since reset(): there is nothing to flush")
        carried = next((x for name, x in self._state.items() if name not in CLOCK), None)
        leaves = self._programs.without_frames(sizes, None if carried is None else carried.device)
        args, kwargs = pytree.tree_unflatten(leaves, self._programs.spec.spec)
        return self(*args, last=True, **kwargs)

    # -- state ---------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state kept by :meth:`forward`: named tensors. Empty before the first step."""
        return dict(self._state)

    @state.setter
    def state(self, value: Mapping[str, Tensor]) -> None:
        if not isinstance(value, Mapping):
            raise StateError(
                f"a state is a dictionary of named tensors, got {type(value).__name__}; call "
                "reset() to forget the video"
            )
        for name, entry in value.items():
            if not isinstance(entry, Tensor):
                kind = type(entry).__name__
                raise StateError(f"state entry {name!r}: expected a tensor, got {kind}")
        self.__dict__["_state"], self.__dict__["_origin"] = dict(value), None

    def init_state(self, *clip: Any, **named: Any) -> State:
        """The state before a video's first step, for clips of the sizes of ``clip``.

        The padding at the start of the video is made by the first step, so it holds the clock
        alone.

        Raises:
            ClipError: when ``clip`` is unlike the example.
        """
        if not clip and not named:
            return clock([0] * len(self._programs.spec.paths), (), False)
        leaves = self._programs.spec.flatten(clip, named)
        before, _, known = moment(
            self._programs.spec, self._programs.current(promised=False).captured.fixed, {}, leaves
        )
        return clock(before, known, False)

    def reset(self) -> None:
        """Forget the video: the next step is the first of another one."""
        self.__dict__["_state"] = {}

    # -- whole videos --------------------------------------------------------------------------

    def full(self, *video: Any, **named: Any) -> Any:
        """The whole video in one step (the paper's original long view); the state is untouched."""
        return stepped(self, None, {}, *video, last=True, **named)[0]

    def run(
        self, *video: Any, schedule: Schedule | Sequence[int] | None = None, **named: Any
    ) -> list[Any | None]:
        """The whole video in the steps of a schedule (progressive long view).

        Args:
            video: as the model takes it; an input without time (boxes) may be one for each step,
                :class:`~pgt_fx.PerStep`.
            schedule: a :class:`~pgt_fx.Schedule`, or lengths of chunks in frames of the path with
                the fewest; None: steps of the example's length, overlapping by one frame. Where a
                step is a clip, frames that two steps share are fed to both, and None means clips
                that share none.

        Returns:
            the output of each step, None where none was due. The state is untouched.
        """
        outs, state = [], self.init_state()
        pieces = self.chunks(*video, schedule=schedule, **named)
        for number, (args, kwargs) in enumerate(pieces):
            last = number == len(pieces) - 1
            out, state = stepped(self, None, state, *args, last=last, **kwargs)
            outs.append(out)
        return outs

    def chunks(
        self, *video: Any, schedule: Schedule | Sequence[int] | None = None, **named: Any
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """A video cut along time: one ``(args, kwargs)`` per step, views of the video.

        Raises:
            ClipError: when the lengths don't add up to the video, or its paths don't have the
                example's lengths to one another.
        """
        clip = self._programs.clip
        return cut(self._programs.spec, video, named, schedule, clip)

    def lengths(self, *video: Any, **named: Any) -> tuple[int, ...]:
        """Frames of each input path of a video or clip."""
        return lengths_of(self._programs.spec, self._programs.spec.flatten(video, named))

    # -- policies and what is known of them ----------------------------------------------------

    def replace(self, **changes: Unpack[Changes]) -> Progressive:
        """The same weights under other options (``operator``, ``future``, ``pooling``, ``strict``).

        Raises:
            OptionError: for an unknown option or value.
            ExactnessError: when strict exactness is asked for and impossible.
        """
        return Progressive(self._programs.under(self.options.replace(**changes)))

    def answers(self, chunks: Sequence[int], *, last: bool = True) -> list[bool]:
        """Which steps of a video cut into these chunks give an output; nothing is run.

        Args:
            chunks: frames per step, of the path with the fewest frames.
            last: whether the video ends with them.
        """
        ratio, program = self._programs.spec.ratio, self._programs.current(promised=False).program
        out, seen = [], 0
        lengths = check_lengths("chunks", chunks)
        if min(lengths, default=1) < 1:
            raise ClipError(f"chunks: expected lengths of at least one frame, got {lengths}")
        for number, n in enumerate(lengths):
            before, after = (tuple(m * r for r in ratio) for m in (seen, seen + n))
            work = program.plan(before, after, last and number == len(lengths) - 1)
            out.append(program.answers(work))
            seen += n
        return out

    @property
    def smallest_clip(self) -> int | None:
        """Fewest frames at which a first step answers (of the path with the fewest); None: none
        does before the video ends, or it is not known. Under ``future="wait"`` it is the latency
        of the first answer."""
        return self._programs.smallest_clip

    @property
    def clip_ratio(self) -> tuple[int, ...]:
        """Frames of each input path for one frame of the path with the fewest: (1, 4)."""
        return self._programs.spec.ratio

    @property
    def video_lengths(self) -> Lengths:
        """Frames that a whole video may have (of the path with the fewest): models with a first
        frame apart take 4n + 1, one that branches on a long video at most 300. Chunks may be of any
        length; a step is refused when the video can no longer end at such a number."""
        return self._programs.current(promised=False).lengths

    @property
    def guards(self) -> tuple[Guard, ...]:
        """The conditions under which this is the model, each with the lines that asked for it and
        what happens where it does not hold."""
        return self._programs.guards

    @property
    def time_dims(self) -> tuple[int | None, ...]:
        """Time dimension of each tensor that the model returns; None where it has none.

        Of the last step's answer, where its clip had another batch or space than the example and
        the model was captured anew for it: one that squeezes its batch has another rank then.
        """
        programs = self._programs
        while programs.latest is not None:
            programs = programs.latest
        return tuple(programs.current(promised=False).program.emitted.outputs)

    @property
    def report(self) -> Report:
        """What the analysis found: timelines, verdicts, receptive field, state."""
        return self._programs.report

    @property
    def inspect(self) -> Inspection:
        """What was made of the model, to look at: its graph, timelines, the graph of a step, plans,
        and the layout of the state."""
        return self._programs.inspect

    @property
    def trace(self) -> Trace:
        """What the compiler does to the model: each stage and pass, its milliseconds, and the graph
        after it. The stages are run once more for it, which takes as long as ``transform``.

        Example:
            >>> print(prog.trace.table())
            >>> print(prog.trace["capture/functionalize"].graph)
        """
        return self._programs.trace

    def compile(self, **options: Any) -> None:
        """Compile the steps in place, as ``nn.Module.compile`` does.

        A step's plan is compiled when it recurs: the first steady step runs as it is, the second
        is compiled, all later ones find it compiled. ``torch.compile(prog)`` would look into the
        planning as well, and compile more often.

        Args:
            options: of ``torch.compile``; ``fullgraph=True, dynamic=False`` unless said otherwise
                (``fullgraph=False`` for recurrent layers, which torch does not compile). Where
                they record CUDA graphs (``mode="reduce-overhead"``), answers and state are copied
                out of the graph's memory, which its next replay overwrites.

        A step that is compiled raises ``CompileError`` where torch can't take an operation of the
        model into its graph, with the line.
        """
        self._programs.compile(options)

    @property
    def options(self) -> Options:
        return self._programs.options

    @property
    def code(self) -> str:
        """The generated Python of one step, each temporal operator with its source line."""
        return listing(self._programs.current(promised=False).program)

    def exact_frames(self, chunks: Sequence[int] | Sequence[Sequence[int]]) -> list[bool]:
        """Which outputs equal the original model's, for a video cut into these chunks; of several
        tensors that the model returns, those of the first.

        Computed from the arithmetic alone; nothing is run.

        Args:
            chunks: frames per step; for several input paths of the path with the fewest frames,
                or one length per path.

        Returns:
            one flag per element along time of the first tensor that the model returns, of the
            whole video; one flag in all where it has no time axis.
        """
        return self._programs.exact_frames(chunks)

    # -- nn.Module -----------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Progressive:
        if self._state.keys() - CLOCK and self._programs.sums is None:
            self._programs.current(promised=False)  # a state was given before there was a step
        super()._apply(fn, recurse)
        state = {k: v if k in CLOCK else fn(v) for k, v in self._state.items()}
        for name, kind in (self._programs.sums or {}).items():
            new = state.get(name)
            if new is not None and new.dtype in (torch.float16, torch.bfloat16):
                # Half precision has no room for what a long video adds up to.
                state[name] = self._state[name].to(new.device, torch.float32)
                state[kind] = new.new_empty(0)
        self.__dict__["_state"], self.__dict__["_origin"] = state, None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Progressive:
        other = Progressive(self._programs.copied(memo))
        memo[id(self)] = other
        not_own = {"_programs", "_origin", *SHARED}
        own = self.__dict__.keys() - not_own
        other.__dict__.update({name: copy.deepcopy(self.__dict__[name], memo) for name in own})
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_origin": None}

    def __repr__(self) -> str:
        o = self.options
        name = type(self._programs.model).__name__
        return (
            f"Progressive({name}, operator={o.operator!r}, future={o.future!r}, "
            f"pooling={o.pooling!r})"
        )

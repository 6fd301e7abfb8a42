"""The emitted module: a video model that is fed in successive steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pgt_fx.analysis import Analysis, analyze_graph
from pgt_fx.capture.attention import note_attention
from pgt_fx.capture.clean import clean
from pgt_fx.capture.export import Captured, capture
from pgt_fx.capture.inputs import ClipSpec
from pgt_fx.capture.lengths import Lengths
from pgt_fx.compiled import CompiledSteps, plain_numbers
from pgt_fx.cut import Moment, cut, lengths_of, moment
from pgt_fx.emit import emit
from pgt_fx.errors import ClipError, StateError
from pgt_fx.frames import exact_frames
from pgt_fx.listing import listing
from pgt_fx.markov.buffer import dense
from pgt_fx.options import Options
from pgt_fx.program import Program
from pgt_fx.report import Report, make_report
from pgt_fx.schedule import Schedule

State = dict[str, Tensor]


class Source:
    """The user's model with what has been captured of it: one graph per mode, when first needed.

    Attributes:
        model: the user's module, unchanged.
        spec: structure of a clip.
        leaves: tensors of the example clip, as shapes (meta tensors).
        pools: the ``clip_pools`` option.
    """

    def __init__(self, model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str) -> None:
        self.model, self.spec, self.pools = model, spec, pools
        self.leaves = list(leaves)
        self._captured: dict[bool, Captured] = {}
        self._dtype = _dtype(model)
        taken = set(model._modules) | set(model._parameters) | set(model._buffers)
        self.markov_name = "markov"
        while self.markov_name in taken:
            self.markov_name += "_"

    def captured(self, training: bool) -> Captured:
        """The graph of a mode; another one where a type is written in it and the model was moved.

        Raises:
            CaptureError: when that mode can't be captured.
        """
        known = self._captured.get(training)
        if known is None or (known.typed and known.dtype != _dtype(self.model)):
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            leaves = [
                torch.empty_like(x, device=device, dtype=self._cast(x.dtype)) if _video(x, t) else x
                for x, t in zip(self.leaves, self.spec.times, strict=True)
            ]
            known = clean(capture(self.model, self.spec, leaves, self.pools))
            known.dtype = _dtype(self.model)
            note_attention(known, _tensors(self.model))
            self._captured[training] = known
        return known

    def _cast(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of a video once the model was moved to another (``prog.double()``)."""
        now = _dtype(self.model)
        return now if now is not None and dtype == self._dtype else dtype

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        other = Source(copy.deepcopy(self.model, memo), self.spec, self.leaves, self.pools)
        other._captured, other._dtype = dict(self._captured), self._dtype
        return other


def _clock(frames: Sequence[int], sizes: Sequence[int], ended: bool) -> State:
    """How far the video has come. Read by the host in each step, so it stays there, whatever
    ``torch.set_default_device`` says."""
    return {
        "clock.frames": torch.tensor(frames, dtype=torch.long, device="cpu"),
        "clock.sizes": torch.tensor(sizes, dtype=torch.long, device="cpu"),
        "clock.ended": torch.tensor(ended, device="cpu"),
    }


def _dtype(model: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _video(x: Any, time: int | None) -> bool:
    return isinstance(x, Tensor) and time is not None


class Progressive(nn.Module):
    """A video model that is fed a long video in successive steps; made by ``pgt_fx.transform``.

    Its parameters, buffers and ``state_dict`` keys are the original model's: they are shared.
    ``prog(*clip)`` is one step; the state is kept inside. The contract is in the project's
    design document: under ``future="wait"`` the outputs of all steps, put one after the other,
    are the original's; under ``future="zero"`` each step answers at once, and
    :meth:`exact_frames` says which outputs are the original's.
    """

    _source: Source
    _options: Options
    _programs: dict[bool, Program]
    _analyses: dict[bool, Analysis]
    _reports: dict[bool, Report]
    _state: State
    _compile: dict[str, Any] | None

    def __init__(self, source: Source, options: Options) -> None:
        super().__init__()
        # Not registered as a submodule: the model's own dictionaries are shared instead, so that
        # names of parameters are the user's.
        self.__dict__["_source"] = source
        self.__dict__["_options"] = options
        self.__dict__["_programs"] = {}
        self.__dict__["_analyses"] = {}
        self.__dict__["_reports"] = {}
        self.__dict__["_state"] = {}
        self.__dict__["_compile"] = None
        model = source.model
        self._modules, self._parameters = model._modules, model._parameters
        self._buffers = model._buffers
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training

    # -- one step ------------------------------------------------------------------------------

    def forward(self, *clip: Any, last: bool = False, **named: Any) -> Any:
        """One progressive step; the state is kept inside.

        Args:
            clip: new frames, as the model takes a clip; any number of them.
            last: whether the video ends with them.

        Returns:
            what the model returns, for the output elements that are due; None when none is.

        Raises:
            ClipError: for an empty chunk, or one unlike the example or the video so far.
            StateError: after the last step, until :meth:`reset`.
        """
        out, self.__dict__["_state"] = self.step(self._state, *clip, last=last, **named)
        return out

    def step(
        self,
        state: Mapping[str, Tensor],
        *clip: Any,
        last: bool = False,
        detach: bool = True,
        **named: Any,
    ) -> tuple[Any, State]:
        """One step as a pure function: ``(output, next state)``; see :meth:`forward`.

        Args:
            state: as returned by the last step, or by :meth:`init_state`; not written.
            detach: cut the next state from the autograd graph (truncated gradients).
        """
        leaves = self._source.spec.flatten(clip, named)
        program = self._program()
        before, after, sizes = self._moment(state, leaves)
        if bool(state.get("clock.ended", False)):
            raise StateError("the video has ended (last=True); call reset() before the next one")
        if last and not self.video_lengths.allows(min(after)):
            raise ClipError(
                f"this model takes videos of {self.video_lengths} frames, and this one ends at "
                f"{min(after)}; cut it or pad it to such a length"
            )
        work = program.plan(before, after, last)
        # A chunk is often a slice of a video; a model that asks for views of its clip needs a
        # clip that is laid out as one.
        clips = [
            dense(x, x) if _video(x, t) else x
            for x, t in zip(leaves, self._source.spec.times, strict=True)
        ]
        flat, carried = program.run(state, clips, work)
        following = {
            **_clock(after, sizes, last),
            **({k: v.detach() for k, v in carried.items()} if detach else carried),
        }
        return self._output(flat), following

    def _output(self, flat: list[Any]) -> Any:
        if all(item is None for item in flat):
            return None
        return pytree.tree_unflatten(flat, self._captured().out_spec)

    def _moment(self, state: Mapping[str, Tensor], leaves: Sequence[Any]) -> Moment:
        return moment(self._source.spec, self._captured().fixed, state, leaves)

    # -- state ---------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state kept by :meth:`forward`: named tensors. Empty before the first step."""
        return dict(self._state)

    @state.setter
    def state(self, value: Mapping[str, Tensor]) -> None:
        self.__dict__["_state"] = dict(value)

    def init_state(self, *clip: Any, **named: Any) -> State:
        """The state before a video's first step, for clips of the sizes of ``clip``.

        The padding at the start of the video is made by the first step, so it holds the clock
        alone.

        Raises:
            ClipError: when ``clip`` is unlike the example.
        """
        if not clip and not named:
            return _clock([0] * len(self._source.spec.paths), (), False)
        leaves = self._source.spec.flatten(clip, named)
        before, _, known = self._moment({}, leaves)
        return _clock(before, known, False)

    def reset(self) -> None:
        """Forget the video: the next step is the first of another one."""
        self.__dict__["_state"] = {}

    # -- whole videos --------------------------------------------------------------------------

    def full(self, *video: Any, **named: Any) -> Any:
        """The whole video in one step (the paper's original long view); the state is untouched."""
        return self.step({}, *video, last=True, **named)[0]

    def run(
        self, *video: Any, schedule: Schedule | Sequence[int] | None = None, **named: Any
    ) -> list[Any]:
        """The whole video in the steps of a schedule (progressive long view).

        Args:
            video: as the model takes it; an input without time (boxes) may be one for each step,
                :class:`~pgt_fx.PerStep`.
            schedule: a :class:`~pgt_fx.Schedule`, or lengths of chunks in frames of the path with
                the fewest; None: steps of the example's length, overlapping by one frame.

        Returns:
            the output of each step, None where none was due. The state is untouched.
        """
        outs, state = [], self.init_state()
        pieces = self.chunks(*video, schedule=schedule, **named)
        for number, (args, kwargs) in enumerate(pieces):
            last = number == len(pieces) - 1
            out, state = self.step(state, *args, last=last, **kwargs)
            outs.append(out)
        return outs

    def chunks(
        self, *video: Any, schedule: Schedule | Sequence[int] | None = None, **named: Any
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """A video cut along time: one ``(args, kwargs)`` per step, views of the video.

        Raises:
            ClipError: when the lengths don't add up to the video.
        """
        return cut(self._source.spec, video, named, schedule)

    def lengths(self, *video: Any, **named: Any) -> tuple[int, ...]:
        """Frames of each input path of a video or clip."""
        return lengths_of(self._source.spec, self._source.spec.flatten(video, named))

    # -- policies and what is known of them ----------------------------------------------------

    def replace(self, **changes: Any) -> Progressive:
        """The same weights under other options (``operator``, ``future``, ``pooling``, ``strict``).

        Raises:
            OptionError: for an unknown option or value.
            ExactnessError: when strict exactness is asked for and impossible.
        """
        other = Progressive(self._source, self._options.replace(**changes))
        if other.options.future == "wait" and other.options.strict:
            other.report.check_strict()
        return other

    def answers(self, chunks: Sequence[int], *, last: bool = True) -> list[bool]:
        """Which steps of a video cut into these chunks give an output; nothing is run.

        Args:
            chunks: frames per step, of the path with the fewest frames.
            last: whether the video ends with them.
        """
        ratio, program = self._source.spec.ratio, self._program()
        out, seen = [], 0
        for number, n in enumerate(chunks):
            before, after = (tuple(m * r for r in ratio) for m in (seen, seen + n))
            work = program.plan(before, after, last and number == len(chunks) - 1)
            out.append(program.answers(work))
            seen += n
        return out

    @property
    def smallest_clip(self) -> int | None:
        """Fewest frames at which a first step answers (of the path with the fewest); None: none
        up to 1024 does. Under ``future="wait"`` it is the latency of the first answer."""
        return next((n for n in range(1, 1025) if self.answers([n], last=False)[0]), None)

    @property
    def clip_ratio(self) -> tuple[int, ...]:
        """Frames of each input path for one frame of the path with the fewest: (1, 4)."""
        return self._source.spec.ratio

    @property
    def video_lengths(self) -> Lengths:
        """Frames that a whole video may have (of the path with the fewest): models with a first
        frame apart take 4n + 1. Chunks may be of any length."""
        return self._analysis().lengths

    @property
    def time_dims(self) -> tuple[int | None, ...]:
        """Time dimension of each tensor that the model returns; None where it has none."""
        return tuple(self._program().emitted.outputs)

    @property
    def options(self) -> Options:
        return self._options

    @property
    def report(self) -> Report:
        """What the analysis found: timelines, verdicts, receptive field, state."""
        emitted = self._program().emitted
        if self.training not in self._reports:
            name = type(self._source.model).__name__
            self._reports[self.training] = make_report(
                self._analysis(), self._options, emitted, name
            )
        return self._reports[self.training]

    @property
    def code(self) -> str:
        """The generated Python of one step, each temporal operator with its source line."""
        return listing(self._program())

    def exact_frames(self, chunks: Sequence[int] | Sequence[Sequence[int]]) -> list[bool]:
        """Which outputs equal the original model's, for a video cut into these chunks.

        Computed from the arithmetic alone; nothing is run.

        Args:
            chunks: frames per step; for several input paths of the path with the fewest frames,
                or one length per path.

        Returns:
            one flag per output element along time of the whole video; one flag in all for a
            model whose output has no time axis.
        """
        ratio = self._source.spec.ratio
        lengths = [tuple(n * r for r in ratio) if isinstance(n, int) else tuple(n) for n in chunks]
        if not lengths or min(min(n) for n in lengths) < 1:
            raise ClipError(f"chunks: expected lengths of at least one frame, got {list(chunks)}")
        return exact_frames(self._analysis(), self._options, lengths)

    # -- graphs --------------------------------------------------------------------------------

    def _captured(self) -> Captured:
        return self._source.captured(self.training)

    def _analysis(self) -> Analysis:
        captured = self._captured()
        known = self._analyses.get(self.training)
        if known is None or known.captured is not captured:
            known = analyze_graph(captured, self._source.spec, self._options.future)
            self._analyses[self.training] = known
            self._programs.pop(self.training, None)
            self._reports.pop(self.training, None)
        return known

    def _program(self) -> Program:
        analysis = self._analysis()
        if self.training not in self._programs:
            emitted = emit(analysis, self._options, self._source.markov_name)
            spec, name = self._source.spec, self._source.markov_name
            made = Program(emitted, self._source.model, name, spec.ratio)
            made.compiled = None if self._compile is None else CompiledSteps(self._compile)
            self._programs[self.training] = made
        return self._programs[self.training]

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
        plain_numbers(self._source.model)
        self.__dict__["_compile"] = dict(options)
        self._programs.clear()

    # -- nn.Module -----------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Progressive:
        super().train(mode)
        self._source.model.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Progressive:
        super()._apply(fn, recurse)
        self.__dict__["_state"] = {
            k: v if k.startswith("clock.") else fn(v) for k, v in self._state.items()
        }
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Progressive:
        other = Progressive(copy.deepcopy(self._source, memo), self._options)
        memo[id(self)] = other
        other.train(self.training)
        other.state = copy.deepcopy(self._state, memo)
        return other

    def __repr__(self) -> str:
        o = self._options
        name = type(self._source.model).__name__
        return (
            f"Progressive({name}, operator={o.operator!r}, future={o.future!r}, "
            f"pooling={o.pooling!r})"
        )

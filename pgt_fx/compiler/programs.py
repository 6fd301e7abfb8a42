"""What has been made of a model's graphs: analysis, program and report, one for the modes of its
modules and the hooks on them; and for clips of another kind, for which it is another graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from pgt_fx.capture.captured import Captured
from pgt_fx.compiler.analysis.walk import Analysis, analyze_graph
from pgt_fx.compiler.lowering.emit import emit
from pgt_fx.compiler.make_report import make_report
from pgt_fx.compiler.report import Report
from pgt_fx.compiler.specialize import MOST_CAPTURED, Source
from pgt_fx.core.errors import BlockedError, OtherClipError, PgtError
from pgt_fx.core.options import Options
from pgt_fx.runtime.chunks import sizes_of
from pgt_fx.runtime.hooks import Watch, check_backward
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.torch_compile import CompiledSteps, plain_numbers

State = dict[str, Tensor]
#: Dictionaries of ``nn.Module`` that are the model's own: parts, and hooks on their names.
SHARED = (
    *("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


@dataclass
class Made:
    """What has been made of one graph of the model.

    Attributes:
        promised: whether the options are known to promise what they can keep.
    """

    analysis: Analysis
    program: Program | None = None
    report: Report | None = None
    watch: Watch | None = None
    promised: bool = False

    def bound_to(self, model: nn.Module) -> Made:
        """The same, not made anew, of a copy of the model."""
        rehooked = self.analysis.captured.rehooked
        return Made(
            self.analysis,
            self.program and self.program.bound_to(model),
            self.report,
            Watch(model, rehooked) if self.watch is not None else None,
            self.promised,
        )


class Graphs(nn.Module):
    """A model with what has been made of it.

    Args:
        source: the model, and what has been captured of it.
        options: under which steps are made.
    """

    _source: Source
    _options: Options
    _modes: dict[int, Made]
    _sums: dict[str, str] | None
    _compile: dict[str, Any] | None
    _resized: dict[tuple[Any, ...], Any]
    _checked: str

    def __init__(self, source: Source, options: Options) -> None:
        super().__init__()
        # Not registered as a submodule: the model's own dictionaries are shared instead, so that
        # names of parameters are the user's.
        self.__dict__["_source"] = source
        self.__dict__["_options"] = options
        self.__dict__["_modes"] = {}
        self.__dict__["_sums"] = None
        self.__dict__["_compile"] = None
        self.__dict__["_resized"] = {}
        self.__dict__["_checked"] = "not checked by itself"
        for name in SHARED:
            self.__dict__[name] = source.model.__dict__[name]
        self._version = source.model._version

    def _captured(self) -> Captured:
        captured = self._source.captured()
        return self._mode().analysis.captured if captured.rehooked else captured

    def _mode(self) -> Made:
        """What is known of the graph of the model as it is now."""
        captured = self._source.captured()
        known = self._modes.get(id(captured))
        if known is None and captured.rehooked and not self._holds(captured):
            captured = self._source.captured(anew=True)
        if known is None:
            known = Made(analyze_graph(captured, self._source.spec, self._options.future))
            if captured.rehooked:
                known.watch = Watch(self._source.model, captured.rehooked)
            for number, mode in list(self._modes.items()):
                if not self._source.knows(mode.analysis.captured):  # captured anew
                    del self._modes[number]
            self._modes[id(captured)] = known
        return known

    def _holds(self, captured: Captured) -> bool:
        """Whether hooks were added to or removed from modules alone that are called whole."""
        try:
            found = analyze_graph(captured, self._source.spec, self._options.future)
            whole = emit(found, self._options, self._source.markov_name).whole
        except BlockedError:  # perhaps by a hook that is gone
            return False
        return all(path in whole for path in captured.rehooked)

    def _like(self, leaves: Sequence[Any], error: OtherClipError) -> Self:
        """The same for clips of another batch, space or type, for which the model is another graph.

        Raises:
            OtherClipError: the one given, where the model can't be captured with such a clip.
        """
        spec = self._source.spec
        key = sizes_of(spec, leaves), tuple(leaves[i].dtype for i in spec.paths)
        known = self._resized.get(key)
        if known is None:
            try:
                known = type(self)(self._source.like(leaves), self._options)
                known._promised()
            except PgtError as failed:
                raise OtherClipError(
                    f"{error}\n    and it can't be captured for it: {failed}"
                ) from failed
            if self._compile is not None:
                known.compile(**self._compile)
            self._resized[key] = known
            while len(self._resized) > MOST_CAPTURED:
                del self._resized[next(iter(self._resized))]
        return known

    def _analysis(self) -> Analysis:
        return self._mode().analysis

    def _program(self, mode: Made | None = None) -> Program:
        mode = mode or self._mode()
        if mode.program is None:
            spec, name = self._source.spec, self._source.markov_name
            with torch.inference_mode(False):  # as in a capture
                emitted = emit(mode.analysis, self._options, name)
                check_backward(self._source.model, emitted.whole)
                mode.program = Program(emitted, self._source.model, name, spec.ratio)
            self.__dict__["_sums"] = {**(self._sums or {}), **mode.program.sums}
            if self._compile is not None:
                mode.program.compiled = CompiledSteps(self._compile)
        return mode.program

    def _promised(self, mode: Made | None = None) -> Program:
        """The program of a graph whose options promise what they can keep. Each graph is looked at:
        the model may do something else in another mode, with another hook, after a change.

        Raises:
            ExactnessError: when strict exactness is asked for and impossible.
        """
        mode = mode or self._mode()
        program = self._program(mode)
        if not mode.promised:
            if self._options.future == "wait" and self._options.strict:
                self._report(mode).check_strict()
            mode.promised = True
        return program

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
        self._resized.clear()
        for mode in self._modes.values():
            mode.program = None

    def _note(self, checked: object) -> None:
        """What a self-check has compared, for the report."""
        self.__dict__["_checked"] = str(checked)
        for mode in self._modes.values():
            mode.report = mode.report and replace(mode.report, checked=self._checked)

    def _adopt(self, other: Graphs) -> None:
        """Go on with what was made of another one's graphs: a copy does what the original does, and
        so does what differs in options alone, as far as they have no part in it."""
        if self._options.future != other._options.future:
            return
        same = self._options.replace(strict=other._options.strict) == other._options
        for number, mode in other._modes.items():
            mine = mode.bound_to(self._source.model)
            program = mine.program if same else None
            report = mine.report if self._options == other._options else None
            promised = mine.promised and self._options == other._options
            self._modes[number] = replace(mine, program=program, report=report, promised=promised)
        self.__dict__["_sums"] = other._sums if same else None

    @property
    def report(self) -> Report:
        """What the analysis found: timelines, verdicts, receptive field, state."""
        return self._report(self._mode())

    def _report(self, mode: Made) -> Report:
        if mode.report is None:
            emitted, name = self._program(mode).emitted, type(self._source.model).__name__
            mode.report = make_report(mode.analysis, self._options, emitted, name, self._checked)
        return mode.report

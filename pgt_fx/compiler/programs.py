"""The programs of a model, specialized: one for each combination of modes of its modules and hooks
on them, and for each kind of clip that gives another graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from pgt_fx.capture.captured import Captured
from pgt_fx.compiler import stages
from pgt_fx.compiler.analysis.exact_frames import exact_frames, lengths_per_path
from pgt_fx.compiler.analysis.latency import first_answers
from pgt_fx.compiler.analysis.lookups import check_lookups
from pgt_fx.compiler.analysis.runnable_lengths import check_statistics
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.guards import Guard, guards_of
from pgt_fx.compiler.inspect import Inspection
from pgt_fx.compiler.make_report import make_report, reproduces
from pgt_fx.compiler.report import Report
from pgt_fx.compiler.specialize import MOST_CAPTURED, Source
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import BlockedError, OtherClipError, PgtError
from pgt_fx.core.lengths.sets import NotQuasiLinear
from pgt_fx.core.options import Options
from pgt_fx.core.trace import Trace, recorded
from pgt_fx.runtime.chunks import sizes_of
from pgt_fx.runtime.hooks import Watch
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.programs import Current
from pgt_fx.runtime.torch_compile import CompiledSteps, plain_numbers


@dataclass
class Made:
    """What has been made of one graph of the model.

    Attributes:
        promised: whether the options are known to promise what they can keep.
        exact: whether the outputs under ``future="wait"`` are the model's; None: not yet asked.
        current: what the progressive module is given of it.
    """

    analysis: Analysis
    program: Program | None = None
    report: Report | None = None
    watch: Watch | None = None
    promised: bool = False
    exact: bool | None = None
    current: Current | None = None

    def bound_to(self, model: nn.Module) -> Made:
        """The same, not made anew, of a copy of the model."""
        rehooked = self.analysis.captured.rehooked
        return Made(
            self.analysis,
            self.program and self.program.bound_to(model),
            self.report,
            Watch(model, rehooked) if self.watch is not None else None,
            self.promised,
            self.exact,
        )


class ModelPrograms:
    """The programs of one model under one set of options; fulfils
    :class:`pgt_fx.runtime.programs.Programs`.

    Args:
        source: the model, and what has been captured of it.
        options: under which steps are made.
    """

    def __init__(self, source: Source, options: Options) -> None:
        self.source, self.options = source, options
        self.sums: dict[str, str] | None = None
        self.checked = "not checked by itself"
        self._made: dict[int, Made] = {}
        self._compile: dict[str, Any] | None = None
        self._resized: dict[tuple[Any, ...], ModelPrograms] = {}
        self.latest: ModelPrograms | None = None

    @property
    def model(self) -> nn.Module:
        return self.source.model

    @property
    def spec(self) -> ClipSpec:
        return self.source.spec

    @property
    def example(self) -> list[Any]:
        return list(self.source.example.leaves)

    def cast(self, dtype: torch.dtype) -> torch.dtype:
        return self.source.example.cast(dtype)

    # -- the stages ----------------------------------------------------------------------------

    def captured(self) -> Captured:
        """The graph in use."""
        captured = stages.capture(self.source)
        return self.made().analysis.captured if captured.rehooked else captured

    def made(self) -> Made:
        """What is known of the graph of the model as it is now."""
        captured = stages.capture(self.source)
        known = self._made.get(id(captured))
        if known is None and captured.rehooked and not self._holds(captured):
            captured = self.source.captured(anew=True)
        if known is None:
            known = Made(stages.analyze(captured, self.source, self.options))
            if captured.rehooked:
                known.watch = Watch(self.model, captured.rehooked)
            for number, made in list(self._made.items()):
                if not self.source.knows(made.analysis.captured):  # captured anew
                    del self._made[number]
            self._made[id(known.analysis.captured)] = known
        return known

    def add(self, analysis: Analysis, program: Program) -> None:
        """Take what the stages have made of the graph in use."""
        self._made[id(analysis.captured)] = Made(analysis, program)
        self.sums = {**(self.sums or {}), **program.sums}

    def _holds(self, captured: Captured) -> bool:
        """Whether hooks were added to or removed from modules alone that are called whole."""
        try:
            found = stages.analyze(captured, self.source, self.options)
            whole = stages.lower(found, self.source, self.options).whole
        except BlockedError:  # perhaps by a hook that is gone
            return False
        return all(path in whole for path in captured.rehooked)

    def analysis(self) -> Analysis:
        """What the analysis found of the graph in use."""
        return self.made().analysis

    def program(self, made: Made | None = None) -> Program:
        """The program of a graph; of the one in use, where none is given."""
        made = made or self.made()
        if made.program is None:
            emitted = stages.lower(made.analysis, self.source, self.options)
            made.program = stages.bind(emitted, self.source)
            self.sums = {**(self.sums or {}), **made.program.sums}
            if self._compile is not None:
                made.program.compiled = CompiledSteps(self._compile)
        return made.program

    def promised(self, made: Made | None = None) -> Made:
        """A graph whose options promise what they can keep. Each graph is looked at: the model may
        do something else in another mode, with another hook, after a change.

        Raises:
            ExactnessError: when strict exactness is asked for and impossible.
        """
        made = made or self.made()
        self.program(made)
        if not made.promised:
            if self.options.future == "wait" and self.options.strict:
                self.report_of(made).check_strict()
            made.promised = True
        return made

    # -- for the progressive module --------------------------------------------------------------

    def current(self, *, promised: bool = True) -> Current:
        """The program for the model as it is now, which keeps what its options promise."""
        made = self.promised() if promised else self.made()
        self.program(made)
        if made.current is None or made.current.program is not made.program:
            analysis, program = made.analysis, self.program(made)
            made.current = Current(program, analysis.captured, analysis.lengths, made.watch)
        return made.current

    def renew(self) -> None:
        self.source.renew()

    def capture_anew(self) -> None:
        self.source.captured(anew=True)

    def check_types(self, leaves: Sequence[Any]) -> None:
        self.source.check_types(leaves)

    def tensors(self, leaves: Sequence[Any]) -> list[Any]:
        return self.source.example.tensors_of(leaves)

    def without_frames(self, sizes: Sequence[int], device: Any) -> list[Any]:
        return self.source.example.without_frames(sizes, device)

    def own(self) -> None:
        self.latest = None

    def like(self, leaves: Sequence[Any], error: OtherClipError) -> ModelPrograms:
        """Those for clips of another batch, space or type, for which the model is another graph.

        Raises:
            OtherClipError: the one given, where the model can't be captured with such a clip.
        """
        spec = self.spec
        key = sizes_of(spec, leaves), tuple(leaves[i].dtype for i in spec.paths)
        known = self._resized.get(key)
        if known is None:
            try:
                known = ModelPrograms(self.source.like(leaves), self.options)
                known.promised()
            except PgtError as failed:
                raise OtherClipError(
                    f"{error}\n    and it can't be captured for it: {failed}"
                ) from failed
            if self._compile is not None:
                known.compile(self._compile)
            self._resized[key] = known
            while len(self._resized) > MOST_CAPTURED:
                del self._resized[next(iter(self._resized))]
        self.latest = known
        return known

    def explain(
        self, error: Exception, before: tuple[int, ...], after: tuple[int, ...], last: bool
    ) -> None:
        if isinstance(error, ValueError):
            check_statistics(self.analysis(), before, after, last)
        elif isinstance(error, IndexError) or "out of bounds" in str(error):
            check_lookups(self.analysis())

    @property
    def clip(self) -> int | None:
        clip = self.made().analysis.captured.clip
        return None if clip is None else min(clip.frames)

    @property
    def smallest_clip(self) -> int | None:
        if self.clip is not None:
            return self.clip
        try:
            return first_answers(self.program().emitted, self.spec.ratio).least
        except NotQuasiLinear:
            return None

    def compile(self, options: dict[str, Any]) -> None:
        plain_numbers(self.model)
        self._compile = dict(options)
        self._resized.clear()
        for made in self._made.values():
            made.program = None

    def exact_frames(self, chunks: Any) -> list[bool]:
        lengths = lengths_per_path(chunks, self.spec.ratio)
        return exact_frames(self.made().analysis, self.options, lengths)

    def under(self, options: Options) -> ModelPrograms:
        other = ModelPrograms(self.source, options)
        other._adopt(self)
        other.promised()
        return other

    def copied(self, memo: dict[int, Any]) -> ModelPrograms:
        other = ModelPrograms(copy.deepcopy(self.source, memo), self.options)
        other.sums, other.checked = copy.copy(self.sums), self.checked
        other._adopt(self)
        return other

    def _adopt(self, other: ModelPrograms) -> None:
        """Go on with what was made of another one's graphs: a copy does what the original does, and
        so does what differs in options alone, as far as they have no part in it."""
        if self.options.future != other.options.future:
            return
        same = self.options.replace(strict=other.options.strict) == other.options
        for number, made in other._made.items():
            mine = made.bound_to(self.model)
            program = mine.program if same else None
            report = mine.report if self.options == other.options else None
            promised = mine.promised and self.options == other.options
            exact = mine.exact if same else None
            self._made[number] = replace(
                mine, program=program, report=report, promised=promised, exact=exact
            )
        self.sums = other.sums if same else None

    def __getstate__(self) -> dict[str, Any]:
        # What was made of the graphs is made again; as of a copy, steps are compiled when asked.
        return {**self.__dict__, "_made": {}, "_resized": {}, "latest": None, "_compile": None}

    # -- what is known of them -------------------------------------------------------------------

    @property
    def guards(self) -> tuple[Guard, ...]:
        return guards_of(self.made().analysis)

    @property
    def report(self) -> Report:
        return self.report_of(self.made())

    def report_of(self, made: Made) -> Report:
        """What the analysis of a graph found."""
        if made.report is None:
            emitted, name = self.program(made).emitted, type(self.model).__name__
            waiting, blockers = self.source.analyzed(made.analysis.captured, "wait")
            made.report = make_report(
                made.analysis,
                None if blockers else waiting,
                self.options,
                emitted,
                name,
                self.checked,
            )
        return made.report

    def all_exact(self) -> bool:
        """Whether all outputs are the model's own, of the graph in use."""
        made = self.made()
        if made.exact is None:
            made.exact = self.options.future == "wait" and reproduces(made.analysis, self.options)
        return made.exact

    def note(self, checked: object) -> None:
        """Note what a self-check has compared, for the report."""
        self.checked = str(checked)
        for made in self._made.values():
            made.report = made.report and replace(made.report, checked=self.checked)

    @property
    def inspect(self) -> Inspection:
        return Inspection(self)

    @property
    def trace(self) -> Trace:
        """The stages, run once more on the model as it is now, with the graph after each."""
        source = Source(self.model, self.spec, self.source.example.leaves, self.source.pools)
        with recorded() as trace:
            ModelPrograms(source, self.options).program()
        return trace

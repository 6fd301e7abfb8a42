"""The stages of the compiler, each a function of the result of the one before.

``Captured`` (graph of ATen operators, with its guards) → ``Analysis`` (a timeline per value, a kind
per operator) → ``Emitted`` (the graph of one step) → ``Program`` (bound to the model). No stage
writes into what an earlier one gave. What the analysis needs nodes for is written into the graph by
passes before it (:mod:`pgt_fx.compiler.analysis.prepare`), once for each capture; the walk that
follows reads.
"""

from __future__ import annotations

import torch

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.clip_reasons import because, of_one_length, shows_frames
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.lowering.emit import emit
from pgt_fx.compiler.lowering.legality import check_emitted
from pgt_fx.compiler.specialize import Source
from pgt_fx.core.errors import BlockedError
from pgt_fx.core.options import Options
from pgt_fx.core.trace import checks_stages, stage
from pgt_fx.runtime.hooks import check_backward
from pgt_fx.runtime.program import Program
from pgt_fx.runtime.step_graph import Emitted


def capture(source: Source) -> Captured:
    """The graph of the model as it is now, and the conditions under which it is the model.

    Raises:
        CaptureError: the model can't be captured.
    """
    return source.captured()


def analyze(captured: Captured, source: Source, options: Options) -> Analysis:
    """A timeline for each value, and for each operator what kind it is; made once for a graph.
    Where operators stand in the way, and the model attends to frames, it is captured anew at the
    length of its clip.

    Raises:
        BlockedError: operators that mix time have no rule; all are listed.
    """
    made: list[Analysis] = []
    with stage("analysis", lambda: made[0]):
        found, blockers = source.analyzed(captured, options.future)
        clip = None
        if blockers:
            error = BlockedError(list(blockers.values()))
            clip = source.by_clips(because(error)) if shows_frames(source.spec) else None
            if clip is None:
                raise error
        else:
            alone = of_one_length(captured)
            if alone is not None and not found.returns_frames:
                clip = source.by_clips(alone)
        if clip is not None:
            found, blockers = source.analyzed(clip, options.future)
            if blockers:
                raise BlockedError(list(blockers.values()))
        made.append(found)
    return made[0]


def lower(analysis: Analysis, source: Source, options: Options) -> Emitted:
    """The graph of one step: operators along time become Markov operators with a state.

    Raises:
        BlockedError: a part of the model can't be represented in a step.
    """
    made: list[Emitted] = []
    # As in a capture: tensors made under inference_mode could not be used in training later.
    with torch.inference_mode(False), stage("lowering", lambda: made[0].graph):
        made.append(emit(analysis, options, source.markov_name))
        check_backward(source.model, made[0].whole)
        if checks_stages():
            check_emitted(made[0], source.markov_name)
    return made[0]


def bind(emitted: Emitted, source: Source) -> Program:
    """The program: the graph of a step on the user's own model and weights."""
    with torch.inference_mode(False), stage("binding"):
        return Program(emitted, source.model, source.markov_name, source.spec.ratio)

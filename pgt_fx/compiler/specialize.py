"""The user's model and its captures, one for each specialization (modes, hooks, answers)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, methodcaller
from typing import Any

import torch
from torch import Tensor, nn

from pgt_fx.capture.attention.clip_keys import find_clip_keys
from pgt_fx.capture.attention.find_attention import note_attention
from pgt_fx.capture.captured import Captured
from pgt_fx.capture.clip_reasons import because, shows_frames, softens
from pgt_fx.capture.export import capture, capture_clip
from pgt_fx.capture.legality import check_captured, check_cleaned
from pgt_fx.capture.observe.failing_line import GRADIENTS
from pgt_fx.capture.observe.model_lines import raised_at
from pgt_fx.capture.observe.module_attributes import PythonState
from pgt_fx.capture.observe.surroundings import answers, as_outside, gradients_as_outside
from pgt_fx.capture.passes.length_constants import TensorsOf
from pgt_fx.capture.passes.pipeline import clean
from pgt_fx.capture.probe.meta_run import probe
from pgt_fx.compiler.analysis.other_future import under
from pgt_fx.compiler.analysis.prepare import prepare
from pgt_fx.compiler.analysis.timed_graph import Analysis
from pgt_fx.compiler.example_clip import ExampleClip, dtype_of
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import (
    BlockedError,
    Blocker,
    CaptureError,
    ClipError,
    LoopError,
    PgtError,
)
from pgt_fx.core.trace import checks_stages, stage
from pgt_fx.runtime.hooks import Hooks, hooked, hooks_of, paths_of, without_backward

#: The modes of all modules: frozen norms are in eval while the model trains, and a model or a hook
#: may ask a convolution for its mode.
Modes = tuple[bool, ...]
#: What an analysis finds, and its blockers by node name.
Walked = tuple[Analysis, dict[str, Blocker]]
#: Under which modes, hooks and answers of its surroundings a model was captured.
Key = tuple[Modes, Hooks, tuple[Any, ...]]
#: How many children each parent has, and all of them in order.
Children = tuple[list[int], list[nn.Module | None]]
#: Graphs kept of a model: hooks come and go, as those of a tool that looks into it.
MOST_CAPTURED = 8
_training, _values = attrgetter("training"), methodcaller("values")


class Source:
    """The user's model with what has been captured of it: one graph for the modes of its modules
    and the hooks on them, when first needed.

    Attributes:
        model: the user's module, unchanged.
        spec: structure of a clip.
        example: the clip that it was transformed with.
        pools: the ``clip_pools`` option.
    """

    def __init__(self, model: nn.Module, spec: ClipSpec, leaves: Sequence[Any], pools: str) -> None:
        self.model, self.spec, self.pools = model, spec, pools
        self.example = ExampleClip(model, spec, leaves)
        self._captured: dict[Key, Captured] = {}
        self._analyses: dict[int, dict[str, Walked]] = {}
        self._asked: frozenset[str] = frozenset()
        self._attributes: PythonState | None = None
        #: Why a step is a clip; None where it isn't, or that is not known yet.
        self._whole_clips: str | None = None
        self._parents: list[dict[str, nn.Module | None]] = []
        self._children: Children | None = None
        self._childless: list[dict[str, nn.Module | None]] = []
        self._hooked: list[dict[int, Any]] = []
        self._paths: dict[int, str] = {}
        self._modules: list[nn.Module] = []
        taken = set(model._modules) | set(model._parameters) | set(model._buffers)
        self.markov_name = "markov"
        while self.markov_name in taken:
            self.markov_name += "_"

    @property
    def modes(self) -> Modes:
        """``F.dropout(x, 0.5, self.training)`` is captured as it is in the mode of its module."""
        if any(self._childless) or _children(self._parents) != self._children:
            self._look()
        return tuple(map(_training, self._modules))

    def _look(self) -> None:
        """At first, and when a child was replaced (a new head): what was captured is of another."""
        modules = list(self.model.modules())
        self._parents = [m._modules for m in modules if m._modules or m is self.model]
        self._children = _children(self._parents)
        # A parametrization is a first child.
        self._childless = [m._modules for m in modules if not m._modules and m is not self.model]
        self._hooked = hooked(modules)
        self._modules = modules
        self._captured.clear()

    def captured(self, *, anew: bool = False) -> Captured:
        """The graph of the model as it is now; another one where a module has changed its mode, or
        a type is written in it and the model was moved.

        Where hooks were added or removed since, it is the same but for ``rehooked``: hooks of a
        module that is called whole are called with it. Whether all of them are such is known once
        steps have been made of the graph; with ``anew`` it is captured with its hooks.

        Raises:
            CaptureError: when it can't be captured.
        """
        key = self._key()
        known = self._captured.get(key)
        if known is None and not anew:
            known = self._rehooked(key)
        if known is None or anew or (known.typed and known.dtype != dtype_of(self.model)):
            with stage("capture"):
                known, key = self._captured_anew(known, key)
            self._keep(key, known)
        return known

    def analyzed(self, captured: Captured, future: str) -> Walked:
        """What the analysis of a graph under this ``future`` finds, and its blockers by node name.
        A graph is walked once, whoever asks: under the other ``future`` clocks differ alone.

        Args:
            captured: a graph of this model. The passes of the analysis change it when it is asked
                for the first time (:mod:`pgt_fx.compiler.analysis.prepare`), and nothing later.
        """
        known = self._analyses.setdefault(id(captured.graph), {})
        if "wait" not in known:  # first, as its clocks are the plainer ones: nothing is provisional
            known["wait"] = prepare(captured, self.spec, "wait")
        if future not in known:
            waiting, refused = known["wait"]
            if refused or captured.clip is not None:  # perhaps under this future alone
                known[future] = prepare(captured, self.spec, future)
            else:
                known[future] = under(waiting, future)
        found, blockers = known[future]
        if found.captured is not captured:  # the same graph, under other hooks
            found = dataclasses.replace(found, captured=captured)
        return found, blockers

    def _captured_anew(self, known: Captured | None, key: Key) -> tuple[Captured, Key]:
        """The graph captured and cleaned, and the key under which it is kept.

        Args:
            known: what was captured before, of a model that has changed since.
        """
        leaves = self.example.made()
        if self._changes(known):
            self._captured.clear()
        self._attributes = PythonState(self.model)
        if self._whole_clips is None:
            try:
                known = self._cleaned(leaves, None)
            except LoopError:
                raise
            except (CaptureError, BlockedError) as error:
                blocked = isinstance(error, BlockedError) and not shows_frames(self.spec)
                made = None if blocked else self._clip_of(leaves, because(error))
                if made is None:
                    raise
                known = made
        else:
            known = self._cleaned(leaves, self._whole_clips)
        if not known.surroundings <= self._asked:
            self._asked |= known.surroundings
            self._captured.clear()  # their keys don't distinguish the answers to these questions
            key = self._key()
        return known, key

    def _cleaned(self, leaves: Sequence[Any], clips: str | None) -> Captured:
        """The graph captured and cleaned, with its attentions noted.

        Args:
            clips: why it is captured at the clip's length; None: at any length.
        """
        found = self._capture(leaves, clips)
        if GRADIENTS in found.surroundings - self._asked:
            self._asked |= {GRADIENTS}
            found = self._capture(leaves, clips)
        with torch.inference_mode(False):
            known = clean(found, min(self.spec.lengths))
            if checks_stages():
                check_cleaned(known)
            known.dtype = dtype_of(self.model)
            if clips is None:
                note_attention(known, TensorsOf(self.model))
            else:
                times = dict(enumerate(self.spec.times))
                shapes = dict(enumerate(self.spec.shapes))
                known.clip_keys = find_clip_keys(known, times, shapes, TensorsOf(self.model))
        return known

    def _clip_of(self, leaves: Sequence[Any], clips: str) -> Captured | None:
        """The model captured at the length of its clip; None where it attends to no frames, so that
        nothing would go from step to step, or it can't be captured so either."""
        if not softens(self.model, self.spec, leaves):
            return None
        try:
            known = self._cleaned(leaves, clips)
        except PgtError:
            return None
        if not known.clip_keys:
            return None
        self._whole_clips = clips
        return known

    def by_clips(self, reason: str) -> Captured | None:
        """The graph captured at the length of the clip, in place of one at any length; None where
        that helps nothing.

        Args:
            reason: why, with the line.
        """
        if self._whole_clips is not None:
            return None
        with stage("capture"):
            known = self._clip_of(self.example.made(), reason)
        if known is not None:
            self._captured.clear()  # those at any length
            self._asked |= known.surroundings
            self._keep(self._key(), known)
        return known

    def _capture(self, leaves: Sequence[Any], clips: str | None) -> Captured:
        # Tensors made under inference_mode could not be used in training later.
        made: list[Captured] = []
        with (
            as_outside(),
            torch.inference_mode(False),
            gradients_as_outside(self._asked),
            without_backward(self.model),
            stage("capture/torch.export", lambda: made[0].graph),
        ):
            if clips is None:
                made.append(capture(self.model, self.spec, leaves, self.pools))
            else:
                made.append(capture_clip(self.model, self.spec, leaves, clips))
        if checks_stages():
            check_captured(made[0])
        return made[0]

    def _key(self) -> Key:
        return self.modes, hooks_of(self._hooked), answers(self.model, self._asked)

    def renew(self) -> None:
        """Before a video: forget what was captured of a model that has changed since."""
        known = self._captured.get(self._key())
        if known is not None and self._changes(known):
            self._captured.clear()

    def _changes(self, known: Captured | None) -> bool:
        """Whether attributes of modules, or what the analysis has read from parameters and buffers,
        are others than when the model was captured; what forward itself keeps is not meant."""
        names = () if self._attributes is None else self._attributes.changes()
        kept = frozenset() if known is None else known.kept
        if any(name not in kept for name in names):
            return True
        values = None if known is None else known.values
        return values is not None and bool(values.changed(TensorsOf(self.model)))

    def check_types(self, leaves: Sequence[Any]) -> None:
        """Make sure that a clip is like the example in what the model asks its tensors for; see
        :meth:`ExampleClip.check`."""
        self.example.check(leaves, self._asked)

    def like(self, leaves: Sequence[Any]) -> Source:
        """The same model with an example of the batch, the space and the types of this clip.

        Raises:
            ClipError: when the model does not run on such a clip.
        """
        given = list(self.example.leaves)
        for i in self.spec.paths:
            sizes, time = list(leaves[i].shape), self.spec.times[i] or 0
            if self._whole_clips is None or not sizes[time]:
                sizes[time] = self.example.leaves[i].shape[time]
            given[i] = self.example.leaves[i].new_empty(sizes, dtype=leaves[i].dtype)
        for i in set(self.spec.tensors) - set(self.spec.paths):
            given[i] = leaves[i]  # it may have one entry per video
        shapes = tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in given)
        dtypes = tuple(x.dtype if isinstance(x, Tensor) else None for x in given)
        spec = dataclasses.replace(self.spec, shapes=shapes, dtypes=dtypes)
        other = Source(self.model, spec, given, self.pools)
        other._whole_clips = self._whole_clips
        run = probe(self.model, self.spec.spec, other.example.made())
        if run.error is not None:
            raise ClipError(
                f"the model does not run on it: {type(run.error).__name__}: "
                f"{' '.join(str(run.error).split())[:300]} ({raised_at(run.error)})"
            )
        return other

    def _rehooked(self, key: Key) -> Captured | None:
        """What was captured under the hooks most like these, all else being the same."""
        numbers = set(chain.from_iterable(key[1]))
        self._paths |= paths_of(self.model)
        others = [
            (numbers ^ set(chain.from_iterable(hooks)), captured)
            for (modes, hooks, around), captured in self._captured.items()
            if (modes, around) == (key[0], key[2]) and not captured.rehooked
        ]
        if not others:
            return None
        changed, known = min(others, key=lambda other: len(other[0]))
        rehooked = frozenset(self._paths.get(number, "") for number in changed)
        known = dataclasses.replace(known, rehooked=rehooked)
        self._keep(key, known)
        return known

    def _keep(self, key: Key, captured: Captured) -> None:
        others = [other for other in self._captured if other[1] not in (key[1], ())]
        if len(self._captured) >= MOST_CAPTURED and others:
            del self._captured[others[0]]
        self._captured[key] = captured
        graphs = {id(one.graph) for one in self._captured.values()}
        self._analyses = {n: found for n, found in self._analyses.items() if n in graphs}

    def knows(self, captured: Captured) -> bool:
        """Whether it is one of the graphs in use."""
        return any(captured is known for known in self._captured.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        _ = self.modes  # forgets the graphs of a child that was replaced since
        other = Source(copy.deepcopy(self.model, memo), self.spec, self.example.leaves, self.pools)
        _ = other.modes  # has looked at its model before it is given the graphs of this one
        self.renew()
        if self._attributes is not None:
            other._attributes = PythonState(other.model)
        other._captured = dict(self._captured)
        other._analyses = dict(self._analyses)  # of each graph the same, also what is found later
        other.example.dtype, other._asked = self.example.dtype, self._asked
        other._whole_clips = self._whole_clips
        other._paths = dict(self._paths)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Graphs hold functions of their own and can't be pickled: they are captured again.
        return {**self.__dict__, "_captured": {}, "_analyses": {}, "_attributes": None}


def _children(parents: Sequence[dict[str, nn.Module | None]]) -> Children:
    """Looked at in every step, and so without a loop of Python's."""
    return list(map(len, parents)), list(chain.from_iterable(map(_values, parents)))

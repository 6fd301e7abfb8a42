"""The protocol through which a progressive module gets its programs; the compiler implements it.

A model is captured anew where its modes, hooks or attributes change, and for clips of another batch
or space; what that takes is the compiler's. The module only asks for the program as it is now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.guards.length_guard import Lengths
from pgt_fx.core.clip import ClipSpec
from pgt_fx.core.errors import OtherClipError
from pgt_fx.core.options import Options
from pgt_fx.core.trace import Trace
from pgt_fx.runtime.hooks import Watch
from pgt_fx.runtime.program import Program

#: Frames of each input path.
Frames = tuple[int, ...]


@dataclass(frozen=True)
class Current:
    """The program of a model as it is now, and the conditions under which it is the model.

    Attributes:
        program: runs the steps.
        captured: the graph that they were made of, with its guards.
        lengths: of the whole videos that it takes.
        watch: looks at hooks that were added since the capture; None where there are none.
    """

    program: Program
    captured: Captured
    lengths: Lengths
    watch: Watch | None = None


class Programs(Protocol):
    """The programs of one model under one set of options.

    Attributes:
        model: the user's module, unchanged.
        spec: structure of a clip.
        options: under which steps are made.
        sums: state entries that add up over a video -> entry that has their type; None before there
            is a program (:attr:`pgt_fx.runtime.program.Program.sums`).
        latest: those that the last step was made with, where its clip was of another batch, space
            or type (:meth:`like`); None for these.
    """

    options: Options
    sums: dict[str, str] | None

    @property
    def latest(self) -> Programs | None: ...

    def own(self) -> None:
        """The last step was made with these."""
        ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def spec(self) -> ClipSpec: ...

    def current(self, *, promised: bool = True) -> Current:
        """The program for the model as it is now, which keeps what its options promise.

        Args:
            promised: make sure of that; False to look at it, and run nothing.

        Raises:
            CaptureError, BlockedError, ExactnessError: as ``transform``.
        """
        ...

    def renew(self) -> None:
        """Before a video: forget what was made of a model that has changed since."""
        ...

    def capture_anew(self) -> None:
        """Capture the model with the hooks that it has now."""
        ...

    def like(self, leaves: Sequence[Any], error: OtherClipError) -> Programs:
        """Those for clips of another batch, space or type, for which the model is another graph.

        Raises:
            OtherClipError: the one given, where the model can't be captured with such a clip.
        """
        ...

    def check_types(self, leaves: Sequence[Any]) -> None:
        """Make sure that a clip has the types for which the graph is the model.

        Raises:
            OtherClipError: when it has others.
            ClipError: when it lies in memory otherwise, or needs a gradient, and the model asks.
        """
        ...

    def tensors(self, leaves: Sequence[Any]) -> list[Any]:
        """The tensors of a clip, as the program takes them.

        Raises:
            ClipError: when what is no tensor isn't the example's.
        """
        ...

    def without_frames(self, sizes: Sequence[int], device: torch.device | None) -> list[Any]:
        """Leaves of a clip without frames, which ends a video.

        Args:
            sizes: of all paths, one after the other; -1 for their time.
            device: where the video is; None: where the model is.

        Raises:
            ClipError: when a clip has tensors that are no videos.
        """
        ...

    def explain(self, error: Exception, before: Frames, after: Frames, last: bool) -> None:
        """After an operator has failed in a step: say what it needs, where that is known.

        Args:
            error: what torch raised.

        Raises:
            ClipError: naming the line.
        """
        ...

    @property
    def clip(self) -> int | None:
        """Frames of a step, of the path with the fewest, where a step is a clip; else None."""
        ...

    @property
    def smallest_clip(self) -> int | None:
        """Fewest frames at which a first step answers; None: none does, or it is not known."""
        ...

    def compile(self, options: dict[str, Any]) -> None:
        """Have steps compiled from now on, with these options of ``torch.compile``."""
        ...

    def exact_frames(self, chunks: Any) -> list[bool]:
        """Which outputs equal the model's for a video cut into these chunks."""
        ...

    def under(self, options: Options) -> Programs:
        """Those of the same model under other options.

        Raises:
            ExactnessError: when strict exactness is asked for and impossible.
        """
        ...

    def copied(self, memo: dict[int, Any]) -> Programs:
        """Those of a copy of the model, with what was made of this one."""
        ...

    @property
    def guards(self) -> tuple[Any, ...]:
        """The conditions under which the graph is the model, in words."""
        ...

    @property
    def report(self) -> Any:
        """What the analysis found."""
        ...

    @property
    def inspect(self) -> Any:
        """What was made of the model, stage by stage."""
        ...

    @property
    def trace(self) -> Trace:
        """The stages of the compiler, run once more and recorded."""
        ...

"""A record of the output of every operator at every step, for a comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.replacing import Patch
from pgt_fx.compiler.selfcheck.trials import Trials
from pgt_fx.compiler.selfcheck.videos import Video, device_of
from pgt_fx.core.devices import elsewhere, in_any_layout
from pgt_fx.core.errors import annotate
from pgt_fx.runtime.program import Program

#: Node name -> what it gave, in the order of execution; one for each step.
Record = dict[str, Any]

#: No part of torch, and replaced in the same way: another thread's steps are not recorded.
_STEPS = Patch(
    "Program.module", "a step gives what its operators gave to nobody", Program, "module"
)


class _Recorder(fx.Interpreter):
    """Runs a graph node by node. Results are copied: operators may write into their operands."""

    def __init__(
        self, module: fx.GraphModule, record: Record, only: Collection[str] | None = None
    ) -> None:
        super().__init__(module)
        self.record, self.only = record, only
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = n.name
        value = super().run_node(n)
        if isinstance(value, Tensor) and (self.only is None or n.name in self.only):
            self.record[n.name] = value.detach().clone()
        return value


class _Plain(_Recorder):
    """Of a graph as it was captured; the model may have been moved since."""

    def __init__(self, module: fx.GraphModule, record: Record, device: torch.device) -> None:
        super().__init__(module, record)
        self.device = device

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = elsewhere((args, kwargs), self.device)
        return super().call_function(in_any_layout(target), args, kwargs)


@contextmanager
def recording(only: Collection[str] | None = None) -> Iterator[list[Record]]:
    """Every step that any program runs meanwhile is recorded."""
    records: list[Record] = []

    def make(plain: Callable[..., fx.GraphModule]) -> Callable[..., Any]:
        def module(self: Program, work: Any = None) -> Any:
            bound = plain(self, work)

            def call(*args: Any) -> Any:
                records.append({})
                recorder = _Recorder(bound, records[-1], only)
                try:
                    return recorder.run(*args)
                except Exception as error:
                    annotate(error, pgt_at=recorder.at)
                    raise

            return call

        return module

    with _STEPS.replaced(make):
        yield records


@contextmanager
def raising(prog: Any) -> Iterator[None]:
    """An error says which node of which model raised it: ``error.pgt_node``."""
    try:
        yield
    except Exception as error:
        name = getattr(error, "pgt_at", "")
        annotate(error, pgt_node=(prog, name) if name else (None, ""))
        raise


def recorded_run(
    subject: Trials,
    prog: Any,
    video: Video,
    chunks: Sequence[int],
    between: Callable[[Any], object] | None = None,
    *,
    fresh: bool = True,
) -> list[Record]:
    """The steps of a video; ``between`` is called between any two of them."""
    if fresh:
        prog.reset()
    pieces = subject.cut(video, chunks)
    with torch.no_grad(), raising(prog), recording() as records:
        for number, piece in enumerate(pieces):
            subject.feed(prog, piece, number == len(pieces) - 1)
            if between is not None and number < len(pieces) - 1:
                between(prog)
    prog.reset()
    return records


def recorded_full(
    subject: Trials, prog: Any, video: Video, only: Collection[str] | None = None
) -> Record:
    """The whole video in one step; ``only`` some nodes, None: all."""
    with raising(prog), recording(only) as records:
        subject.full(prog, video)
    return records[0]


def recorded_plain(subject: Trials, prog: Any, video: Video) -> Record:
    """The graph as it was captured, before anything was rewritten."""
    captured, device = prog.inspect.captured, device_of(prog)
    record: Record = {}
    args: list[Any] = []
    for node in captured.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in captured.inputs:
            leaf = video[captured.inputs[node.name]]
            args.append(leaf.clone() if isinstance(leaf, Tensor) else leaf)
        elif node.name in captured.tensors:
            args.append(_attribute(subject.model, captured.tensors[node.name]))
        else:
            args.append(captured.constants[node.name].to(device))
    module = fx.GraphModule(nn.Module(), captured.graph)
    with torch.no_grad():
        _Plain(module, record, device).run(*args)
    return record


def _attribute(model: nn.Module, path: str) -> Any:
    for part in path.split("."):
        model = getattr(model, part)
    return model

"""The graph of one step, with what is needed to plan, to run and to read it."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.module_calls import Whole, module_path, place
from pgt_fx.core.errors import Blocker
from pgt_fx.runtime.autocast_types import MixedTypes
from pgt_fx.runtime.chunks import CLOCK
from pgt_fx.runtime.plan import Schedulable


@dataclass
class Emitted:
    """The graph of one step, with what is needed to plan and to run it.

    Attributes:
        graph: fx graph; ``self`` in its code is the user's model with a ``markov`` module added.
        markov: the Markov operators by attribute name.
        schedulable: for :func:`pgt_fx.runtime.plan.plan`.
        notes: node name -> what to print beside it.
        outputs: per output of the model, the time dimension (None without one).
        origin: slot -> captured node whose elements it carries.
        owner: slot -> name of the captured node that it serves.
        shared: slot -> the slot of another operator that carries the same elements.
        constants: tensors lifted by the capture, by attribute name.
        video: which of a step's tensors is the first with a time axis.
        made: node of the graph -> captured node whose value it gives.
        whole: the modules of the model that are called as they are.
        types: of which types the model's values are under autocast.
        lost: what makes gradients of it wrong.
    """

    graph: fx.Graph
    markov: dict[str, nn.Module] = field(default_factory=dict)
    schedulable: Schedulable = field(default_factory=Schedulable)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: list[int | None] = field(default_factory=list)
    origin: dict[str, fx.Node] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    video: int = 0
    whole: Whole = field(default_factory=Whole)
    types: MixedTypes | None = None
    lost: list[Blocker] = field(default_factory=list)


def of_clip_alone(node: fx.Node) -> bool:
    """Whether a node reads a clip's sizes or device, which a clip without frames has as well."""
    what = (torch.ops.aten.sym_size.int, getattr)
    return node.target in what and node.all_input_nodes[0].op == "placeholder"


class Names:
    """Names of what is emitted, which the user recognises and no two share."""

    def __init__(self, captured: Captured) -> None:
        paths = {c.path for c in captured.calls.values()}
        inner = {p.rsplit(".", 1)[0] for p in paths if "." in p}
        self._leaves = frozenset(paths - inner)
        self._slots: set[str] = set(CLOCK)

    def label(self, node: fx.Node) -> str:
        """A dotted name: the module, and the operator where the module has several."""
        path = module_path(node)
        op = place(node).op.removeprefix("aten.").rstrip("_")
        return path if path and path in self._leaves else f"{path}.{op}" if path else op

    def slot(self, label: str) -> str:
        """A name in the state, numbered where there is one already."""
        slot, number = label, 2
        while slot in self._slots:
            slot, number = f"{label}#{number}", number + 1
        self._slots.add(slot)
        return slot


#: Names that generated code has for something else, and those of a module's own methods.
_TAKEN = frozenset(
    (
        *(*dir(nn.Module), *keyword.kwlist, "training", "self", "torch"),
        *("device", "inf", "nan", "NoneType", "fx_pytree", "pytree"),
    )
)


def identifier(path: str) -> str:
    """A name for generated code, like a dotted path and no other's."""
    text = "".join(c if c.isalnum() else "_" for c in path).strip("_")
    text = f"_{text}" if not text or text[:1].isdigit() else text
    return f"{text}_" if text in _TAKEN else text


def note(node: fx.Node, what: str) -> str:
    where = place(node)
    source = f"{where.source}  {where.line}  | " if where.source else ""
    return f"{source}{what}"

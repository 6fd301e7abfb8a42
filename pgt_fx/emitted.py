"""The graph of one step, with what is needed to plan, to run and to read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from pgt_fx.capture.export import place
from pgt_fx.plan import Schedulable


@dataclass
class Emitted:
    """The graph of one step, with what is needed to plan and to run it.

    Attributes:
        graph: fx graph; ``self`` in its code is the user's model with a ``markov`` module added.
        markov: the Markov operators by attribute name.
        schedulable: for :func:`pgt_fx.plan.plan`.
        notes: node name -> what to print beside it.
        outputs: per output of the model, the time dimension (None without one).
        origin: slot -> captured node whose elements it carries.
        owner: slot -> name of the captured node that it serves.
        constants: tensors lifted by the capture, by attribute name.
        made: node of the graph -> captured node whose value it gives.
    """

    graph: fx.Graph
    markov: dict[str, nn.Module] = field(default_factory=dict)
    schedulable: Schedulable = field(default_factory=Schedulable)
    notes: dict[str, str] = field(default_factory=dict)
    outputs: list[int | None] = field(default_factory=list)
    origin: dict[str, fx.Node] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)


def identifier(path: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in path).strip("_")
    return f"_{text}" if text[:1].isdigit() else text


def note(node: fx.Node, what: str) -> str:
    where = place(node)
    source = f"{where.source}  {where.line}  | " if where.source else ""
    return f"{source}{what}"

"""Writes into the model's own buffers, which one call leaves for the next.

Statistics and counters that only training reads are allowed. A buffer that the output is computed
from carries memory from call to call: those of a stream are the steps of one video.
"""

from __future__ import annotations

from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.observe.module_attributes import Memory
from pgt_fx.capture.observe.module_calls import place
from pgt_fx.capture.passes.alias_analysis import Aliases, written_by
from pgt_fx.core.errors import Place, Refusal


def refuse_kept(captured: Captured, aliases: Aliases) -> None:
    """Mark the writes into buffers that the answer is computed from, for the analysis to refuse.

    In training a buffer may be read that nothing of the video is written into (a counter of a
    warm-up, the vectors of a spectral norm): each step moves it on, and the report says so. So may
    a parameter at any time (its range is limited before it is used).
    """
    writes: dict[fx.Node, list[fx.Node]] = {}
    for node in captured.graph.nodes:
        for target in written_by(node):
            root = aliases.root(target)
            if root.name in captured.tensors or root.name in captured.constants:
                writes.setdefault(root, []).append(node)
    if not writes:
        return
    video = _behind(captured, aliases, [n for n in captured.graph.nodes if _of_video(captured, n)])
    for root, nodes in writes.items():
        path = captured.tensors.get(root.name, root.name.removeprefix("c_"))
        read = _behind(captured, aliases, [root])
        if not any(node.op == "output" for node in read):
            continue
        seen = any(n in video and aliases.root(n) is not root for w in nodes for n in _given(w))
        if not seen and root.name.startswith("p_"):
            continue
        if not seen and captured.training:
            where = place(nodes[0])
            module, _, name = path.rpartition(".")
            at = Place(name, module, where.source, where.line)
            captured.moving.append(Memory(path, at))
            continue
        # An assignment to the attribute has no line of its own.
        lines = [n.meta.get("stack_trace") for n in (nodes[0], *_given(nodes[0]))]
        nodes[0].meta["stack_trace"] = next((line for line in lines if line), "")
        nodes[0].meta["pgt_written"] = Refusal(
            f"writes into the model's buffer {path}, which its answer is computed from: what "
            "one call leaves there the next one reads, and the calls of a stream are the steps "
            "of one video",
            "pass it as an input and return what it becomes, or compute it from the video with "
            "operators along time",
        )


def _given(write: fx.Node) -> list[fx.Node]:
    return [n for n in write.all_input_nodes if n not in written_by(write)]


def _of_video(captured: Captured, node: fx.Node) -> bool:
    return node.op == "placeholder" and node.name in captured.inputs


def _behind(captured: Captured, aliases: Aliases, start: list[fx.Node]) -> set[fx.Node]:
    """All that is computed from some nodes, through the model's own memory as well."""
    families: dict[fx.Node, list[fx.Node]] = {}
    for node in captured.graph.nodes:
        families.setdefault(aliases.root(node), []).append(node)
    found: set[fx.Node] = set()
    queue = list(start)
    while queue:
        node = queue.pop()
        if node in found:
            continue
        found.add(node)
        for user in node.users:
            queue += [user] if user.meta.get("val") is None or _counts(captured, user) else []
            for target in written_by(user):
                queue += families.get(aliases.root(target), [])
    return found


def _counts(captured: Captured, node: fx.Node) -> bool:
    """Whether a value is more than a size other than the video's length."""
    value = node.meta["val"]
    return not hasattr(value, "node") or captured.has_time(value)

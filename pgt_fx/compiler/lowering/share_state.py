"""Share state: operators that read the same value carry its last elements (its tail) once.

What waits at a join are the last elements of a value, and so is what a window carries. Where one
always has as many as the other needs, the other reads it and carries nothing. Then a residual
connection around a convolution costs no state: the convolution carries the frames that wait.
"""

from __future__ import annotations

from collections import defaultdict

from pgt_fx.core.clock_equality import samples
from pgt_fx.core.clocks import Clock
from pgt_fx.runtime.markov.align import MarkovAlign
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.runtime.plan_items import TailItem
from pgt_fx.runtime.step_graph import Emitted

Carrier = MarkovWindow | MarkovAlign


def share(emitted: Emitted, ratio: tuple[int, ...]) -> None:
    """Let operators read the tail of another one where they can."""
    readers: defaultdict[tuple[str, Clock], list[Carrier]] = defaultdict(list)
    tails: dict[str, TailItem] = {}
    live = {node.slot for node in emitted.schedulable.nodes}
    for module in emitted.markov.values():
        if not isinstance(module, Carrier) or module.slot not in live:
            continue
        tail = emitted.schedulable.items[module.slot].tail
        whole = not isinstance(module, MarkovWindow) or (
            module.markov.exact and module.mode == "constant"
        )
        if tail is not None and whole and not module.axis.merged:
            tails[module.slot] = tail
            readers[emitted.origin[module.slot].name, tail.source].append(module)
    for (_, source), modules in readers.items():
        held = _carried(source, {m.slot: tails[m.slot] for m in modules}, ratio)
        if not any(held.values()):
            continue
        # The one that carries most owns the tail; the first of several that carry the same.
        for module in sorted(modules, key=lambda m: -sum(held[m.slot])):
            owner = next((o for o in modules if _serves(o, module, held)), None)
            if owner is not None and max(held[module.slot], default=0) > 0:
                module.tail = owner.slot
                emitted.shared[module.slot] = owner.slot


def _serves(owner: Carrier, reader: Carrier, held: dict[str, list[int]]) -> bool:
    """Whether ``owner`` always carries the elements that ``reader`` needs, and itself."""
    if owner is reader or owner.tail != owner.slot:
        return False
    # A window's tail begins with padding at the start of a video, and so must its owner's.
    same_fill = isinstance(owner, MarkovWindow) and owner.fill == getattr(reader, "fill", None)
    if isinstance(reader, MarkovWindow) and not same_fill:
        return False
    pairs = list(zip(held[owner.slot], held[reader.slot], strict=True))
    more = any(a > b for a, b in pairs)
    first = list(held).index(owner.slot) < list(held).index(reader.slot)
    return all(a >= b for a, b in pairs) and (more or first)


def _carried(
    source: Clock, tails: dict[str, TailItem], ratio: tuple[int, ...]
) -> dict[str, list[int]]:
    """How many elements of a value each operator carries at moments that tell them apart; none
    where several paths fed unevenly may differ."""
    outs = [tail.out for tail in tails.values()]
    if not all(out.follows(source) for out in outs):
        return {}
    (seen, *made), times = samples(ratio, source, *outs)
    return {
        slot: [tail.held(out.at(t, False).sure, seen.at(t, False).sure) for t in times]
        for (slot, tail), out in zip(tails.items(), made, strict=True)
    }

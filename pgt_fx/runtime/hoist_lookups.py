"""Hoist lookups: the generated code fetches each child of the user's model once per step, not once
per operator.

A step of a deep model fetches hundreds of weights and modules by paths of five or six names, and
``nn.Module`` looks every name up in three dictionaries: that is a tenth of a step with small
frames. Nothing is cached from one step to the next, so a replaced weight takes effect.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable

from torch import fx

from pgt_fx.runtime.step_graph import identifier


def hoisted(graph: fx.Graph) -> Callable[[list[str]], list[str]]:
    """A transformer for ``graph.on_generate_code``: what several paths begin with is fetched into
    a local variable in front of the first line that needs it."""
    targets = {n.target for n in graph.nodes if n.op in ("call_module", "get_attr")}
    parents = _shared(str(t) for t in targets)
    taken = {n.name for n in graph.nodes}
    local = {expression(p): _name(p, taken) for p in parents}
    longest_first = sorted(local, key=len, reverse=True)
    pattern = re.compile("|".join(f"{re.escape(e)}(?=[.,])" for e in longest_first))
    keywords = [p for p in {p for t in targets for p in _prefixes(str(t))} if _is_keyword(p)]

    def transform(body: list[str]) -> list[str]:
        for path in sorted(keywords, key=len):  # what a longer one is reached through, first
            parent, _, name = path.rpartition(".")
            written = re.compile(re.escape(f"{expression(parent)}.{name}") + r"\b")
            right = expression(path).replace("\\", r"\\")
            body = [written.sub(right, line) for line in body]
        if not local:
            return body
        out: list[str] = []
        known: set[str] = set()

        def short(text: str) -> str:
            return pattern.sub(lambda found: fetch(found[0]), text)

        def fetch(path: str) -> str:
            if path not in known:
                known.add(path)
                # What it is reached through comes first: a path never matches the whole of itself
                # here, as no name follows it.
                out.append(f"{local[path]} = {short(path)}\n")
            return local[path]

        for line in body:
            out.append(short(line))
        return out

    return transform


def expression(path: str) -> str:
    """A dotted path below ``self`` as fx writes it, but for Python's keywords (a ``ModuleDict`` may
    have a child ``global``), which fx takes for names."""
    out = "self"
    for name in path.split(".") if path else ():
        plain = name.isidentifier() and not keyword.iskeyword(name)
        out = f"{out}.{name}" if plain else f'getattr({out}, "{name}")'
    return out


def _is_keyword(path: str) -> bool:
    return keyword.iskeyword(path.rpartition(".")[2])


def _shared(targets: Iterable[str]) -> set[str]:
    """The paths of modules of which two or more children are needed."""
    prefixes = {p for target in targets for p in _prefixes(target)}
    children = Counter(p.rpartition(".")[0] for p in prefixes)
    return {path for path, count in children.items() if path and count > 1}


def _prefixes(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:k]) for k in range(1, len(names) + 1)]


def _name(path: str, taken: set[str]) -> str:
    name = f"in_{identifier(path)}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name

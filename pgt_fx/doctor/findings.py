"""What a diagnosis found, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pgt_fx.compiler.report import size
from pgt_fx.core.counts import counted
from pgt_fx.doctor.picture import Picture


@dataclass(frozen=True)
class Ahead:
    """An operator that looks into the future.

    Attributes:
        name: dotted path in the model, or the operator.
        what: the operator in short words.
        frames: how far ahead it looks, by itself.
        saves: frames by which the outputs would come earlier if it alone looked back only.
        state_bytes: what it carries, for a batch of one at the example's size; None where the
            model is refused.
        source, line: where in the model.
        change: what to do.
    """

    name: str
    what: str
    frames: int
    saves: int
    state_bytes: int | None
    source: str
    line: str
    change: str


@dataclass(frozen=True)
class Mixing:
    """An operator that needs all of time, or that can't be converted at all.

    Attributes:
        name: dotted path in the model, or the operator.
        verdict: "refused", "step" (computed within each step), "running" (exact at the end of the
            video with pooling="running").
        reason: why.
        source, line: where in the model.
        change: what to do.
    """

    name: str
    what: str
    verdict: str
    reason: str
    source: str
    line: str
    change: str


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        model: class of the model.
        clip: sizes of the example.
        verdict: "refused" | "within steps" | "late" | "causal".
        latency: frames that an exact output waits for; None where none is exact, or not known.
        best: the same if every operator of ``ahead`` looked back only.
        state_bytes: carried between steps.
        ahead: operators that look into the future, in the order of the model.
        mixing: operators that need all of time or are refused, in the order of the model.
        picture: the graph, coloured by verdict; None where the model could not be captured.
    """

    model: str
    clip: list[tuple[int, ...]]
    verdict: str
    latency: int | None
    best: int | None
    state_bytes: int | None
    ahead: tuple[Ahead, ...] = ()
    mixing: tuple[Mixing, ...] = ()
    picture: Picture | None = field(default=None, repr=False, compare=False)

    @property
    def summary(self) -> str:
        """One sentence or two."""
        refused = sum(m.verdict == "refused" for m in self.mixing)
        if self.verdict == "refused":
            where = f"{counted(refused, 'operator')} stand{'s' * (refused == 1)} in the way"
            return f"It can't be made progressive: {where}."
        if self.verdict == "within steps":
            inside = sum(m.verdict == "step" for m in self.mixing)
            who = f"{counted(inside, 'operator')} {'mixes' if inside == 1 else 'mix'}"
            return (
                f"It runs progressively; {who} all of time, computed within each step, so that "
                "its outputs depend on how the video is cut."
            )
        state = f"a state of {size(self.state_bytes or 0)}"
        if self.verdict == "causal":
            return f"It streams exactly, without delay, with {state}."
        late = counted(self.latency or 0, "frame")
        return (
            f"It streams exactly, {late} late, with {state}; it would be {self.best} late if "
            "every operator below looked back only."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON-able)."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("picture", "ahead", "mixing")}
        return {
            **plain,
            "summary": self.summary,
            "ahead": [asdict(a) for a in self.ahead],
            "mixing": [asdict(m) for m in self.mixing],
        }

    @property
    def changes(self) -> dict[str, list[str]]:
        """What to change, and the operators that it is about."""
        rows: list[Mixing | Ahead] = [*self.mixing, *self.ahead]
        out: dict[str, list[str]] = {}
        for row in rows:
            if row.change and row.name not in out.setdefault(row.change, []):
                out[row.change].append(row.name)
        return out

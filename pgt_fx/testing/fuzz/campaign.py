"""Random graphs × cuts × dtypes × options for as long as there is time; what fails is shrunk and
written to a file that shows it."""

from __future__ import annotations

import hashlib
import json
import pprint
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgt_fx.core.counts import counted
from pgt_fx.core.errors import PgtError, of_this_machine
from pgt_fx.testing.fuzz.case import HEADS, Case, Fault, check, first_chunk, runs, sensitive
from pgt_fx.testing.fuzz.strategies import (
    chunkings,
    example_frames,
    graphs,
    minimum_frames,
    ops,
    way,
)

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

#: Cases drawn from one seed; between two of them the clock is read and counts are reported.
BATCH = 40
#: Ways to cut the video for each graph: a capture costs far more than a run.
CHUNKINGS = 3

#: Operators that half of the graphs have besides.
MORE = ("branch", "positions", "attention")
OPERATORS = ("mco", "mco", "mco", "cmco-avg", "cmco-max", "pmco")


def cases() -> SearchStrategy[Case]:
    """Cases of all kinds."""
    from hypothesis import strategies as st

    def whole(draw: DrawFn) -> Case:
        spec = draw(graphs(more=draw(st.sampled_from([(), MORE]))))
        future = draw(st.sampled_from(["wait", "zero"]))
        operator = "mco" if future == "wait" else draw(st.sampled_from(OPERATORS))
        head = draw(st.sampled_from(("", "", *HEADS)))
        pooling = draw(st.sampled_from(["step", "running", "markov"])) if head else "step"
        if future == "wait" and pooling == "markov":
            pooling = "running"
        case: Case = {
            "spec": spec,
            "head": head,
            "frames": minimum_frames(spec) + draw(st.integers(0, 40)),
            "seed": draw(st.integers(0, 3)),
            "dtype": draw(st.sampled_from(["float64", "float64", "float32", "bfloat16"])),
            "options": {
                "operator": operator,
                "future": future,
                "pooling": pooling,
                "check": draw(st.integers(0, 3)) == 0,  # it takes longer than the rest
            },
            "gradients": draw(st.integers(0, 3)) == 0,
        }
        first = first_chunk(case) if future == "zero" else 1
        case["chunks"] = [_cut(draw, st, case["frames"], first) for _ in range(CHUNKINGS)]
        return case

    return st.composite(whole)()


def _cut(draw: DrawFn, st: Any, frames: int, first: int) -> list[int]:
    longest = draw(st.sampled_from([1, 2, 3, 5, 8, 16, frames]))
    head = draw(st.integers(first, max(first, min(longest, frames))))
    return [head] if head == frames else [head, *draw(chunkings(frames - head, longest))]


@dataclass
class Failure:
    """A failure, shrunk.

    Attributes:
        message: what did not hold.
        case: the smallest case found that shows it.
        file: the reproducer.
        error: an error that nobody foresaw kept the case from being checked: no promise is known
            to be broken.
    """

    message: str
    case: Case
    file: Path
    error: bool = False


@dataclass
class Campaign:
    """What a run of the fuzzer did.

    Attributes:
        checked: cases that were measured.
        discarded: cases that would have proved nothing: time did not matter, or torch has no
            such operator in the dtype.
        counts: measured cases by kind.
    """

    seconds: float = 0.0
    checked: int = 0
    discarded: int = 0
    steps: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data (JSON-able)."""
        failures = [
            {"message": f.message, "file": str(f.file), "error": f.error} for f in self.failures
        ]
        return {
            "seconds": round(self.seconds),
            "checked": self.checked,
            "discarded": self.discarded,
            "chunkings": CHUNKINGS * self.checked,
            "steps": self.steps,
            "counts": dict(sorted(self.counts.items())),
            "failures": failures,
        }

    def __str__(self) -> str:
        lines = [
            f"{counted(self.checked, 'random graph')}, "
            f"{counted(CHUNKINGS * self.checked, 'chunking')}, {counted(self.steps, 'step')} "
            f"in {self.seconds / 60:.1f} minutes; {self.discarded} discarded (time did not "
            "matter, or torch has no such operator in the dtype)",
            ", ".join(f"{k} {n}" for k, n in sorted(self.counts.items())),
        ]
        for f in self.failures:
            kind = "ERROR, not checked:" if f.error else "FAILED"
            lines.append(f"{kind} {f.message}\n  shrunk, in {f.file}")
        errors = sum(f.error for f in self.failures)
        found = [counted(len(self.failures) - errors, "failure")] * (len(self.failures) > errors)
        found += [counted(errors, "error")] * bool(errors)
        lines.append(
            " and ".join(found) if found else "all hold" if self.checked else "none checked"
        )
        return "\n".join(lines)


def fuzz(
    minutes: float,
    seed: int = 0,
    folder: Path = Path(),
    tell: Callable[[Campaign], object] | None = None,
) -> Campaign:
    """Draw and check cases until the time is over.

    Args:
        minutes: how long; a failure that is being shrunk may take a little longer.
        seed: of the first batch; each batch takes the next number.
        folder: where reproducers are written.
        tell: called after every batch.
    """
    campaign = Campaign()
    start = time.monotonic()
    end = start + 60 * minutes
    while time.monotonic() < end:
        _batch(campaign, seed, end, folder)
        seed += 1
        campaign.seconds = time.monotonic() - start
        if tell is not None:
            tell(campaign)
    return campaign


def _batch(campaign: Campaign, seed: int, end: float, folder: Path) -> None:
    import hypothesis
    from hypothesis import HealthCheck, Phase

    failing: list[tuple[Case, Exception]] = []
    unable: list[Exception] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @hypothesis.given(cases())
    def one(case: Case) -> None:
        if unable or (time.monotonic() > end and not failing):
            return
        if not sensitive(case) or not runs(case):
            campaign.discarded += not failing
            hypothesis.assume(False)
        try:
            check(case)
        except Exception as error:  # an error that nobody foresaw is shrunk as a fault is
            if of_this_machine(error):
                unable.append(error)  # not raised: Hypothesis would take it for a failure
                return
            failing.append((case, error))
            raise
        if not failing:
            _count(campaign, case)

    try:
        one()
    except hypothesis.errors.Unsatisfiable:
        return  # the time was over, or nothing that was drawn depended on time
    except Exception:
        if not failing:
            raise
    if unable:
        raise unable[0]
    if failing:
        # Hypothesis runs the smallest failing case last.
        case, error = failing[-1]
        message = f"{type(error).__name__}: {error.args[0] if error.args else error}"
        if all(_kind(message) != _kind(f.message) for f in campaign.failures):
            unforeseen = not isinstance(error, (Fault, PgtError))
            file = write(case, message, folder)
            campaign.failures.append(Failure(message, case, file, unforeseen))


def _count(campaign: Campaign, case: Case) -> None:
    campaign.checked += 1
    campaign.steps += sum(len(c) for c in case["chunks"])
    options = case["options"]
    kinds = [case["dtype"], f"future={options['future']}", f"operator={options['operator']}"]
    kinds.append(f"head={case['head'] or 'none'}" + f"/{options['pooling']}" * bool(case["head"]))
    kinds.append("videos" if case["spec"]["dims"] == 3 else "features")
    kinds += ["self-check"] * options["check"]
    kinds += [kind for kind in MORE if kind in ops(case["spec"])]
    if way(case["spec"], case["frames"]) != way(case["spec"], example_frames(case["spec"])):
        kinds.append("refused: another way of a branch")
    kinds += ["gradients"] * (case["gradients"] and case["dtype"] == "float64")
    campaign.counts.update(kinds)


def _kind(message: str) -> str:
    """A message without its numbers: two failures of one kind are reported once."""
    return "".join(c for c in message if not c.isdigit())[:60]


def write(case: Case, message: str, folder: Path) -> Path:
    """A file that shows a failure: a script, and a test for pytest."""
    digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:10]
    path = folder / f"test_fuzz_{digest}.py"
    body = pprint.pformat(case, width=96, sort_dicts=False)
    first_line = message.splitlines()[0].replace("\\", "\\\\").replace('"""', "'''")
    path.write_text(
        f'"""{first_line}\n\nFound by `pgt-fx fuzz`. Run this file, or pytest on it.\n"""\n\n'
        "from pgt_fx.testing.fuzz.case import check\n\n"
        f"CASE = {body}\n\n\n"
        "def test_it_holds() -> None:\n    check(CASE)\n\n\n"
        'if __name__ == "__main__":\n    check(CASE)\n    print("it holds now")\n',
        encoding="utf-8",
    )
    return path

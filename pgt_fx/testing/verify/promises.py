"""The promises of a progressive model, each with the measurement that shows it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

from pgt_fx.core.errors import OptionError
from pgt_fx.testing.verify import equality, field, locality, past, repeat, stream, training
from pgt_fx.testing.verify.result import Check

#: id, promise, measurement; in this order.
CHECKS: tuple[tuple[str, str, Callable[..., Check]], ...] = (
    (
        "time-sensitive",
        "shuffling the frames changes the model's output (else nothing below could show a fault)",
        equality.time_sensitive,
    ),
    (
        "full-equals-model",
        "the whole video in one step gives the model's own answer",
        equality.full_equals_model,
    ),
    (
        "exact-wait",
        "under future='wait' the steps together give the model's own answer, however it is cut",
        equality.exact_wait,
    ),
    (
        "exact-zero",
        "under future='zero' the outputs that exact_frames names are the model's own",
        equality.exact_zero,
    ),
    (
        "exact-tight",
        "under future='zero' the outputs that exact_frames does not name really differ",
        equality.exact_tight,
    ),
    (
        "one-way-forward",
        "no answer depends, to the last bit, on frames of later steps",
        locality.one_way_forward,
    ),
    (
        "one-way-backward",
        "no gradient of a step reaches an earlier step; each gives one to every parameter it uses",
        locality.one_way_backward,
    ),
    (
        "rows-isolated",
        "a video of a batch doesn't change the answers to the others",
        locality.rows_isolated,
    ),
    (
        "state-bounded",
        "the state stops growing, owns its memory and holds no autograd graph",
        stream.state_bounded,
    ),
    (
        "reset",
        "after reset() the answers are those of a new object, to the last bit",
        stream.reset,
    ),
    (
        "deterministic",
        "the same video gives the same answers, to the last bit",
        repeat.deterministic,
    ),
    (
        "state-round-trip",
        "a state that was saved and loaded goes on to the same answers, to the last bit",
        repeat.state_round_trip,
    ),
    (
        "mode-switching",
        "train() and eval() in the middle of a video leave its answers as they are",
        repeat.mode_switching,
    ),
    (
        "receptive-field",
        "no output depends on a frame outside the field that the analysis gives it",
        field.receptive_field,
    ),
    (
        "context",
        "each operator hands on what the paper's recursion says (CMCO, PMCO)",
        past.context,
    ),
    (
        "gradients-equal-model",
        "the gradients of the clip in one step are the model's own",
        training.gradients_equal_model,
    ),
    (
        "exact-gradients",
        "gradients step by step equal those of all steps in one graph",
        training.exact_gradients,
    ),
    (
        "replayed",
        "in train mode a recomputed step sees the same dropout and updates no statistics again",
        training.replayed,
    ),
)

#: Promises with a bound: in low precision what surpasses it may be rounding, and what stays below
#: may be a difference all the same.
ROUNDED = frozenset(
    {
        "full-equals-model",
        "exact-wait",
        "exact-zero",
        "exact-tight",
        "context",
        "gradients-equal-model",
        "exact-gradients",
        "replayed",
    }
)


def check_names(option: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    """Whether there are checks of these names.

    Raises:
        OptionError: with the nearest names, and all of them.
    """
    unknown = [name for name in dict.fromkeys(wanted) if name not in known]
    if not unknown:
        return
    near = difflib.get_close_matches(str(unknown[0]), known, 2, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    names = ", ".join(map(repr, unknown))
    raise OptionError(
        f"{option}: there is no check {names}{hint or '.'} The checks: {', '.join(known)}"
    )

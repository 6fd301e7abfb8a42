"""One verification: what its checks share, made once; each check made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from pgt_fx.compiler.selfcheck.measure import error
from pgt_fx.compiler.selfcheck.trials import SLACK
from pgt_fx.compiler.selfcheck.videos import device_of, measurable, short
from pgt_fx.core.errors import OptionError, of_this_machine
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.demanded import demanded, look_ahead, state_bytes
from pgt_fx.testing.verify.in_time import in_time
from pgt_fx.testing.verify.locality import INERT
from pgt_fx.testing.verify.locate import locate
from pgt_fx.testing.verify.outcome import unmade
from pgt_fx.testing.verify.promises import CHECKS, ROUNDED
from pgt_fx.testing.verify.record import record_of
from pgt_fx.testing.verify.required import LIMITS, LOOK_AHEAD, PROMISED, Requirements
from pgt_fx.testing.verify.result import Check, Verification
from pgt_fx.testing.verify.subject import Subject
from pgt_fx.testing.verify.training import gradient_rounding

#: Checks of which gradients are the figure; and the most that these may be said to round by.
#: Checks that are made of the very program that was given, where the others are made of its model
#: captured anew in another dtype.
AS_GIVEN = ("full-equals-model", "exact-wait", "exact-zero")
OF_GRADIENTS = ("gradients-equal-model", "exact-gradients", "replayed")
ROUGHEST = 5e-3

Measure = Callable[..., Check]


def settings_of(chunkings: object, dtype: object) -> None:
    """Refuse settings under which nothing would be measured, or not what was asked for.

    Raises:
        OptionError: saying what was expected.
    """
    if not isinstance(chunkings, int) or chunkings < 1:
        raise OptionError(f"chunkings: expected at least 1, got {chunkings!r}")
    measurable(dtype)


class Session:
    """The checks of one progressive model; arguments as for :func:`pgt_fx.verify`.

    Raises:
        OptionError: see :func:`settings_of`.
    """

    def __init__(
        self,
        prog: Progressive,
        chunkings: int = 5,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        redraw_norms: bool = True,
        video: Any = None,
        frames: int | None = None,
        required: Requirements | None = None,
    ) -> None:
        settings_of(chunkings, dtype)
        self.prog, self.chunkings = prog, chunkings
        self.required = required or Requirements()
        #: Ids of what has to hold: what is required, and what the options promise.
        promises = prog.options.future == "wait" and prog.options.strict
        self.must = self.required.checks | (set(PROMISED) if promises else set())
        self.settings = {
            "chunkings": chunkings,
            "seed": seed,
            "dtype": short(dtype),
            "redraw_norms": redraw_norms,
            "frames": frames,
            "video": "noise" if video is None else "given",
            "device": str(device_of(prog)),
        }
        self.made_of = (seed, redraw_norms, video, frames)
        self.subject = Subject(prog, dtype, *self.made_of)
        self.name = type(prog.inspect.model).__name__
        self.made: dict[str, Check] = {}
        self.broken = _prepared(self.subject)

    def check(self, name: str) -> Check:
        """Make a check, once."""
        if name not in self.made:
            if name in LIMITS:
                found = self._limited(name)
            else:
                found = self._sobered(self._make(name))
            if name in self.must:
                found = demanded(found, self.prog, self.subject.waiting.report)
            self.made[name] = found
        return self.made[name]

    def verification(self) -> Verification:
        """All checks made so far."""
        order = [name for name in (*(c[0] for c in CHECKS), *LIMITS) if name in self.made]
        checks = tuple(self.made[name] for name in order)
        prog = self.prog
        evaluated = self.subject.answering.replace(
            operator=prog.options.operator,
            future=prog.options.future,
            pooling=prog.options.pooling,
        )
        must = self.must & set(order)
        kept = self.required.also(sorted(must - self.required.checks))
        settings = {**self.settings, "checks": order, "required": kept.to_dict()}
        record = record_of(prog, evaluated, settings)
        record["time"] = in_time(prog, self.subject.waiting.report)
        return Verification(self.name, self.subject.setting(), checks, record, must)

    def _limited(self, name: str) -> Check:
        """A check whose bound is the user's."""
        check = Check(name, LIMITS[name], None)
        try:
            if name == LOOK_AHEAD:
                report, allowed = self.subject.answering.report, self.required.look_ahead or 0
                return look_ahead(check, report, allowed, self.check("receptive-field"))
            return state_bytes(check, self.subject, self.prog, self.required.max_state or 0)
        except Exception as error:
            return unmade(check, error)

    def _make(self, name: str) -> Check:
        _, sentence, measure = next(c for c in CHECKS if c[0] == name)
        if self.broken is not None and name != "time-sensitive":
            return self._located(_full_raised(name, sentence, self.broken), self.subject)
        if name in AS_GIVEN and self.subject.anew:
            given = self._as_given(name, sentence, measure)
            if given is not None:
                return given
        found = _guarded(name, sentence, measure, self.subject, self.chunkings)
        if found.ok is False and name in ROUNDED and self.subject.dtype != torch.float64:
            found = self._repeated(found, measure, self.subject, self._double)
        return self._located(found, self.subject)

    def _located(self, found: Check, subject: Subject) -> Check:
        """With the place to look at, where it did not hold or ended in an error."""
        if found.ok is not False and not found.error:
            return found
        return replace(found, where=locate(found, subject, self.chunkings) or found.where)

    def _as_given(self, name: str, sentence: str, measure: Measure) -> Check | None:
        """The check in the model's own dtype, where it was captured anew for another one: of what
        was given. None where it holds, or says nothing."""
        given = self._given
        if (broken := _prepared(given)) is not None:
            found = _full_raised(name, sentence, broken)
        else:
            found = _guarded(name, sentence, measure, given, self.chunkings)
        if found.ok is False and given.dtype != torch.float64:
            exact = self.subject if self.subject.dtype == torch.float64 else self._double
            found = self._repeated(found, measure, given, exact)
        if found.ok is not False and not found.error:
            return None
        kind = short(given.dtype)
        detail = f"{found.detail}; of the program as it was given, in {kind}"
        return self._located(replace(found, detail=detail), given)

    @cached_property
    def _given(self) -> Subject:
        own = next(p.dtype for p in self.prog.parameters() if p.is_floating_point())
        return Subject(self.prog, own, *self.made_of)

    # -- rounding ------------------------------------------------------------------------------

    @cached_property
    def _double(self) -> Subject | None:
        """The same weights in float64; None where the model can't run in it."""
        subject = self.subject
        own = subject.answering
        exact = Subject(own, torch.float64, subject.seed, False, subject.given, subject.frames)
        if exact.dtype != torch.float64 or _prepared(exact) is not None:
            return None
        return exact

    def _own_rounding(self, name: str, low: Subject, exact: Subject) -> tuple[float, str]:
        """What a check's figure may be compared with, and in words; of gradients at most
        :data:`ROUGHEST`, as a larger bound could hide a fault."""
        rounding = error(low.clip_output, exact.clip_output)
        if name not in OF_GRADIENTS:
            return rounding, f"the model itself rounds by {rounding:.0e}"
        found = gradient_rounding(low, exact, training=name != "exact-gradients")
        own = f"the model's own gradients round by {found:.0e}"
        return max(rounding, min(found, ROUGHEST)), own

    def _repeated(
        self, found: Check, measure: Measure, low: Subject, exact: Subject | None
    ) -> Check:
        """A failure in low precision, measured again in float64 before it is called one."""
        kind = short(low.dtype)
        if exact is None:
            detail = f"{found.detail}; could not be repeated: the model fails in float64"
            return replace(found, detail=detail)
        again = _guarded(found.id, found.sentence, measure, exact, self.chunkings)
        if again.error:
            detail = f"{found.detail}; could not be repeated in float64: {again.detail}"
            return replace(found, detail=detail)
        if again.ok is False:
            detail = f"{again.detail}; also in float64, so it is no rounding"
            return replace(again, detail=detail)
        if not isinstance(found.measured, float) or not isinstance(again.measured, float):
            if exact.anew:  # what holds there is not the program that failed here
                return found
            detail = f"{found.detail}; {found.measured} in {kind}, in float64: {again.measured}"
            return replace(found, ok=again.ok, detail=detail)
        rounding, own = self._own_rounding(found.id, low, exact)
        allowed = SLACK * max(rounding, torch.finfo(low.dtype).eps)
        holds = f"holds in float64 ({again.measured:.0e})"
        if found.measured <= allowed:
            reason = f"{found.measured:.0e} in {kind} is rounding: {holds}, and {own}"
            return replace(found, ok=True, bound=allowed, detail=f"{found.detail}; {reason}")
        detail = f"{found.detail}; {holds}, but {found.measured:.0e} in {kind} is too much: {own}"
        return replace(found, detail=detail)

    # -- models to which time is all one -------------------------------------------------------

    def _sobered(self, found: Check) -> Check:
        """Comparisons that hold prove nothing of a model that ignores the order of frames; nor is
        it a fault that what ought to differ does not, where nothing ever does."""
        equalities = {"full-equals-model", "exact-wait", "exact-zero"}
        all_equal = found.id == "exact-tight" or found.measured == INERT
        telling = found.ok is False if all_equal else found.id in equalities and found.ok
        if not telling or self.check("time-sensitive").ok:
            return found
        if all_equal:
            detail = f"{found.detail}; which is no fault: see time-sensitive"
            return replace(found, ok=None, detail=detail, where="")
        return replace(found, ok=None, detail="equal, which proves nothing: see time-sensitive")


def _prepared(subject: Subject) -> Exception | None:
    """Why the progressive model can't even take the whole video in one step; None if it can."""
    try:
        subject.prepare()
    except Exception as error:
        if of_this_machine(error):
            raise
        return error
    return None


def _full_raised(name: str, sentence: str, error: Exception) -> Check:
    found = unmade(Check(name, sentence, None), error)
    return replace(found, measured="full() raised") if found.measured else found


def _guarded(name: str, sentence: str, measure: Measure, subject: Subject, chunkings: int) -> Check:
    """A check; an exception is reported as what it is (:func:`unmade`)."""
    check = Check(name, sentence, None)
    try:
        with torch.enable_grad():  # also where the caller has switched it off
            return measure(check, subject, chunkings)
    except Exception as error:
        return unmade(check, error, getattr(subject, "refusal", ""))

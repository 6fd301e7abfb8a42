"""A certificate: what was checked, on what, with figures; written, read, and checked again.

It is JSON, never a pickle. A digest over its contents shows that it is whole and unchanged; it is
no signature: whoever can write the file can write another digest. Checking it again measures anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pgt_fx.core.errors import OptionError
from pgt_fx.core.options import MarkovOperator
from pgt_fx.runtime.progressive import Progressive
from pgt_fx.testing.verify.causal import verify_causal
from pgt_fx.testing.verify.certificate_file import kind_of, read
from pgt_fx.testing.verify.contract import verify
from pgt_fx.testing.verify.in_time import better, worse
from pgt_fx.testing.verify.record import CAUSAL
from pgt_fx.testing.verify.required import LIMITS, Requirements, known_words, requirements
from pgt_fx.testing.verify.result import Check, Verification


@dataclass(frozen=True)
class Certificate:
    """A certificate that was read.

    Attributes:
        data: all it says, as plain data.
        verification: its checks.
    """

    data: dict[str, Any]
    verification: Verification

    @property
    def causal(self) -> bool:
        """Whether it is of a model that is causal as it is, and not of a progressive one."""
        return kind_of(self.data) == CAUSAL

    def recheck(
        self, model: nn.Module, example: Any = None, required: Requirements | None = None
    ) -> tuple[Verification, list[str], list[str]]:
        """Measure again what was measured, with the same seeds, cuts and dtype.

        A certificate promises what it records: what held has to hold, and what was required is
        required again. Exactness, look-ahead and state may become no worse.

        Args:
            model: of a progressive model, what ``transform`` returned; its options are set to
                those of the certificate. For a certificate of a causal model that model as it is.
            example: of a causal model, as for :func:`~pgt_fx.testing.verify.causal.verify_causal`.
            required: what has to hold beside that; see :meth:`requirements`.

        Returns:
            the new verification; what contradicts the certificate (empty: it still holds): first
            what has become worse along time, with the line of the model where one was found, then
            checks with another result (those that by :meth:`unmeasured` could not be made this
            time), then that the model is another one; and what else has changed: other weights,
            another version of torch. A check that ends in an error contradicts nothing and
            confirms nothing: it is among the ``errors`` of the new verification.

        Raises:
            OptionError: for a model of the other kind, or an example of a progressive model.
        """
        demands = self.promised.and_those(required or Requirements(plain=self.causal))
        measure = self._causal if self.causal else self._progressive
        found = measure(model, example, demands)
        return found, self._contradictions(found), self._notes(found)

    @property
    def promised(self) -> Requirements:
        """What the certificate promises: what was required, and every check that held."""
        data = self.data["settings"].get("required", {})
        asked = requirements(**data, plain=self.causal)
        known = known_words(self.causal)
        return asked.also([c.id for c in self.verification.checks if c.ok and c.id in known])

    def requirements(self, *asked: Any) -> Requirements:
        """As :func:`~pgt_fx.testing.verify.required.requirements`, for a model of this kind."""
        return requirements(*asked, plain=self.causal)

    def exactness_lost(self, where: str) -> list[str]:
        """What contradicts the certificate where ``transform`` refuses what it had taken: that the
        model is exact no more; nothing, where it was not.

        Args:
            where: the operators and lines that make it so.
        """
        now = {"exact": False, "operators": [{"name": "", "exact": False, "where": where}]}
        return worse(self._recorded, now)

    def unmeasured(self, found: Verification) -> list[str]:
        """Those contradictions that only tell that what held could not be measured again."""
        return [_other_result(c, True) for c in self._compared(found) if c.ok is None]

    def _causal(self, model: nn.Module, example: Any, required: Requirements) -> Verification:
        if isinstance(model, Progressive):
            raise OptionError(
                "model: the certificate is of a model that is causal as it is, got a progressive "
                "one; pass the model that was transformed"
            )
        settings = self.data["settings"]
        return verify_causal(
            model,
            example,
            time_dim=settings.get("time_dim"),
            checks=settings["checks"],
            seed=settings["seed"],
            dtype=getattr(torch, settings["dtype"]),
            redraw=settings["redraw_norms"],
            frames=settings.get("frames"),
            require=required.words,
            max_look_ahead=required.max_look_ahead,
        )

    def _progressive(self, prog: nn.Module, example: Any, required: Requirements) -> Verification:
        if not isinstance(prog, Progressive):
            raise OptionError(
                f"model: the certificate is of a progressive model, got {type(prog).__name__}; use "
                "pgt_fx.transform(model, example, strict=False)"
            )
        if example is not None:
            raise OptionError("example: a progressive model has its example; pass it alone")
        settings = self.data["settings"]
        options = settings["options"]
        prog = prog.replace(
            operator=MarkovOperator(**options["operator"]),
            future=options["future"],
            pooling=options["pooling"],
            strict=False,
        )
        return verify(
            prog,
            checks=[name for name in settings["checks"] if name not in LIMITS],
            chunkings=settings["chunkings"],
            seed=settings["seed"],
            dtype=getattr(torch, settings["dtype"]),
            redraw_norms=settings["redraw_norms"],
            frames=settings.get("frames"),
            require=required.words,
            max_look_ahead=required.max_look_ahead,
            max_state=required.max_state,
        )

    def _contradictions(self, found: Verification) -> list[str]:
        old = {c.id: c for c in self.verification.checks}
        out = worse(*self._in_time(found))
        for check in found.checks:
            was = old.get(check.id, check)
            # A limit that was not there before is no promise of the certificate.
            tighter = check.id in LIMITS and check.ok is False and check.bound != was.bound
            if check.ok is not was.ok and not tighter and not check.error:
                out.append(_other_result(check, was.ok))
        before, now = self.data["model"], found.record["model"]
        if before["structure"] != now["structure"]:
            out.append(f"the model is built in another way than the {before['name']} certified")
        return out

    def _compared(self, found: Verification) -> list[Check]:
        """Checks that held, as they were found now."""
        held = {c.id for c in self.verification.checks if c.ok}
        return [c for c in found.checks if c.id in held]

    @property
    def _recorded(self) -> dict[str, Any]:
        """What was recorded along time; of certificates that have no such record, that the model
        was exact."""
        exact = any(c.id == "exact-wait" and c.ok for c in self.verification.checks)
        recorded: dict[str, Any] = self.data.get("time", {"exact": exact})
        return recorded

    def _in_time(self, found: Verification) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._recorded, found.record["time"]

    def _notes(self, found: Verification) -> list[str]:
        out = better(*self._in_time(found)) if "time" in self.data else []
        if self.data["settings"].get("video") == "given":
            out.append("it was measured on a video of its own; this time on noise")
        if self.data["model"]["weights"] != found.record["model"]["weights"]:
            out.append("the weights are others than those certified")
        before, now = (r["settings"].get("device") for r in (self.data, found.record))
        if before != now:
            out.append(f"it was measured on {before}, this time on {now}")
        before, now = (r["model"].get("clip") for r in (self.data, found.record))
        if before != now:
            out.append(f"the clip's sizes were {before}, and are {now}")
        versions = found.record["versions"]
        for name, was in self.data["versions"].items():
            if versions.get(name) != was:
                out.append(f"{name} was {was}, is {versions.get(name, 'not there')}")
        return out


def load(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        CertificateError: when it is no certificate, truncated, changed, or contradicts itself.
        FileNotFoundError: when there is no such file.
    """
    data, found = read(path)
    checks = (found.model, found.setting, found.checks, found.record, found.required)
    return Certificate(data, Verification(*checks))


def _other_result(check: Check, was: bool | None) -> str:
    words = {True: "held", False: "was violated", None: "could not be checked"}
    return f"{check.id} {words[was]}, and now: {check}"

"""A certificate: what was checked, on what, with figures; written, read, and checked again.

It is JSON, never a pickle. A digest over its contents shows that it is whole and unchanged; it is
no signature: whoever can write the file can write another digest. Checking it again measures anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pgt_fx.errors import OptionError, PgtError
from pgt_fx.options import MarkovOperator
from pgt_fx.progressive import Progressive
from pgt_fx.verification.causal import verify_causal
from pgt_fx.verification.contract import verify
from pgt_fx.verification.record import CAUSAL, PROGRESSIVE
from pgt_fx.verification.result import Check, Verification

FORMAT, VERSION = "pgt_fx certificate", 1

#: Key -> type, of the whole and of a check.
_WHOLE = {
    "format": str,
    "version": int,
    "created": str,
    "model": dict,
    "settings": dict,
    "versions": dict,
    "setting": str,
    "ok": bool,
    "decided": bool,
    "checks": list,
    "digest": str,
}
_MODEL = {"name": str, "given": dict, "structure": str, "weights": str}
_SETTINGS = {"seed": int, "dtype": str, "redraw_norms": bool, "checks": list}
#: The settings of each kind beside these.
_KINDS = {PROGRESSIVE: {"chunkings": int, "options": dict}, CAUSAL: {}}
_CHECK = {"id": str, "sentence": str, "detail": str, "where": str}


class CertificateError(PgtError, ValueError):
    """A certificate that can't be trusted or read: truncated, changed, or not one at all."""


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
        return _kind(self.data) == CAUSAL

    def recheck(
        self, model: nn.Module, example: Any = None
    ) -> tuple[Verification, list[str], list[str]]:
        """Measure again what was measured, with the same seeds, cuts and dtype.

        Args:
            model: of a progressive model, what ``transform`` returned; its options are set to
                those of the certificate. For a certificate of a causal model that model as it is.
            example: of a causal model, as for :func:`~pgt_fx.verification.causal.verify_causal`.

        Returns:
            the new verification; what contradicts the certificate (empty: it still holds), with
            the line of the model where one was found; and what else has changed: other weights,
            another version of torch. A check that ends in an error contradicts nothing and
            confirms nothing: it is among the ``errors`` of the new verification.

        Raises:
            OptionError: for a model of the other kind, or an example of a progressive model.
        """
        found = self._causal(model, example) if self.causal else self._progressive(model, example)
        return found, self._contradictions(found), self._notes(found)

    def _causal(self, model: nn.Module, example: Any) -> Verification:
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
        )

    def _progressive(self, prog: nn.Module, example: Any) -> Verification:
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
            checks=settings["checks"],
            chunkings=settings["chunkings"],
            seed=settings["seed"],
            dtype=getattr(torch, settings["dtype"]),
            redraw_norms=settings["redraw_norms"],
            frames=settings.get("frames"),
        )

    def _contradictions(self, found: Verification) -> list[str]:
        out = []
        before, now = self.data["model"], found.record["model"]
        if before["structure"] != now["structure"]:
            out.append(f"the model is built in another way than the {before['name']} certified")
        old = {c.id: c for c in self.verification.checks}
        for check in found.checks:
            was = old[check.id].ok
            if check.ok is not was and not check.error:
                words = {True: "held", False: "was violated", None: "could not be checked"}
                out.append(f"{check.id} {words[was]}, and now: {check}")
        return out

    def _notes(self, found: Verification) -> list[str]:
        out = []
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


def save(found: Verification, path: str | os.PathLike[str]) -> None:
    """Write the certificate of a verification.

    Raises:
        CertificateError: for a verification that was put together by hand: it has no record; and
            for one with checks that were not made because of an error.
    """
    if not found.record:
        raise CertificateError("this verification has no record of its settings; use verify()")
    if found.errors:
        told = "".join(f"\n  {check}" for check in found.errors)
        raise CertificateError(
            "there is nothing to certify where checks were not made because of an error: mend its "
            f"cause, or leave these checks out:{told}"
        )
    data = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **found.record,
        "setting": found.setting,
        "ok": found.ok,
        "decided": found.decided,
        "checks": [asdict(c) for c in found.checks],
    }
    data["digest"] = _digest(data)
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def load(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        CertificateError: when it is no certificate, truncated, changed, or contradicts itself.
        FileNotFoundError: when there is no such file.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CertificateError(
            f"{path}: not whole: JSON ends or breaks in line {error.lineno} ({error.msg})"
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CertificateError(f"{path}: not a certificate of pgt_fx")
    if data.get("version") != VERSION:
        raise CertificateError(
            f"{path}: a certificate of version {data.get('version')!r}; expected {VERSION}"
        )
    if data.get("digest") != _digest(data):
        raise CertificateError(f"{path}: it was changed after it was written: its digest is wrong")
    _expect(path, "", data, _WHOLE)
    _expect(path, "model.", data["model"], _MODEL)
    if _kind(data) not in _KINDS:
        raise CertificateError(
            f"{path}: kind: expected {' or '.join(_KINDS)}, found {_kind(data)!r}"
        )
    _expect(path, "settings.", data["settings"], _SETTINGS | _KINDS[_kind(data)])
    checks = tuple(_check(path, n, c) for n, c in enumerate(data["checks"]))
    record = {k: data[k] for k in ("kind", "model", "settings", "versions") if k in data}
    found = Verification(data["model"]["name"], data["setting"], checks, record)
    if [c.id for c in checks] != data["settings"]["checks"]:
        raise CertificateError(f"{path}: contradicts itself: other checks than its settings name")
    if (found.ok, found.decided) != (data["ok"], data["decided"]):
        raise CertificateError(f"{path}: contradicts itself: its verdict is not that of its checks")
    return Certificate(data, found)


def _kind(data: Mapping[str, Any]) -> Any:
    return data.get("kind", PROGRESSIVE)


def _digest(data: Mapping[str, Any]) -> str:
    plain = {k: v for k, v in data.items() if k != "digest"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _expect(path: Any, prefix: str, data: Any, keys: Mapping[str, type]) -> None:
    for key, kind in keys.items():
        if not isinstance(data, dict) or not isinstance(data.get(key), kind):
            seen = type(data.get(key)).__name__ if isinstance(data, dict) else "nothing"
            raise CertificateError(f"{path}: {prefix}{key}: expected {kind.__name__}, found {seen}")


def _check(path: Any, number: int, data: Any) -> Check:
    _expect(path, f"checks[{number}].", data, _CHECK)
    ok, measured, bound = data.get("ok"), data.get("measured"), data.get("bound")
    if ok not in (True, False, None):
        raise CertificateError(f"{path}: checks[{number}].ok: expected true, false or null")
    figures = isinstance(measured, float) and isinstance(bound, float)
    if figures and ok is not None and ok is not (measured <= bound):
        raise CertificateError(
            f"{path}: contradicts itself: {data['id']} measured {measured:.1e}, bound "
            f"{bound:.1e}, and says that it {'holds' if ok else 'is violated'}"
        )
    return Check(**{k: data[k] for k in Check.__dataclass_fields__ if k in data})

"""The file of a certificate: JSON with a digest over its contents, written and read.

The digest shows that the file is whole and unchanged; it is no signature: whoever can write the
file can write another digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pgt_fx.core.errors import PgtError
from pgt_fx.testing.verify.checks import Check, Findings
from pgt_fx.testing.verify.record import CAUSAL, PROGRESSIVE

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
#: What certificates have that were written since requirements are recorded.
_SINCE = {"required": list, "time": dict}
#: The settings of each kind beside these.
_KINDS = {PROGRESSIVE: {"chunkings": int, "options": dict}, CAUSAL: {}}
_CHECK = {"id": str, "sentence": str, "detail": str, "where": str}


class CertificateError(PgtError, ValueError):
    """A certificate that can't be trusted or read: truncated, changed, or not one at all."""


def save(found: Findings, path: str | os.PathLike[str]) -> None:
    """Write the certificate of a verification.

    Raises:
        CertificateError: for a verification that was put together by hand: it has no record; and
            for one with checks that were not made because of an error.
    """
    if not found.record:
        raise CertificateError("this verification has no record of its settings; use verify()")
    if found.errors:
        errors = "".join(f"\n  {check}" for check in found.errors)
        raise CertificateError(
            "there is nothing to certify where checks were not made because of an error: mend its "
            f"cause, or leave these checks out:{errors}"
        )
    data = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **found.record,
        "setting": found.setting,
        "ok": found.ok,
        "decided": found.decided,
        "required": sorted(found.required),
        "checks": [asdict(c) for c in found.checks],
    }
    data["digest"] = digest_of(data)
    Path(path).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Findings]:
    """Read a certificate: all it says, and its checks.

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
    if data.get("digest") != digest_of(data):
        raise CertificateError(f"{path}: it was changed after it was written: its digest is wrong")
    _expect(path, "", data, _WHOLE)
    _expect(path, "model.", data["model"], _MODEL)
    if kind_of(data) not in _KINDS:
        raise CertificateError(
            f"{path}: kind: expected {' or '.join(_KINDS)}, found {kind_of(data)!r}"
        )
    _expect(path, "settings.", data["settings"], _SETTINGS | _KINDS[kind_of(data)])
    _expect(path, "", data, {key: kind for key, kind in _SINCE.items() if key in data})
    if "required" in data["settings"]:
        _expect(path, "settings.", data["settings"], {"required": dict})
    checks = tuple(_check(path, n, c) for n, c in enumerate(data["checks"]))
    kept = ("kind", "model", "settings", "versions", "time")
    record = {k: data[k] for k in kept if k in data}
    must = frozenset(data.get("required", ()))
    found = Findings(data["model"]["name"], data["setting"], checks, record, must)
    if [c.id for c in checks] != data["settings"]["checks"]:
        raise CertificateError(f"{path}: contradicts itself: other checks than its settings name")
    if (found.ok, found.decided) != (data["ok"], data["decided"]):
        raise CertificateError(f"{path}: contradicts itself: its verdict is not that of its checks")
    return data, found


def kind_of(data: Mapping[str, Any]) -> Any:
    return data.get("kind", PROGRESSIVE)


def digest_of(data: Mapping[str, Any]) -> str:
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

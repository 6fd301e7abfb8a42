"""What is required of a model: the vocabulary that commands, tests and calls share.

A verification says what holds, what is violated and what could not be measured, and only what is
violated makes it fail. What is required has to hold: where it does not, or can't be measured, the
verification fails too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pgt_fx.core.errors import OptionError

#: Checks that have a bound of the user's, and are made where there is one.
LOOK_AHEAD, STATE = "look-ahead", "state-bytes"
LIMITS = {
    LOOK_AHEAD: "no output reads more frames after its own than allowed",
    STATE: "no more bytes are carried from step to step than allowed",
}
#: Word -> the checks of a progressive model that have to hold. Ids of checks are words as well.
WORDS: Mapping[str, tuple[str, ...]] = {
    "exact": ("full-equals-model", "exact-wait"),
    "causal": ("receptive-field", LOOK_AHEAD),
    "one-way": ("one-way-forward", "one-way-backward"),
    "gradients": ("gradients-equal-model", "exact-gradients"),
}
#: Id -> promise, of a model that is measured as it is (:mod:`pgt_fx.testing.verify.causal`).
PLAIN_CHECKS: Mapping[str, str] = {
    "time-sensitive": (
        "shuffling the frames changes the model's output (else nothing below could show a fault)"
    ),
    "no-future": "no output that is due depends, to the last bit, on later frames",
    "prefix": "the first frames alone give the first outputs",
}
#: The same for a model that is measured as it is.
CAUSAL_WORDS: Mapping[str, tuple[str, ...]] = {"causal": ("no-future", "prefix")}
#: What ``future="wait"`` with ``strict`` promises, without being asked.
PROMISED = WORDS["exact"]

_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]i?B|B|)\s*")
_POWER = "kMGT"


@dataclass(frozen=True)
class Requirements:
    """What has to hold; made by :func:`requirements`.

    Attributes:
        words: of the vocabulary, or ids of checks.
        max_look_ahead: most frames after its own that an output may read; None: any number.
        max_state: most bytes that may be carried from step to step; None: any number.
        plain: of a model that is measured as it is, and not of a progressive one.
    """

    words: tuple[str, ...] = ()
    max_look_ahead: int | None = None
    max_state: int | None = None
    plain: bool = False

    @property
    def look_ahead(self) -> int | None:
        """Most frames after its own that an output may read; "causal" allows none."""
        return 0 if "causal" in self.words else self.max_look_ahead

    @property
    def checks(self) -> frozenset[str]:
        """Ids of all checks that have to hold."""
        meaning = CAUSAL_WORDS if self.plain else WORDS
        found = {check for word in self.words for check in meaning.get(word, (word,))}
        if self.max_look_ahead is not None:
            found |= set(meaning["causal"])
        if self.max_state is not None:
            found.add(STATE)
        return frozenset(found)

    def also(self, words: Collection[str]) -> Requirements:
        """These and some words more."""
        return replace(self, words=tuple(dict.fromkeys([*self.words, *words])))

    def and_those(self, other: Requirements) -> Requirements:
        """These and others; of two limits the lower one."""
        return replace(
            self.also(other.words),
            max_look_ahead=_lower(self.max_look_ahead, other.max_look_ahead),
            max_state=_lower(self.max_state, other.max_state),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a certificate keeps it."""
        return {
            "require": list(self.words),
            "max_look_ahead": self.max_look_ahead,
            "max_state": self.max_state,
        }


def requirements(
    require: str | Collection[str] = (),
    max_look_ahead: int | None = None,
    max_state: int | str | None = None,
    *,
    plain: bool = False,
) -> Requirements:
    """Check what was asked for, and give it one form.

    Args:
        require: a word or several: "exact", "causal", "one-way", "gradients", or the id of a check.
        max_look_ahead: in frames; 0 is the same as "causal".
        max_state: in bytes, or as :func:`byte_count` reads them ("4MiB").
        plain: the model is measured as it is (``verify_causal``), where only "causal" and the ids
            of those checks have a meaning.

    Raises:
        OptionError: for an unknown word, or one that says nothing of such a model; for a limit that
            is no such number.
    """
    words = (require,) if isinstance(require, str) else tuple(require)
    known = known_words(plain)
    for word in words:
        if word not in known:
            raise OptionError(_unknown(word, plain))
    if max_look_ahead is not None and (
        isinstance(max_look_ahead, bool)
        or not isinstance(max_look_ahead, int)
        or max_look_ahead < 0
    ):
        raise OptionError(
            f"max_look_ahead: expected a number of frames, 0 or more, got {max_look_ahead!r}"
        )
    if plain and max_look_ahead:
        raise OptionError(
            f"max_look_ahead: a model that is meant to be causal as it is looks 0 frames ahead, "
            f"got {max_look_ahead}; measure it as a progressive one to allow more"
        )
    if plain and max_state is not None:
        raise OptionError(
            "max_state: a model that is measured as it is carries no state; measure it as a "
            "progressive one"
        )
    most = None if max_state is None else byte_count(max_state)
    return Requirements(tuple(dict.fromkeys(words)), max_look_ahead, most, plain)


def known_words(plain: bool) -> list[str]:
    """All that can be required by a word: of a model that is measured as it is, or of a progressive
    one."""
    if plain:
        return [*CAUSAL_WORDS, *PLAIN_CHECKS]
    from pgt_fx.testing.verify.promises import CHECKS

    return [*WORDS, *(name for name, *_ in CHECKS)]


def byte_count(value: int | str) -> int:
    """Bytes as a number, or as text: "4MiB" (1024 · 1024), "4MB" (1000 · 1000), "512kB", "4096".

    Raises:
        OptionError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _BYTES.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise OptionError(
            f"max_state: expected bytes as a number, or such as 4MiB, 4MB, 512kB, got {value!r}"
        )
    number, unit = found.groups()
    power = _POWER.lower().find(unit[:1].lower()) + 1 if unit not in ("", "B") else 0
    return int(float(number) * (1024 if "i" in unit else 1000) ** power)


def _unknown(word: Any, plain: bool) -> str:
    known = known_words(plain)
    if word in known_words(not plain):
        if plain:
            return (
                f"require: {word!r} is of a progressive model; of one that is measured as it is "
                f"there are {', '.join(known)}"
            )
        return (
            f"require: {word!r} is of a model that is measured as it is, meant to be causal; of a "
            f"progressive one there are {', '.join(known)}"
        )
    near = difflib.get_close_matches(str(word), known, 2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"require: no {word!r}; {hint}there are {', '.join(known)}"


def _lower(one: int | None, other: int | None) -> int | None:
    given = [n for n in (one, other) if n is not None]
    return min(given) if given else None

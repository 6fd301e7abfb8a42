"""Numbers with the noun that they count, in the singular or the plural."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts, in the singular for one.

    >>> counted(1, "frame"), counted(0, "frame"), counted(2, "class", "classes")
    ('1 frame', '0 frames', '2 classes')
    """
    return f"{number} {plural(number, one, many)}"


def plural(number: int, one: str, many: str = "") -> str:
    """The word alone, where the number stands elsewhere in the sentence."""
    return one if number == 1 else many or f"{one}s"

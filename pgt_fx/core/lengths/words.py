"""Sets of lengths in plain words: "4n + 1, at least 5", "at most 300", "any number but 70"."""

from __future__ import annotations

from itertools import pairwise

from pgt_fx.core.lengths.sets import LengthSet, Stretch

#: Remainders, and single lengths, that are named before the rest are counted.
MOST_NAMED = 8


def in_words(lengths: LengthSet) -> str:
    """What a set of lengths is, to follow "videos of" and go before "frames"."""
    if lengths.is_empty:
        return "no number"
    for lasting in reversed(lengths.stretches):
        if not lasting.mask:
            continue
        pattern = LengthSet([lasting._replace(start=1)])
        most = lengths.most
        wanted = pattern if most is None else pattern & LengthSet.interval(1, most)
        extra, lacking = lengths - wanted, wanted - lengths
        if lasting.period == 1 and most is not None and len(lengths.stretches) > 4:
            break
        least = lengths.least or 1
        before = LengthSet.interval(1, least - 1)
        apart = lacking - before
        few = len(apart.stretches) <= 2 * MOST_NAMED and _span(apart) <= _span(lengths)
        if extra.is_empty and few:
            if pattern.is_all and least == most:
                return str(least)
            if pattern.is_all and most is not None and least > 1:
                return f"{least} to {most}" + _but(apart)
            words = [] if pattern.is_all and (least > 1 or most) else [_pattern(lasting)]
            words += [f"at least {least}"] if least > (pattern.least or 1) else []
            words += [f"at most {most}"] if most is not None else []
            return ", ".join(words) + _but(apart)
        break
    return _listed(lengths)


def _span(lengths: LengthSet) -> int:
    """How long the stretches with members are, but for the last one."""
    pairs = pairwise(lengths.stretches)
    return sum(after.start - s.start for s, after in pairs if s.mask)


def _but(apart: LengthSet) -> str:
    return "" if apart.is_empty else f" but {_listed(apart)}"


def _pattern(stretch: Stretch) -> str:
    """The remainders of a stretch: "4n + 1"; those that it lacks, where these are fewer."""
    period = stretch.period
    if period == 1:
        return "any number"
    rests = [r for r in range(period) if stretch.mask >> r & 1]
    if 2 * len(rests) > period and period > 2:
        others = [r for r in range(period) if r not in {*rests}]
        return f"any number but {_remainders(period, others)}"
    return _remainders(period, rests)


def _remainders(period: int, rests: list[int]) -> str:
    return _or([f"{period}n" + (f" + {r}" if r else "") for r in rests])


def _listed(lengths: LengthSet) -> str:
    """Stretch by stretch."""
    words = []
    for i, s in enumerate(lengths.stretches):
        if not s.mask:
            continue
        last = None
        if i + 1 < len(lengths.stretches):
            last = lengths.stretches[i + 1].start - 1
        if s.period == 1:
            more = f"{s.start} or more" if last is None else f"{s.start} to {last}"
            words.append(str(s.start) if last == s.start else more)
        else:
            more = f"{_pattern(s)} from {s.start}"
            words.append(f"({more} on)" if last is None else f"({more} to {last})")
    return _or(words)


def _or(words: list[str]) -> str:
    if len(words) > MOST_NAMED:
        words = [*words[: MOST_NAMED - 1], f"{len(words) - MOST_NAMED + 1} more"]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))

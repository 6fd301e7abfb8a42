"""Whether a file is as long as its container says: a look at a few headers, nothing decoded.

FFmpeg reads a file that was cut short up to the cut, and reports the end as if it were the last
frame's. Containers that are written with their size (MP4 and QuickTime, Matroska and WebM, AVI) say
where they end; others (MPEG-TS, a live recording) don't, and are taken as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx ssix styp pdin meta uuid udta pnot emsg "
    b"prft".split()
)
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def promised_size(path: Path) -> int | None:
    """Bytes that the container needs; None where it doesn't say, or says no more than there are."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _BOXES:
            end = _boxes(file, size)
        elif head[:4] == _EBML.to_bytes(4, "big"):
            end = _elements(file, size)
        elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            end = _chunks(file, size)
        else:
            return None
    return end if end is not None and end > size else None


def _boxes(file: BinaryIO, size: int) -> int | None:
    """The end of the last box (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, least = int.from_bytes(header[:4], "big"), 8
        if header[4:8] not in _BOXES:  # something else follows the last box
            break
        if length == 1 and len(header) == 16:  # the length follows the name, in 64 bits
            length, least = int.from_bytes(header[8:], "big"), 16
        if length < least:  # 0: to the end of the file
            break
        at += length
    return at


def _elements(file: BinaryIO, size: int) -> int | None:
    """The end of the segment (RFC 8794, 4 to 6)."""
    at = 0
    while at < size:
        file.seek(at)
        header = file.read(16)
        name = _number(header, 4, keep_marker=True)
        length = _number(header[name[1] :], 8) if name else None
        if name is None or length is None or length[0] == 2 ** (7 * length[1]) - 1:
            return None  # not known when it was written
        at += name[1] + length[1] + length[0]
        if name[0] == _SEGMENT:
            return at
    return None


def _number(data: bytes, longest: int, keep_marker: bool = False) -> tuple[int, int] | None:
    """A variable-size integer and how many bytes it takes."""
    width = 9 - data[0].bit_length() if data and data[0] else 9
    if width > longest or len(data) < width:
        return None
    value = int.from_bytes(data[:width], "big")
    return value if keep_marker else value & (2 ** (7 * width) - 1), width


def _chunks(file: BinaryIO, size: int) -> int | None:
    """The end of the last RIFF chunk; the byte that pads an odd one is not asked for."""
    at = end = 0
    while at + 12 <= size:
        file.seek(at)
        header = file.read(12)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or length in (0, 2**32 - 1):  # not known when it was written
            break
        end = at + 8 + length
        at = end + length % 2
    return end or None

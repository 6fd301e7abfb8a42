"""From a decoded frame to a tensor: as displayed, scaled, cropped, normalised."""

from __future__ import annotations

import struct
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgt_fx.core.errors import OptionError

# Of Kinetics, as torchvision and pytorchvideo train their models.
MEAN = 0.45
STD = 0.225


def check_picture(size: int, crop: int | None, at: tuple[float, float]) -> None:
    """Refuse arguments of :func:`picture` that make no sense, before a file is opened.

    Raises:
        OptionError: naming the argument.
    """
    for name, value in (("size", size), ("crop", crop)):
        if value is not None:
            check_whole(name, value, 1)
    if crop is not None and crop > size:
        raise OptionError(f"crop={crop}: expected at most size={size}, the shorter side")
    pair = isinstance(at, (tuple, list)) and len(at) == 2
    if not pair or not all(isinstance(p, (int, float)) and 0 <= p <= 1 for p in at):
        raise OptionError(f"at={at}: expected two numbers from 0 to 1, down and across")


def check_whole(name: str, value: object, lowest: int) -> None:
    """Raises OptionError unless a value is a whole number of at least ``lowest``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise OptionError(f"{name}={value!r}: it must be a whole number of at least {lowest}")


def pixels(frame: Any) -> Tensor:
    """A decoded frame as bytes (height, width, 3), without NumPy, which PyAV does not bring."""
    image = frame.reformat(format="rgb24")
    (plane,) = image.planes  # its rows may end in padding
    rows = torch.frombuffer(bytearray(plane), dtype=torch.uint8).view(-1, plane.line_size)
    return rows[: image.height, : 3 * image.width].reshape(image.height, image.width, 3)


def picture(
    frame: Any, aspect: float, size: int, crop: int | None, at: tuple[float, float]
) -> Tensor:
    """One decoded frame as float32 (3, height, width), normalised.

    Args:
        frame: of PyAV, in any pixel format. Its display matrix, which phones write, is obeyed.
        aspect: width of a stored pixel over its height; others than 1 are stretched in width.
        size: of the shorter side in pixels.
        crop: side of the square that is cut out, at most ``size``; None: none is.
        at: where, down and across, as parts of the room there is; (0.5, 0.5): the centre.

    Raises:
        ValueError: for a display matrix that turns by something else than quarters.
    """
    image = pixels(frame)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    image, turned = upright(image, None if matrix is None else bytes(matrix))
    image = image.permute(2, 0, 1).to(torch.float32).div_(255)
    stored = (int(image.shape[1]), int(image.shape[2]))
    height, width = stored[0] * (aspect if turned else 1), stored[1] * (1 if turned else aspect)
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    if target != stored:
        image = F.interpolate(image[None], target, mode="bilinear", antialias=True)[0]
    if crop is not None:
        top, left = (round((n - crop) * part - 1e-9) for n, part in zip(target, at, strict=True))
        image = image[:, top : top + crop, left : left + crop]
    return (image - MEAN) / STD


def upright(image: Tensor, matrix: bytes | None) -> tuple[Tensor, bool]:
    """An image (height, width, …) as a display matrix shows it, and whether its sides changed
    places.

    The matrix is that of the file's track: nine 32-bit integers, of which the four that turn and
    mirror are read. It sends the column x and the row y to a x + c y and b x + d y.

    Raises:
        ValueError: when it turns by something else than quarters.
    """
    if matrix is None:
        return image, False
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if not (a or b or c or d):
        return image, False
    if abs(a) + abs(d) < 1e-3 * (abs(b) + abs(c)):
        image, turned, across, down = image.transpose(0, 1), True, c, b
    elif abs(b) + abs(c) < 1e-3 * (abs(a) + abs(d)):
        turned, across, down = False, a, d
    else:
        raise ValueError(
            f"its display matrix ({a}, {b}, {c}, {d}) turns the picture by something else than "
            "quarters, which is not supported"
        )
    mirrored = [dim for dim, sign in ((0, down), (1, across)) if sign < 0]
    return image.flip(mirrored) if mirrored else image, turned

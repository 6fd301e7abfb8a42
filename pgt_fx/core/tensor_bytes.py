"""The bytes of a tensor, without NumPy, which ``Tensor.numpy`` would need."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor


def bytes_of(flat: Tensor) -> Any:
    """The bytes of a tensor as it lies in memory.

    Args:
        flat: uint8, contiguous, on the CPU, of at least one element.

    Returns:
        an object with the buffer protocol; it is the tensor's own memory, and lives as long.
    """
    return (ctypes.c_uint8 * flat.numel()).from_address(flat.data_ptr())

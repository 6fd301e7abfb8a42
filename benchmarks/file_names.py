"""Arguments of the benchmarks that are checked before hours of measuring."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def file_ending_in(*suffixes: str) -> Callable[[str], Path]:
    """For argparse: a file that may be written, of a name that says what is in it.

    Folders that are missing are made when it is written.
    """

    def checked(text: str) -> Path:
        path = Path(text)
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{path} is a folder; expected a file to write")
        if path.suffix.lower() not in suffixes:
            known = ", ".join(suffixes)
            raise argparse.ArgumentTypeError(f"{path}: expected a file name that ends in {known}")
        return path

    return checked

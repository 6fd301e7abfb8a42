"""pgt_fx: any video model, fed a long video in progressive steps.

Source of the method: "PGT: A Progressive Method for Training Models on Long Videos", Pang et al.,
CVPR 2021, arXiv 2103.11313.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgt_fx import errors
    from pgt_fx.compiler import analyze, transform
    from pgt_fx.options import AttentionMemory, MarkovOperator
    from pgt_fx.progressive import Progressive
    from pgt_fx.report import Report
    from pgt_fx.schedule import DPR, PerStep, Schedule
    from pgt_fx.verification.contract import verify

__version__ = "0.1.0"

__all__ = [
    "DPR",
    "AttentionMemory",
    "MarkovOperator",
    "PerStep",
    "Progressive",
    "Report",
    "Schedule",
    "analyze",
    "errors",
    "transform",
    "verify",
]

#: Name -> module that has it. Fetched when first used: the pytest plugin is loaded in every test
#: run of an environment, and must not import torch for those that have nothing to do with it.
_FROM = {
    "AttentionMemory": "pgt_fx.options",
    "DPR": "pgt_fx.schedule",
    "MarkovOperator": "pgt_fx.options",
    "PerStep": "pgt_fx.schedule",
    "Progressive": "pgt_fx.progressive",
    "Report": "pgt_fx.report",
    "Schedule": "pgt_fx.schedule",
    "analyze": "pgt_fx.compiler",
    "transform": "pgt_fx.compiler",
    "verify": "pgt_fx.verification.contract",
}
#: Parts of the library with names of their own, ``pgt_fx.erf.measure``: imported when first used.
_PARTS = (
    "doctor",
    "erf",
    "errors",
    "hints",
    "inference",
    "rules",
    "testing",
    "training",
    "video",
    "zoo",
)


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"pgt_fx.{name}")
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_FROM[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})

"""pgt_fx: any video model, fed a long video in progressive steps.

Source of the method: "PGT: A Progressive Method for Training Models on Long Videos", Pang et al.,
CVPR 2021, arXiv 2103.11313.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pgt_fx.core import errors as errors
from pgt_fx.core import hints as hints

if TYPE_CHECKING:
    # What __getattr__ below fetches, for those who read Python without running it: the same names.
    from pgt_fx import doctor as doctor
    from pgt_fx import erf as erf
    from pgt_fx import inference as inference
    from pgt_fx import rules as rules
    from pgt_fx import testing as testing
    from pgt_fx import training as training
    from pgt_fx import zoo as zoo
    from pgt_fx.compiler.report import Report as Report
    from pgt_fx.compiler.transform import analyze as analyze
    from pgt_fx.compiler.transform import transform as transform
    from pgt_fx.core.options import AttentionMemory as AttentionMemory
    from pgt_fx.core.options import MarkovOperator as MarkovOperator
    from pgt_fx.core.schedule import DPR as DPR
    from pgt_fx.core.schedule import OverTime as OverTime
    from pgt_fx.core.schedule import PerStep as PerStep
    from pgt_fx.core.schedule import Schedule as Schedule
    from pgt_fx.inference import video as video
    from pgt_fx.runtime.progressive import Progressive as Progressive
    from pgt_fx.testing.verify.contract import verify as verify

__version__ = "0.1.0"

#: Modules of ``core`` that have a short name for users, as ``os.path`` has one: ``from
#: pgt_fx.errors import CaptureError`` finds them here. Neither imports torch.
sys.modules |= {f"{__name__}.errors": errors, f"{__name__}.hints": hints}

__all__ = [
    "DPR",
    "AttentionMemory",
    "MarkovOperator",
    "OverTime",
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
    "AttentionMemory": "pgt_fx.core.options",
    "DPR": "pgt_fx.core.schedule",
    "MarkovOperator": "pgt_fx.core.options",
    "OverTime": "pgt_fx.core.schedule",
    "PerStep": "pgt_fx.core.schedule",
    "Progressive": "pgt_fx.runtime.progressive",
    "Report": "pgt_fx.compiler.report",
    "Schedule": "pgt_fx.core.schedule",
    "analyze": "pgt_fx.compiler.transform",
    "transform": "pgt_fx.compiler.transform",
    "verify": "pgt_fx.testing.verify.contract",
}
#: Parts of the library with names of their own, ``pgt_fx.erf.measure``: imported when first used.
_PARTS = {
    "doctor": "pgt_fx.doctor",
    "erf": "pgt_fx.erf",
    "inference": "pgt_fx.inference",
    "rules": "pgt_fx.rules",
    "testing": "pgt_fx.testing",
    "training": "pgt_fx.training",
    "video": "pgt_fx.inference.video",
    "zoo": "pgt_fx.zoo",
}


if not TYPE_CHECKING:  # else any name at all would be one of the package, and an Any

    def __getattr__(name: str) -> Any:
        if name in _PARTS:
            return import_module(_PARTS[name])
        if name not in _FROM:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_FROM[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})

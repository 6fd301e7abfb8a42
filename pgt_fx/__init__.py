"""pgt_fx: any video model, fed a long video in progressive steps.

Source of the method: "PGT: A Progressive Method for Training Models on Long Videos", Pang et al.,
CVPR 2021, arXiv 2103.11313.
"""

from pgt_fx import errors
from pgt_fx.compiler import analyze, transform
from pgt_fx.options import MarkovOperator
from pgt_fx.progressive import Progressive
from pgt_fx.report import Report
from pgt_fx.schedule import DPR, Schedule
from pgt_fx.verification.contract import verify

__version__ = "0.1.0"

__all__ = [
    "DPR",
    "MarkovOperator",
    "Progressive",
    "Report",
    "Schedule",
    "analyze",
    "errors",
    "transform",
    "verify",
]

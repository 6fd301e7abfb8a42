"""Steps under a tracer: refused, since a trace holds one step, and its state would be lost.

What a step has to do is decided in Python, from how far the video has come. A trace freezes the
decision of one step: it would start the video anew in every chunk, without an error.
``torch.compile`` is no such tracer: it runs the Python again where the decision changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import fx

from pgt_fx.core.errors import TracedError
from pgt_fx.core.torch_private import get_proxy_mode, is_functionalizing


def refuse_tracing(clip: Any, named: Mapping[str, Any]) -> None:
    """Let a step run, unless its operations are being written down into a program.

    Args:
        clip, named: what the step was given; a symbolic tracer gives stand-ins for tensors.

    Raises:
        TracedError: naming the tracer.
    """
    # Under torch.compile these are constants, and the rest is not looked at.
    if torch.compiler.is_exporting():
        refused("torch.export")
    if torch.compiler.is_dynamo_compiling():
        return
    if torch.jit.is_tracing():
        refused("torch.jit.trace")
    if isinstance(clip, fx.Proxy) or any(isinstance(x, fx.Proxy) for x in (*clip, *named.values())):
        refused("torch.fx.symbolic_trace")
    if get_proxy_mode() is not None:
        refused("make_fx")
    if is_functionalizing():
        refused("AOTAutograd")


def refused(tracer: str) -> NoReturn:
    """Raises TracedError: what was seen, why it is refused, what to do instead."""
    raise TracedError(
        f"{tracer} is tracing a step of a progressive model. The program would hold this one step: "
        "what a step has to do is decided in Python, from how far the video has come, so that each "
        "chunk would be taken for the beginning of a video, and what is carried would be lost. Run "
        "the steps in Python: prog(chunk), or out, state = prog.step(state, chunk), which reads "
        "the clock in the state and can't be traced either. For speed use prog.compile(); to "
        "export a network that knows no state, export the model itself"
    )

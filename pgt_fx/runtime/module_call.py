"""A step as a call of the module, so that whatever wraps ``forward`` in place takes part in it.

accelerate puts a forward of its own on the module that it prepares, ``fully_shard`` gathers the
parameters in hooks around it. :meth:`Progressive.step` is a plain method, which they don't see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def is_wrapped(prog: Any) -> bool:
    """Whether a call of the module does more than its class says."""
    own = vars(prog)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in own or any(own[kind] for kind in kinds)


def stepped(
    prog: Any,
    call: Callable[..., Any] | None,
    state: Mapping[str, Tensor],
    /,
    *clip: Any,
    last: bool = False,
    detach: bool = True,
    **named: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """:meth:`Progressive.step` through a call of the module, where that is another thing.

    The state is passed to ``forward`` as an attribute: a wrapper would cast it, or move it, as an
    argument or a result. The module's own stream is restored afterwards.

    Args:
        call: what to call, which ends in ``prog.forward``; None: the module itself.
    """
    if call is None and not is_wrapped(prog):
        return prog.step(state, *clip, last=last, detach=detach, **named)
    own = vars(prog)
    kept = own["_state"], own["_detach"]
    own["_state"], own["_detach"] = dict(state), detach
    try:
        out = (call or prog)(*clip, last=last, **named)
        return out, own["_state"]
    finally:
        own["_state"], own["_detach"] = kept

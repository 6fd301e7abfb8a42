"""What a capture replaces in torch, or in Python, while it runs: :data:`PATCHES`.

A capture has to see what torch does not expose: the answers that the model's branches were given,
which sizes became numbers, what was asked of the surroundings. Most of it has no public interface,
so functions of torch are replaced meanwhile. Each is listed here with the reason; its replacement
is defined where it is used. How, for which thread, and how it is restored:
:mod:`pgt_fx.capture.replacing`.

What is only read of torch's private names is listed in :data:`pgt_fx.core.torch_private.PRIVATE`.

``tests/capture/test_torch_patches.py`` goes through both lists: it says which entry no longer
holds, and a new one has to come with a model that is captured wrongly without it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._dynamo.eval_frame
import torch._dynamo.external_utils
import torch._meta_registrations
import torch._refs
import torch.compiler
import torch.cuda
import torch.fx.proxy
import torch.jit
import torch.onnx
import torch.random
from torch import Tensor
from torch.autograd.function import Function
from torch.nn.modules import module as modules

from pgt_fx.capture.replacing import Change, CodePatch, Hooks, Patch, Setting, Shadow
from pgt_fx.core.torch_private import PRIVATE, DimConstraints, SymNode

__all__ = ["PATCHES", "PRIVATE"]

# ------------------------------------------------------------------------------------- sizes

#: Replaced in :mod:`pgt_fx.capture.observe.size_questions`.
BRANCHES = Patch(
    "torch.SymBool.__bool__",
    "a branch on a size that torch answers from its range (`x.shape[0] == 1` at a batch of 2) "
    "leaves no guard: the graph would be taken for the model where the branch goes the other way",
    torch.SymBool,
    "__bool__",
    ("self",),
)
#: Replaced in size_questions.
ASSERTIONS = Patch(
    "SymNode.expect_true",
    "as a branch, for a condition that is handed to torch (`torch._check(x.shape[3] % 4 == 0)`)",
    SymNode,
    "expect_true",
    ("self", "file", "line"),
)
#: Replaced in size_questions (which size became a number) and in
#: :mod:`pgt_fx.capture.observe.failing_line` (on which line; and not for a message alone).
INTEGERS = Patch(
    "SymNode.guard_int",
    "a size of which the model makes a number is frozen, and torch does not say on which line; a "
    "size in a message would be frozen as well",
    SymNode,
    "guard_int",
    ("self", "file", "line"),
)
FLOATS = Patch(
    "SymNode.guard_float",
    "as guard_int, for a scale or a mean that is computed from sizes",
    SymNode,
    "guard_float",
    ("self", "file", "line"),
)
#: Replaced in size_questions.
MADE_OF_SIZES = Patch(
    "SymNode.__init__",
    "what a module compares or calculates of sizes with the same result at all of them (`T + 1 < "
    "2`) leaves nothing in the graph: the module would be called whole, and ask again of a chunk",
    SymNode,
    "__init__",
    ("self", "expr", "shape_env", "pytype", "hint", "constant", "fx_node", "optimized_summation"),
)
_TEXT = (
    "a size that the model writes out or looks up in a dictionary (`self.tables[f'{h}']`) would be "
    "the text of a symbol, which no table has as a key"
)
_HASH = "a size is not hashable: a dictionary of tables by size could not be looked up"
#: Replaced in size_questions, by what the number says.
WRITTEN: tuple[tuple[Patch, type], ...] = tuple(
    (
        Patch(f"torch.{kind.__name__}.{name}", why, kind, name, takes),
        of,
    )
    for kind, of in ((torch.SymInt, int), (torch.SymFloat, float), (torch.SymBool, bool))
    for name, why, takes in (
        ("__repr__", _TEXT, ("self",)),
        ("__str__", _TEXT, None),
        ("__format__", _TEXT, None),
        ("__hash__", _HASH, ("self",)),
    )
    if name != "__hash__" or kind is not torch.SymBool
)
#: Replaced in :mod:`pgt_fx.capture.torch_export`.
SOLVER = Patch(
    "DimConstraints.solve",
    "sympy gives up on floors of floors, as strided pools make them: torch.export would fail, "
    "though the solver only simplifies conditions for messages",
    DimConstraints,
    "solve",
    ("self",),
)
#: Replaced in torch_export.
POOL_SIZES = Patch(
    "torch._meta_registrations.pooling_output_shape_pad_lr",
    "a pool that rounds up (`ceil_mode`) drops a last window that would begin after the end: torch "
    "decides it by a branch, and the size that it gives is true at the lengths alone that go the "
    "same way, while a later condition on that size would be read as one for all",
    torch._meta_registrations,
    "pooling_output_shape_pad_lr",
    ("inputSize", "kernelSize", "pad_l", "pad_r", "stride", "dilation", "ceil_mode"),
)
#: Replaced in :mod:`pgt_fx.capture.torch_export`.
VIEWS = Patch(
    "torch._refs._reshape_view_helper",
    "of `x.view(nt // 8, 8, …)` torch makes `nt // (nt // 8)` of the 8: frames that are put in "
    "groups and back in each block (a temporal shift) come to sizes of thousands of operations",
    torch._refs,
    "_reshape_view_helper",
    ("a", "shape", "allow_copy"),
    optional=True,
)
#: Replaced in failing_line.
FRAMES = Patch(
    "torch.fx.proxy.TracerBase._filter_traceback_frames",
    "torch keeps the frames of functions called forward alone, and the line of the model that an "
    "error or the report has to name is often in another one",
    torch.fx.proxy.TracerBase,
    "_filter_traceback_frames",
    ("self", "user_stack_summary"),
    optional=True,
)

# --------------------------------------------------------------------------------- gradients

#: Replaced in :mod:`pgt_fx.capture.observe.custom_gradients`.
APPLIED = Patch(
    "torch.autograd.Function.apply",
    "a capture holds the forward of a function and not its own backward: a training would learn by "
    "another gradient, and nothing would say so",
    Function,
    "apply",
    None,
    of_class=True,
)
HOOKED = Patch(
    "torch.Tensor.register_hook",
    "a hook on a tensor that changes its gradient is not in the graph",
    Tensor,
    "register_hook",
    ("self", "hook"),
)

# -------------------------------------------------------------------------------- surroundings

_ANSWER = (
    "the answer is frozen by the capture: noted, so that the model is captured anew where it would "
    "be another one"
)
#: Questions whose answers a capture freezes; replaced in
#: :mod:`pgt_fx.capture.observe.surroundings`.
ASKED: dict[str, Patch] = {
    f"torch.{name}": Patch(f"torch.{name}", _ANSWER, torch, name, takes)
    for name, takes in (
        ("is_grad_enabled", None),
        ("is_inference_mode_enabled", None),
        ("get_default_dtype", None),
        ("is_autocast_enabled", None),
        ("is_autocast_cpu_enabled", None),
        ("get_autocast_dtype", None),
        ("get_autocast_cpu_dtype", None),
        ("get_autocast_gpu_dtype", None),
        ("get_float32_matmul_precision", ()),
        ("are_deterministic_algorithms_enabled", ()),
        ("get_deterministic_debug_mode", ()),
    )
    if hasattr(torch, name)
}
_SEED = (
    "a model that sets torch's random numbers to a place of their own would begin anew in each "
    "step: noted, and refused"
)
#: What sets torch's random numbers to such a place; replaced in surroundings.
SEEDING: tuple[Patch, ...] = tuple(
    Patch(f"{home.__name__}.{name}", _SEED, home, name, takes)
    for home, name, takes in (
        (torch, "manual_seed", ("seed",)),
        (torch, "seed", ()),
        (torch, "set_rng_state", ("new_state",)),
        (torch.random, "manual_seed", ("seed",)),
        (torch.random, "seed", ()),
        (torch.random, "set_rng_state", ("new_state",)),
        (
            torch.random,
            "fork_rng",
            ("devices", "enabled", "_caller", "_devices_kw", "device_type"),
        ),
        (torch.cuda, "manual_seed", ("seed",)),
        (torch.cuda, "manual_seed_all", ("seed",)),
        (torch.cuda, "seed", ()),
        (torch.cuda, "set_rng_state", ("new_state", "device")),
    )
    if hasattr(home, name)
)
#: Replaced in surroundings.
VARIABLES = Patch(
    "os.environ.__getitem__",
    "a variable of the environment that the model looks up is frozen by the capture, as above; "
    "getenv and the others look it up by this one",
    os._Environ,
    "__getitem__",
    ("self", "key"),
)
_CAPTURING = (
    "a model that asks whether it is being captured would take another branch in the capture than "
    "when it runs"
)
#: Functions that tell whether the model is being captured; replaced in surroundings.
CAPTURING: tuple[CodePatch, ...] = tuple(
    CodePatch(f"{home.__name__}.{name}", _CAPTURING, home, name)
    for home, name in (
        (torch.compiler, "is_compiling"),
        (torch.compiler, "is_dynamo_compiling"),
        (torch.compiler, "is_exporting"),
        (torch._dynamo.external_utils, "is_compiling"),
        (torch.onnx, "is_in_onnx_export"),
        (torch.jit, "is_tracing"),
    )
)

# --------------------------------------------------------------------------- Python's own, hooks

#: Put into the globals of the model's files by :mod:`pgt_fx.capture.observe.eager_types`.
TYPE = Shadow(
    "builtins.type",
    "`type(x.shape[2]) is int` and `type(x) is Tensor` are true when a model runs, and false of "
    "the sizes and tensors of a capture",
    "type",
)
ISINSTANCE = Shadow(
    "builtins.isinstance", "as type: `isinstance(x.shape[2], int)` of a size", "isinstance"
)
_NUMBER = (
    "`int(t / 2)` of the number of frames t is a plain number for Python, and the graph of a model "
    "that has one would be of one length of video"
)
#: Put there by :mod:`pgt_fx.capture.observe.eager_numbers`.
INT = Shadow("builtins.int", _NUMBER, "int")
FLOAT = Shadow("builtins.float", _NUMBER, "float")
DIVMOD = Shadow("builtins.divmod", "torch's sizes have none: the capture would fail", "divmod")
#: Hung up by :mod:`~pgt_fx.capture.observe.active_modules`,
#: :mod:`~pgt_fx.capture.observe.module_calls` and :mod:`~pgt_fx.capture.observe.python_random`.
#: They are public in torch, and listed as they are for the modules of the whole process.
MODULE_CALLS = Hooks(
    "torch.nn.modules.module.register_module_forward_hook",
    "which module runs: operators are put back into the modules that they are from",
    (modules.register_module_forward_pre_hook, modules.register_module_forward_hook),
    lambda: (modules._global_forward_pre_hooks, modules._global_forward_hooks),
)

# ------------------------------------------------------------------- settings of the process

_LOGGERS = ("torch._subclasses", "torch.fx", "torch", "torch.__trace")


@contextmanager
def _silenced() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


#: Set by :mod:`pgt_fx.capture.probe.meta_run`.
QUIET = Setting(
    "logging.getLogger('torch').level",
    "torch logs the traceback of a failure that is expected here, and handled",
    _silenced,
    lambda: [logging.getLogger(name).level for name in _LOGGERS],
)
UNCOMPILED = Setting(
    "torch.compiler.set_stance",
    "parts that torch.compile wraps would be compiled in a run without compute, with what looks on",
    lambda: torch.compiler.set_stance("force_eager"),
    lambda: torch._dynamo.eval_frame._stance,
)

#: Every entry, in the order in which they stand above.
PATCHES: tuple[Change, ...] = (
    *(BRANCHES, ASSERTIONS, INTEGERS, FLOATS, MADE_OF_SIZES),
    *(*(patch for patch, _ in WRITTEN), SOLVER, POOL_SIZES, VIEWS, FRAMES),
    *(APPLIED, HOOKED),
    *(*ASKED.values(), *SEEDING, VARIABLES, *CAPTURING),
    *(TYPE, ISINSTANCE, INT, FLOAT, DIVMOD, MODULE_CALLS, QUIET, UNCOMPILED),
)

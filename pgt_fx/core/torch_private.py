"""Private parts of torch that this package reads: modules whose names begin with an underscore,
``torch.fx.experimental``, attributes such as ``Tensor._version``.

All files import these from here, so that a change in torch is handled in one place.
:data:`PRIVATE` lists them, each with what it is read for; a test checks that each is still what the
list says. What of torch is *replaced* is in :mod:`pgt_fx.capture.torch_patches`.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from traceback import FrameSummary
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import FunctionSchema
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import DimConstraints, expect_true
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.dropout import _DropoutNd as DropoutNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, is_in_torch_dispatch_mode

__all__ = [
    "PRIVATE",
    "TO_COPY",
    "TRIED",
    "BatchNorm",
    "DataDependentOutputException",
    "DimConstraints",
    "DropoutNd",
    "FakeTensor",
    "FakeTensorMode",
    "FunctionalTensor",
    "HigherOrderOperator",
    "NormBase",
    "OpOverload",
    "Private",
    "SymNode",
    "TorchDispatchMode",
    "assert_condition",
    "compile_refusal",
    "compiled_too_often",
    "expect_true",
    "get_proxy_mode",
    "is_autocast_on",
    "is_functionalizing",
    "is_in_torch_dispatch_mode",
    "overload_name",
    "overloads_beside",
    "pytree",
    "schema_if_any",
    "schema_of",
    "set_grad_enabled",
    "size_key",
    "state_dict_version",
    "storage_of",
    "version_of",
    "written_count",
]

#: Releases of torch with which the tests of these names and of the patches were run. pyproject.toml
#: asks for 2.11 or later; of other releases nothing is known before tests/capture has run there.
TRIED = ("2.14.1",)


def schema_of(target: Any) -> FunctionSchema:
    """What an ATen operator takes and gives.

    Args:
        target: of a node whose operator is known to be one.
    """
    return target._schema


def schema_if_any(target: Any) -> FunctionSchema | None:
    """As :func:`schema_of`; None for what is no operator: a Python function, a name."""
    return getattr(target, "_schema", None)


def overload_name(target: OpOverload) -> str:
    """``"Tensor"`` of ``aten.add.Tensor``."""
    return target._overloadname


def overloads_beside(target: OpOverload) -> list[OpOverload]:
    """All overloads of an operator's name, its own among them."""
    packet = target._overloadpacket
    return [getattr(packet, name) for name in packet.overloads()]


#: How often a tensor was written into; not for tensors made under inference_mode.
written_count: attrgetter[int] = attrgetter("_version")


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written into; None where torch does not count."""
    return None if tensor.is_inference() else written_count(tensor)


def state_dict_version(module: nn.Module) -> int:
    """Of the format of a module's state dict, which a class that changes it counts up."""
    return module._version


def storage_of(tensor: Tensor) -> int:
    """A number that tensors which share memory share, also where they have no data."""
    return tensor.untyped_storage()._cdata


def size_key(size: Any) -> Any:
    """The expression of a symbolic size as it was written, before what is known of it now is put in
    (``size.node.expr``)."""
    return size.node._expr


def is_functionalizing() -> bool:
    """Whether operations are being written down by AOTAutograd."""
    key = torch._C._TorchDispatchModeKey.FUNCTIONAL
    return torch._C._get_dispatch_mode(key) is not None


def is_autocast_on(autocast: torch.autocast) -> bool:
    """Whether ``torch.autocast(…, enabled=…)`` was made to be on."""
    return bool(autocast._enabled)


def compile_refusal(error: Exception) -> list[FrameSummary] | None:
    """The lines on which ``torch.compile`` found what it does not take; None for another error."""
    from torch._dynamo.exc import Unsupported  # heavy, and loaded once something was compiled

    return list(error.real_stack or ()) if isinstance(error, Unsupported) else None


def compiled_too_often(error: Exception) -> bool:
    """Whether ``torch.compile`` gave up since it was to compile a function again and again."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    return isinstance(error, FailOnRecompileLimitHit)


@dataclass(frozen=True)
class Private:
    """A name of torch's that is read and not replaced.

    Attributes:
        where: ``"module:name"``, or ``"module:Class.attribute"``.
        why: what it is read for.
        takes: names of a function's parameters, or None.
        tried: the releases of torch in which it was seen to be so.
    """

    where: str
    why: str
    takes: tuple[str, ...] | None = None
    tried: tuple[str, ...] = TRIED


#: ``torch._assert``.
assert_condition = torch._assert
#: What ``torch.no_grad`` and its kin call.
set_grad_enabled = torch._C._set_grad_enabled
#: The operator that a conversion of type becomes.
TO_COPY = torch.ops.aten._to_copy.default

PRIVATE: tuple[Private, ...] = (
    Private(
        "torch.utils._pytree:tree_flatten",
        "structures of inputs and outputs are taken apart as torch.export does",
        ("tree", "is_leaf"),
    ),
    Private("torch.utils._pytree:tree_unflatten", "and put together again", ("leaves", "treespec")),
    Private("torch.utils._pytree:tree_leaves", "their leaves", ("tree", "is_leaf")),
    Private(
        "torch.utils._pytree:tree_map", "their leaves changed", ("func", "tree", "rests", "is_leaf")
    ),
    Private("torch.utils._pytree:tree_map_only", "those of one type changed"),
    Private("torch.utils._pytree:tree_leaves_with_path", "leaves are named in errors"),
    Private("torch.utils._pytree:keystr", "as they are written in Python", ("kp",)),
    Private("torch.utils._pytree:SUPPORTED_NODES", "may a container of the user's be taken apart"),
    Private("torch.utils._pytree:TreeSpec", "the structure, compared and kept"),
    Private(
        "torch.utils._python_dispatch:TorchDispatchMode",
        "what is calculated from a video is followed through operators; there is no public name",
    ),
    Private(
        "torch.utils._python_dispatch:is_in_torch_dispatch_mode",
        "under a counter of operations steps run uncompiled, so that it sees them",
        ("include_infra_modes",),
    ),
    Private("torch._ops:OpOverload", "is a node's target an ATen operator"),
    Private("torch._ops:OpOverload._schema", "names, defaults and order of its arguments"),
    Private("torch._C:FunctionSchema", "its type, for a type checker"),
    Private("torch._ops:OpOverload._overloadname", "the overload that does not write"),
    Private("torch._ops:OpOverload._overloadpacket", "and those beside it"),
    Private("torch._ops:HigherOrderOperator", "is it a block of its own: a condition, a scan"),
    Private("torch._subclasses:FakeTensor", "tensors of a capture are Tensors to the model"),
    Private("torch._subclasses:FakeTensorMode", "runs without compute, for what knows a device"),
    Private(
        "torch._subclasses.fake_tensor:DataDependentOutputException",
        "a run without compute failed for the values of a tensor, not for its sizes",
    ),
    Private("torch._subclasses.functional_tensor:FunctionalTensor", "as FakeTensor"),
    Private("torch.fx.experimental.proxy_tensor:get_proxy_mode", "is make_fx tracing a step", ()),
    Private("torch.fx.experimental.sym_node:SymNode", "the expression of a symbolic size"),
    Private("torch.fx.experimental.sym_node:SymNode._expr", "its expression as it was written"),
    Private("torch.fx.experimental.sym_node:SymNode.expr", "its expression as it is known now"),
    Private("torch.fx.experimental.sym_node:SymNode.hint", "its number in the capture"),
    Private("torch.fx.experimental.sym_node:SymNode.int_", "the frame that asks for it", ("self",)),
    Private(
        "torch.fx.experimental.symbolic_shapes:expect_true",
        "the frame in which a condition is asserted",
        ("a", "skip"),
    ),
    Private("torch:_assert", "likewise", ("condition", "message")),
    Private("torch._C:_set_grad_enabled", "does the model switch gradients"),
    Private("torch:ops.aten._to_copy", "what does autocast convert"),
    Private(
        "torch.fx.experimental.symbolic_shapes:DimConstraints", "has a method that is replaced"
    ),
    Private("torch:Tensor._version", "was a tensor written into"),
    Private("torch:UntypedStorage._cdata", "do tensors without data share memory"),
    Private("torch._C:_get_dispatch_mode", "is AOTAutograd tracing a step"),
    Private("torch._C:_TorchDispatchModeKey.FUNCTIONAL", "likewise"),
    Private("torch._dynamo.exc:Unsupported", "what torch.compile can't take"),
    Private("torch._dynamo.exc:FailOnRecompileLimitHit", "a step that it compiles too often"),
    Private("torch._dynamo.eval_frame:_stance", "is it as it was after a run without compute"),
    Private("torch.nn.modules.module:_global_forward_hooks", "are all hooks gone after a capture"),
    Private("torch.nn.modules.module:_global_forward_pre_hooks", "likewise"),
    Private("torch._library:autograd", "has an operator a gradient of its own"),
    Private("torch.nn:Module._version", "a state dict of the emitted module is the model's"),
    Private("torch.nn:Module._parameters", "the dictionaries are shared with the emitted graph"),
    Private("torch.nn:Module._buffers", "likewise"),
    Private("torch.nn:Module._modules", "likewise"),
    Private("torch.nn.modules.batchnorm:_BatchNorm", "batch norms of any rank"),
    Private("torch.nn.modules.batchnorm:_NormBase", "norms with running statistics"),
    Private("torch.nn.modules.dropout:_DropoutNd", "all dropouts"),
    Private("torch:autocast._enabled", "a training is continued under the same autocast"),
)

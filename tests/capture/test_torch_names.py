"""What of torch is replaced or read though torch does not promise it: is it still what it is taken
for? The lists are those of ``capture/torch_patches.py`` and ``core/torch_private.py``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
from typing import Any

import pytest
import torch
from torch import nn

from pgt_fx.capture.replacing import CodePatch, Patch
from pgt_fx.capture.torch_patches import PATCHES
from pgt_fx.core.torch_private import PRIVATE, TRIED, Private


def parameters(function: Any) -> tuple[str, ...] | None:
    """Names of what a Python function takes; None for one that is written in C."""
    return tuple(inspect.signature(function).parameters) if _in_python(function) else None


def _in_python(function: Any) -> bool:
    return isinstance(inspect.unwrap(function), types.FunctionType)


@pytest.mark.parametrize(
    "patch", [p for p in PATCHES if isinstance(p, Patch)], ids=lambda patch: patch.where
)
def test_a_patched_attribute_is_what_it_was(patch: Patch) -> None:
    if patch.optional and not patch.exists:
        pytest.skip(f"torch {torch.__version__} has no {patch.where}, and does without")
    assert patch.exists, (
        f"torch {torch.__version__} has no {patch.where}, which is needed: {patch.why}"
    )
    assert parameters(getattr(patch.home, patch.name)) == patch.takes
    if isinstance(patch, CodePatch):  # other code can only be put into one without variables
        assert not patch.function().__code__.co_freevars


def _made() -> dict[str, Any]:
    """An object of each class of which an attribute of its objects is read."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    size = ShapeEnv().create_unbacked_symint()
    return {
        "OpOverload": torch.ops.aten.add.Tensor,
        "SymNode": size.node,
        "Tensor": torch.zeros(1),
        "UntypedStorage": torch.zeros(1).untyped_storage(),
        "Module": nn.Module(),
        "autocast": torch.autocast("cpu"),
    }


@pytest.mark.parametrize("private", PRIVATE, ids=[private.where for private in PRIVATE])
def test_a_private_name_is_what_it_was(private: Private) -> None:
    assert private.why and private.tried
    module, _, name = private.where.partition(":")
    found: Any = importlib.import_module(module)
    first, _, attribute = name.partition(".")
    try:
        found = getattr(found, first)
        if attribute:
            kind = found
            found = getattr(kind, attribute, None) or getattr(_made()[first], attribute)
    except AttributeError:
        pytest.fail(f"torch {torch.__version__} has no {private.where}: {private.why}")
    if private.takes is not None:
        assert parameters(found) == private.takes


def test_this_release_is_among_those_tried_or_newer() -> None:
    """The list of releases is kept: they are releases, in order."""
    assert list(TRIED) == sorted(TRIED) and all(re.fullmatch(r"2\.\d+\.\d+", one) for one in TRIED)

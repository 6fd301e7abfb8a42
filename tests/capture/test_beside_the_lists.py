"""Nothing of torch's is replaced, and no private name of it read, beside the lists of
``capture/torch_patches.py`` and ``core/torch_private.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pgt_fx

ROOT = Path(pgt_fx.__file__).parent
LISTS = ("capture/torch_patches.py", "core/torch_private.py")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] != "zoo" and path.relative_to(ROOT).as_posix() not in LISTS
)
#: Attributes of torch's objects for which torch_private has a function.
READ = ("_schema", "_version", "_cdata", "_overloadname", "_overloadpacket", "_expr", "_enabled")
#: What replaces something all the same: file -> why.
ELSEWHERE = {
    "capture/replacing.py": "does it for all",
    "capture/observe/snapshots.py": "puts back values of the model's own classes",
    "cli/script.py": "argparse and sys, in a process that runs one script and ends",
    "cli/train_job.py": "a layer of the model, on request",
    "testing/zoo_survey.py": "layers of a model that it has built",
    "runtime/torch_compile.py": "settings of the model's layers",
}


def _imported(tree: ast.AST) -> dict[str, str]:
    """Names that a file has from torch or from Python, each with what it is."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                names[one.asname or one.name.partition(".")[0]] = (
                    one.name if one.asname else one.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("pgt_fx"):
            for one in node.names:
                names[one.asname or one.name] = f"{node.module}.{one.name}"
    return names


def _written(node: ast.AST) -> str:
    """``torch.SymBool.__bool__`` of such an expression; "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = _written(node.value)
        return left and f"{left}.{node.attr}"
    return ""


def private_names(tree: ast.AST) -> list[str]:
    """What a file has of torch that torch does not promise."""
    names = _imported(tree)
    found = [full for full in names.values() if full.partition(".")[0] == "torch"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names]
        if isinstance(node, ast.Attribute):
            root, _, rest = _written(node).partition(".")
            if names.get(root, "").partition(".")[0] == "torch":
                found.append(f"{names[root]}.{rest}")
            if node.attr in READ and not (isinstance(node.value, ast.Name) and _own(node)):
                found.append(f"torch: .{node.attr}")
    return [one for one in found if one.startswith("torch") and _is_private(one)]


def _own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _is_private(name: str) -> bool:
    parts = name.replace(": .", ".").split(".")
    inner = any(p.startswith("_") and not p.endswith("__") for p in parts)
    return inner or name.startswith("torch.fx.experimental")


def replacements(tree: ast.AST) -> list[str]:
    """Statements of a file that put something else into a module or a class of others."""
    names, found = _imported(tree), []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in [t for one in targets for t in ast.walk(one)]:
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store):
                root = _written(target).partition(".")[0]
                known = names.get(root, "").partition(".")[0]
                if known in ("torch", "os", "random", "sys", "builtins", "logging"):
                    found.append(_written(target))
                if target.attr == "__code__":
                    found.append("__code__")
        if isinstance(node, ast.Call):
            called = _written(node.func)
            if called == "setattr" or "mock.patch" in called or "register_module_" in called:
                found.append(called)
    return found


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_replaced_or_read_beside_the_lists(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert private_names(tree) == [], "list it in core/torch_private.py, and import it from there"
    assert file in ELSEWHERE or replacements(tree) == [], "list it in capture/torch_patches.py"


@pytest.mark.parametrize(
    ("source", "private", "replaced"),
    [
        ("import torch\ntorch.SymBool.__bool__ = 1", 0, 1),
        ("from torch import Tensor, nn\nTensor.x, nn.y = 1, 2", 0, 2),
        ("import os\nos.environ.z = 1", 0, 1),
        ("def f(g): g.__code__ = 1", 0, 1),
        ("from unittest import mock\nmock.patch.object(a, 'b')", 0, 1),
        ("from torch.utils import _pytree as pytree", 1, 0),
        ("import torch\ntorch._C._get()", 2, 0),
        ("from torch.fx.experimental.sym_node import SymNode", 1, 0),
        ("def f(x): return x._version", 1, 0),
        ("import torch\nprint(torch.__version__)", 0, 0),
        ("import torch\nx: torch.dtype = torch.float64", 0, 0),
    ],
)
def test_it_would_be_seen(source: str, private: int, replaced: int) -> None:
    tree = ast.parse(source)
    assert (len(private_names(tree)), len(replacements(tree))) == (private, replaced)

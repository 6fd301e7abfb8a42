"""Exact gradients of the zoo's backbones: equal to one backward over the whole video.

The fast ones run on each commit, all of them with ``--slow``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.training import backward

pytestmark = pytest.mark.full

EXACT = 1e-9
FAST = ("r3d_18", "slowfast_r50")
#: Autoencoders and models that score single frames take other labels; detection takes boxes; the
#: others are refused.
LEFT_OUT = {"MViT", "Swin", "frame-wise", "VAE"}
#: These look at all of time; no bounded state reproduces them, and the reference is then all steps
#: in one graph. Features end in front of a squeeze-excitation, but not of a non-local block.
GATES = ("squeeze-excitation", "non-local")


def gated(name: str) -> bool:
    return any(gate in zoo.get(name).all_time for gate in GATES)


def names(*, features: bool = False) -> list[Any]:
    return [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in zoo.names()
        if (zoo.get(name).family not in LEFT_OUT or name == "resnet18_mean")
        and not zoo.get(name).boxes
        and not (features and "non-local" in zoo.get(name).all_time)
        and name != "mvit_base_16"  # of 224 pixels only, and frames do not meet before its head
    ]


def case(name: str, *, features: bool = False) -> tuple[nn.Module, Any, Any, list[int]]:
    """Model (norms redrawn and frozen, float64), clip, a video of three uneven steps."""
    torch.manual_seed(0)
    build = zoo.features if features else zoo.build
    model = build(name, space=32, redraw_norms=True).double().eval()
    clip = pytree.tree_map(lambda x: x.double(), zoo.clip(name, space=32))
    first = clip[0] if isinstance(clip, list) else clip
    length = first.shape[2]
    chunks = [length, max(1, length // 2 - 1), length + 1]
    generator = torch.Generator().manual_seed(1)

    def longer(x: Tensor) -> Tensor:
        frames = x.shape[2] // length * sum(chunks)
        shape = (1, *x.shape[1:2], frames, *x.shape[3:])
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return model, clip, pytree.tree_map(longer, clip), chunks


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    scale = max(float(v.abs().max()) for v in b.values())
    return max(
        float((a[k] - b[k]).abs().max() / max(float(b[k].abs().max()), 1e-6 * scale)) for k in b
    )


def weighted(output: Any, target: Any = None) -> Tensor:
    """A loss that tells elements apart, along time too; for dense outputs a plain sum over them."""
    del target
    leaves = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    return sum((x.sin() * x).sum() for x in leaves)  # type: ignore[return-value]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("on", ["last", "every"])
def test_exact_gradients_with_losses_on(on: str, name: str) -> None:
    model, clip, video, chunks = case(name)
    strict = not gated(name)
    prog = pgt_fx.transform(model, clip, future="wait", pooling="running", strict=strict)
    label = torch.tensor([7])
    how: Any = {"schedule": chunks, "on": on}
    if on == "last" and strict:
        # The whole video in one step is the model itself, its clip pools taken over all of time.
        F.cross_entropy(prog.full(video), label).backward()
    else:
        backward(prog, video, F.cross_entropy, label, keep=99, **how)
    expected = gradients(prog)
    backward(prog, video, F.cross_entropy, label, gradient="exact", **how)
    assert distance(gradients(prog), expected) <= EXACT
    backward(prog, video, F.cross_entropy, label, **how)
    assert distance(gradients(prog), expected) > 1e-6, "truncated gradients must differ"


@pytest.mark.parametrize("name", names(features=True))
def test_exact_gradients_of_dense_frames(name: str) -> None:
    model, clip, video, chunks = case(name, features=True)
    prog = pgt_fx.transform(model, clip, future="wait")
    copy = pytree.tree_map(lambda x: x.clone(), video)  # slowfast writes into the list it is given
    weighted(model(copy)).backward()
    expected = gradients(model)
    backward(prog, video, weighted, schedule=chunks, gradient="exact")
    assert distance(gradients(prog), expected) <= EXACT

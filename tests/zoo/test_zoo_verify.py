"""No false alarm: every promise of a backbone of the zoo holds, in float32 and in float64.

One small backbone on each commit, all of them with ``--slow`` (about half an hour on one core).
"""

from __future__ import annotations

import pytest
import torch

import pgt_fx
from pgt_fx import zoo

pytestmark = pytest.mark.full

FAST = ("slow_r50",)
#: Attention over all of time is not measured here, nor ResNet-101, which is ResNet-50 longer; all
#: that is frame-wise is measured in
#: test_temporal_heads.py, and autoencoders in test_vae_streams.py.
LEFT_OUT = {"MViT", "Swin", "audio-visual", "frame-wise", "VAE"}
NAMES = [
    pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
    for name in zoo.names()
    if zoo.get(name).family not in LEFT_OUT
    and "non-local" not in zoo.get(name).all_time
    and not zoo.get(name).boxes
    and "slowfast_16" not in name
    and name not in ("slow_r101", "slowfast_r101", "x3d_l", "mvit_base_16")
    and name != "tsn_r50"  # the order of its frames makes no difference: nothing can be checked
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_nothing_is_violated(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    prog = pgt_fx.transform(zoo.build(name, space=32), zoo.clip(name, space=32))
    found = pgt_fx.verify(prog, dtype=dtype)
    print(found)  # shown for a failure, and with -rP
    assert found.ok, str(found)
    # An answer pooled over a step is not the whole video's. The squeeze-excitations of x3d gate
    # single frames by all of time: there is nothing to be exact about, and no field.
    expected = {"exact-zero", "context"}
    gated = zoo.get(name).all_time == "squeeze-excitation"
    expected |= {"exact-wait", "receptive-field"} if gated else set()
    assert {c.id for c in found.silent} <= expected, str(found)

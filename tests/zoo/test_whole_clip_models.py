"""Video transformers of torchvision, of pytorchvideo and of transformers: a step is a clip.

Small ones of each builder with ``--slow``, those of the zoo at their own size with ``--full``.
Nothing is downloaded: weights are random, norms and zeros drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx import AttentionMemory, Progressive, zoo
from pgt_fx.compiler.selfcheck.redraw import redraw_zeros
from pgt_fx.core.errors import ClipError

FRAMES, SIDE, EXACT = 8, 32, 1e-9
Clip = Tensor | dict[str, Tensor]


def of_torchvision(relative: bool) -> tuple[nn.Module, Clip]:
    mvit = pytest.importorskip("torchvision.models.video.mvit")
    blocks = [
        mvit.MSBlockConfig(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
        mvit.MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
    ]
    model = mvit.MViT(
        spatial_size=(SIDE, SIDE),
        temporal_size=FRAMES,
        block_setting=blocks,
        residual_pool=relative,
        residual_with_cls_embed=not relative,
        rel_pos_embed=relative,
        proj_after_attn=relative,
        num_classes=5,
    )
    return model, torch.randn(1, 3, FRAMES, SIDE, SIDE)


def mvit_v1() -> tuple[nn.Module, Clip]:
    return of_torchvision(relative=False)


def mvit_v2() -> tuple[nn.Module, Clip]:
    return of_torchvision(relative=True)


def swin3d() -> tuple[nn.Module, Clip]:
    swin = pytest.importorskip("torchvision.models.video.swin_transformer")
    model = swin.SwinTransformer3d([2, 4, 4], 8, [2], [2], [2, 4, 4], num_classes=5)
    return model, torch.randn(1, 3, FRAMES, SIDE, SIDE)


def mvit_of_pytorchvideo() -> tuple[nn.Module, Clip]:
    made = pytest.importorskip("pytorchvideo.models.vision_transformers")
    model = made.create_multiscale_vision_transformers(
        spatial_size=SIDE,
        temporal_size=FRAMES,
        depth=2,
        patch_embed_dim=16,
        conv_patch_embed_kernel=(3, 7, 7),
        conv_patch_embed_stride=(2, 4, 4),
        conv_patch_embed_padding=(1, 3, 3),
        num_heads=1,
        embed_dim_mul=[[1, 2.0]],
        atten_head_mul=[[1, 2.0]],
        pool_q_stride_size=[[1, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 4, 4],
        pool_kvq_kernel=[3, 3, 3],
        head_num_classes=5,
    )
    return model, torch.randn(1, 3, FRAMES, SIDE, SIDE)


SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VIDEO: dict[str, Any] = {"image_size": SIDE, "num_frames": FRAMES, **SMALL}


def _hub() -> Any:
    return pytest.importorskip("transformers")


def _frames_first() -> Tensor:
    return torch.randn(1, FRAMES, 3, SIDE, SIDE)


def videomae() -> tuple[nn.Module, Clip]:
    hub = _hub()
    config = hub.VideoMAEConfig(patch_size=8, tubelet_size=2, num_labels=5, **VIDEO)
    return hub.VideoMAEForVideoClassification(config), _frames_first()


def vivit() -> tuple[nn.Module, Clip]:
    hub = _hub()
    config = hub.VivitConfig(tubelet_size=[2, 8, 8], num_labels=5, **VIDEO)
    return hub.VivitForVideoClassification(config), _frames_first()


def timesformer() -> tuple[nn.Module, Clip]:
    hub = _hub()
    config = hub.TimesformerConfig(patch_size=8, num_labels=5, **VIDEO)
    return hub.TimesformerForVideoClassification(config), _frames_first()


def vjepa2() -> tuple[nn.Module, Clip]:
    hub = _hub()
    config = hub.VJEPA2Config(
        crop_size=SIDE,
        patch_size=8,
        frames_per_clip=FRAMES,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2.0,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_pooler_layers=1,
        num_labels=5,
    )
    return hub.VJEPA2ForVideoClassification(config), _frames_first()


def xclip() -> tuple[nn.Module, Clip]:
    hub = _hub()
    text = {**SMALL, "vocab_size": 64, "max_position_embeddings": 12}
    text |= {"num_hidden_layers": 1, "eos_token_id": 1, "bos_token_id": 0}
    mit = {"mit_hidden_size": 16, "mit_intermediate_size": 48, "mit_num_hidden_layers": 1}
    config = hub.XCLIPConfig(
        text_config=text,
        vision_config={**VIDEO, "patch_size": 8, **mit, "mit_num_attention_heads": 2},
        projection_dim=16,
        prompt_layers=1,
        prompt_num_attention_heads=2,
    )
    words = torch.randint(2, 60, (3, 6))
    words[:, -1] = 63
    given = {"input_ids": words, "pixel_values": _frames_first()}
    return hub.XCLIPModel(config), given | {"attention_mask": torch.ones_like(words)}


#: Builder -> attentions over frames: of X-CLIP those between frames, over the frames, and of the
#: text to the video; of TimeSformer those over time.
MODELS: dict[Callable[[], tuple[nn.Module, Clip]], int] = {
    mvit_v1: 2,
    mvit_v2: 2,
    swin3d: 2,
    mvit_of_pytorchvideo: 2,
    videomae: 2,
    vivit: 2,
    timesformer: 2,
    vjepa2: 4,
    xclip: 4,
}


def cast(clip: Clip, *, seed: int | None = None) -> Clip:
    """In float64; with a seed another video."""
    if isinstance(clip, dict):
        return {k: _cast(v, seed) if v.is_floating_point() else v for k, v in clip.items()}
    return _cast(clip, seed)


def _cast(x: Tensor, seed: int | None) -> Tensor:
    if seed is None:
        return x.double()
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()


def call(module: Any, clip: Clip) -> Tensor:
    with torch.no_grad():
        out = module(**clip) if isinstance(clip, dict) else module(clip)
    if isinstance(out, Tensor):
        return out
    return out["logits"] if "logits" in out else out["logits_per_video"]


def fed(prog: Progressive, pieces: list[Clip]) -> list[Tensor]:
    prog.reset()
    return [call(prog, piece) for piece in pieces]


def flipped(clip: Clip) -> Clip:
    if isinstance(clip, dict):
        return clip | {"pixel_values": clip["pixel_values"].flip(1)}
    return clip.flip(2 if clip.shape[1] == 3 else 1)


def cut(clip: Clip, frames: int) -> Clip:
    if isinstance(clip, dict):
        return clip | {"pixel_values": clip["pixel_values"][:, :frames]}
    return clip[:, :, :frames] if clip.shape[1] == 3 else clip[:, :frames]


def ready(build: Callable[[], tuple[nn.Module, Clip]]) -> tuple[nn.Module, Clip]:
    torch.manual_seed(0)
    model, clip = build()
    model = model.double().eval()
    redraw_zeros(model, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # tiny weights would hide what is carried
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.3 if p.dim() > 1 else 0.5))
    return model, cast(clip)


@pytest.mark.slow
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_a_step_is_a_clip_and_the_attentions_carry(
    build: Callable[[], tuple[nn.Module, Clip]],
) -> None:
    model, clip = ready(build)
    times = [None, 1, None] if isinstance(clip, dict) else None
    prog = pgt_fx.transform(model, clip, time_dim=times)
    assert prog.report.steps.startswith(f"a step is a clip of {FRAMES} frames, because ")
    assert ".py:" in prog.report.steps

    pieces = [cast(clip, seed=n) for n in range(3)]
    wanted = [call(model, piece) for piece in pieces]
    for got, right in zip(fed(prog, pieces), wanted, strict=True):
        assert relative_error(got, right) < EXACT
    assert relative_error(call(model, flipped(pieces[0])), wanted[0]) > 1e-4

    memory = prog.replace(attention="memory")
    assert sum(r.state_bytes > 0 for r in memory.report.rows) == MODELS[build]
    steps = fed(memory, pieces)
    assert relative_error(steps[0], wanted[0]) < EXACT
    assert relative_error(steps[1], wanted[1]) > 1e-6
    changed = fed(memory, [cast(clip, seed=9), *pieces[1:]])
    assert relative_error(changed[1], steps[1]) > 1e-7
    assert all(map(torch.equal, fed(memory, pieces), steps))
    instead = fed(prog.replace(attention=AttentionMemory(beside=False)), pieces)
    assert relative_error(instead[0], wanted[0]) < EXACT
    assert relative_error(instead[1], steps[1]) > 1e-7

    with pytest.raises(ClipError, match=rf"a clip of {FRAMES} frames, and 5 frames were fed"):
        memory.reset()
        call(memory, pieces[0])
        call(memory, cut(pieces[0], 5))


CLIPS = ["mvit_base_16x4", "mvit_base_32x3", "mvit_v1_b", "mvit_v2_s"]
#: How many attentions each carries.
CARRIED = {"swin3d_t": 12, "swin3d_s": 24, "swin3d_b": 24} | dict.fromkeys(CLIPS, 16)


@pytest.mark.full
@pytest.mark.parametrize("name", CARRIED)
def test_those_of_the_zoo_at_their_own_size(name: str) -> None:
    model, clip = zoo.build(name, redraw_norms=True), zoo.clip(name)
    prog = pgt_fx.transform(model, clip, attention="memory", check=False)
    assert sum(r.state_bytes > 0 for r in prog.report.rows) == CARRIED[name]
    other = torch.randn(clip.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert relative_error(prog(clip), model(clip)) < 1e-4
        assert relative_error(prog(other), model(other)) > 1e-4

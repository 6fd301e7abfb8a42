"""Image models of timm on every frame, each with a temporal model on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .entry import Entry

if TYPE_CHECKING:
    from .frame_wise_video import Head

FRAMES, SPACE = 16, 224


def _entry(name: str, description: str, **more: Any) -> Entry:
    # Vision transformers have a table of positions for one height and width.
    options = {"fixed_pool": "_tiny_" in name} | more
    return Entry(
        name, "timm", (FRAMES,), SPACE, description=description, family="frame-wise", **options
    )


ENTRIES = (
    _entry("resnet18_mean", "2D ResNet-18, mean of the frames' features"),
    _entry("mobilenetv3_small_ms_tcn", "MobileNetV3, two-stage TCN that looks both ways"),
    _entry("regnetx_002_tcn", "2D RegNetX-200MF, causal TCN"),
    _entry("efficientnet_b0_gru", "EfficientNet-B0, GRU"),
    _entry("convnext_atto_lstm", "ConvNeXt, LSTM"),
    _entry("resnet18_bilstm", "2D ResNet-18, LSTM of both directions", all_time="LSTM backwards"),
    _entry("vit_tiny_transformer_causal", "ViT, transformer encoder with a causal mask"),
    _entry("resnet18_transformer", "2D ResNet-18, transformer encoder", all_time="attention"),
    _entry(
        "deit_tiny_transformer_learned",
        "DeiT, transformer encoder with a table of positions",
        all_time="attention",
        fixed_frames=True,
    ),
)

#: Name in the zoo -> image model of timm, and the temporal model after it.
_PARTS: dict[str, tuple[str, Head]] = {
    "resnet18_mean": ("resnet18", "mean"),
    "mobilenetv3_small_ms_tcn": ("mobilenetv3_small_100", "ms-tcn"),
    "regnetx_002_tcn": ("regnetx_002", "tcn"),
    "efficientnet_b0_gru": ("efficientnet_b0", "gru"),
    "convnext_atto_lstm": ("convnext_atto", "lstm"),
    "resnet18_bilstm": ("resnet18", "bilstm"),
    "vit_tiny_transformer_causal": ("vit_tiny_patch16_224", "transformer-causal"),
    "resnet18_transformer": ("resnet18", "transformer"),
    "deit_tiny_transformer_learned": ("deit_tiny_patch16_224", "transformer-learned"),
}


def load(entry: Entry, space: int, pretrained: bool) -> nn.Module:
    """Build the model of that name; ``pretrained`` is of the image model, the rest is random."""
    from .frame_wise_video import frame_wise

    image, head = _PARTS[entry.name]
    options = {"img_size": space} if entry.fixed_pool else {}
    return frame_wise(image, head, frames=FRAMES, pretrained=pretrained, **options)

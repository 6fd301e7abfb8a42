"""An image model on every frame, and a temporal model on what it says of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal, get_args

from torch import Tensor, nn

from pgt_fx.core.errors import OptionError

from .entry import timm_for
from .temporal_heads import CausalTCN, Encoder, Mean, MultiStageTCN, Recurrent


class EachFrame(nn.Module):
    """The features of the single frames.

    Attributes:
        image: takes (N, C, H, W), gives (N, D).
    """

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, clip: Tensor) -> Tensor:
        """(N, D, T) of clips (N, C, T, H, W)."""
        n, t = clip.shape[0], clip.shape[2]
        found: Tensor = self.image(clip.transpose(1, 2).flatten(0, 1))
        return found.unflatten(0, (n, t)).transpose(1, 2)


class FrameWiseVideo(nn.Module):
    """Image model, temporal model, classifier.

    Attributes:
        features: takes (N, C, T, H, W), gives (N, D, T): the image model, and the temporal one
            where an element of that looks a bounded number of frames ahead.
        temporal: else the temporal model: (N, width, T) of (N, D, T), or (N, width) of the clip.
        classifier: takes (…, width), gives (…, classes).
    """

    def __init__(self, image: nn.Module, temporal: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(frames=EachFrame(image)))
        self.temporal = temporal
        if temporal.bounded:
            self.features.add_module("temporal", temporal)
            self.temporal = nn.Identity()
        self.classifier = classifier

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, T, classes) of the frames of (N, C, T, H, W); of a mean (N, classes)."""
        x: Tensor = self.temporal(self.features(clip))
        return self.classifier(x if x.ndim == 2 else x.transpose(1, 2))


Head = Literal[
    "mean",
    "tcn",
    "ms-tcn",
    "gru",
    "lstm",
    "bilstm",
    "transformer",
    "transformer-causal",
    "transformer-learned",
]
#: Names of the temporal models that :func:`frame_wise` makes.
HEADS: tuple[Head, ...] = get_args(Head)


def frame_wise(
    image: str | nn.Module,
    head: Head = "mean",
    *,
    classes: int = 400,
    width: int = 64,
    layers: int | None = None,
    stages: int = 2,
    frames: int = 16,
    dropout: float = 0.1,
    features: int | None = None,
    **options: Any,
) -> FrameWiseVideo:
    """An image model on every frame and a temporal model after it, with random weights.

    Args:
        image: the name of a timm model, which is built without its classifier, or a module from
            (N, C, H, W) to (N, features).
        head: "mean" over the frames, for scores (N, classes) of the clip. All others give scores
            (N, T, classes) of the frames: "tcn" looks back only, "ms-tcn" both ways; "gru" and
            "lstm" run forwards, "bilstm" both ways; "transformer" lets every frame attend to
            every other, "transformer-causal" to itself and earlier ones, both with sinusoids as
            positions; "transformer-learned" has a table of positions, without a mask.
        classes: scores per clip or frame.
        width: of the temporal model: a multiple of 4 for transformers, even for "bilstm".
        layers: of each stage of a TCN (None: 3), with dilation 1, 2, 4, …; of a transformer
            (None: 2).
        stages: of "ms-tcn".
        frames: rows of the table of "transformer-learned": the longest clip that it takes.
        dropout: in TCN and transformer, in train mode.
        features: that ``image`` gives; None: as a timm model says itself.
        options: for ``timm.create_model``, such as ``pretrained`` and ``img_size``.

    Raises:
        OptionError: an unknown head, or a module that does not say how many features it gives.
        MissingPackageError: timm is not installed.
        TypeError: options for a module that is already built.
    """
    if head not in HEADS:
        raise OptionError(f"head={head!r}: expected one of {', '.join(HEADS)}")
    if isinstance(image, str):
        built: nn.Module = timm_for(image).create_model(image, num_classes=0, **options)
        image = built
    elif options:
        raise TypeError(f"{', '.join(options)}: options of an image model that is already built")
    size = _features(image) if features is None else features
    temporal: nn.Module
    match head:
        case "mean":
            temporal, width = Mean(), size
        case "tcn":
            temporal = CausalTCN(size, width, layers or 3, dropout)
        case "ms-tcn":
            temporal = MultiStageTCN(size, width, layers or 3, dropout, stages, classes)
        case "gru":
            temporal = Recurrent(nn.GRU, size, width)
        case "lstm" | "bilstm":
            temporal = Recurrent(nn.LSTM, size, width, both_ways=head == "bilstm")
        case _:
            causal, rows = head.endswith("causal"), frames if head.endswith("learned") else 0
            temporal = Encoder(size, width, layers or 2, dropout, causal, rows)
    return FrameWiseVideo(image, temporal, nn.Linear(width, classes))


def _features(image: nn.Module) -> int:
    """What a timm model gives without a classifier, or with one: its classes."""
    for name in ("num_classes", "head_hidden_size", "num_features"):
        if isinstance(found := getattr(image, name, None), int) and found:
            return found
    raise OptionError(f"how many features {type(image).__name__} gives is unknown: features=…")

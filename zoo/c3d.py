"""C3D: eight 3x3x3 convolutions, five pools, three fully connected layers.

Source: "Learning Spatiotemporal Features with 3D Convolutional Networks", Tran et al., ICCV 2015.
Its first fully connected layer takes one element of time and all of space. Written as
convolutions, the three are the same function on a clip of 16 frames, and on a longer one they
run at every 16th frame; the scores are then averaged.
"""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class C3D(nn.Module):
    """C3D for one height and width.

    Args:
        space: height and width of the frames, in pixels; a multiple of 16.
        classes: scores per clip.

    Attributes:
        features: convolutions and pools, (N, 3, T, H, W) to (N, 512, T/16, H', W').
    """

    def __init__(self, space: int = 112, classes: int = 400) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage, widths in enumerate(_WIDTHS):
            for width in widths:
                layers += [nn.Conv3d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            time = 1 if stage == 0 else 2
            # The fifth pads, so that 7 elements are left as 4 and not as 3.
            edge = (0, 1, 1) if stage == 4 else 0
            layers.append(nn.MaxPool3d((time, 2, 2), (time, 2, 2), edge))
        self.features = nn.Sequential(*layers)
        left = space // 16 // 2 + 1
        self.classifier = nn.Sequential(
            nn.Conv3d(channels, 4096, (1, left, left)),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv3d(4096, 4096, 1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv3d(4096, classes, 1),
        )
        for module in self.modules():
            # There are no norms to keep the scale of activations: the convolutions must.
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.normal_(module.bias, std=0.05)  # type: ignore[arg-type]

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, 3, T, H, W)."""
        scores: Tensor = self.classifier(self.features(clip))
        return scores.mean((2, 3, 4))

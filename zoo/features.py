"""The part of a backbone that is dense in time: stem and stages, without the head."""

from __future__ import annotations

from typing import Any

from torch import nn

from pgt_fx.core.errors import PgtError

from .tsn import FrameWiseMaps

# Containers that run their children one after the other, in the order they are written.
_SEQUENTIAL = frozenset(
    {"Sequential", "ModuleList", "Net", "ResStage", "ResNetBasicStem", "BottleneckBlock"}
)
_SQUEEZE_EXCITATION = frozenset(
    {"SqueezeExcitation", "SqueezeAndExcitationLayer2D", "SEModule", "SELayer"}
)


# Residual blocks, with the child that is the main branch: the shortcut runs beside it.
_BRANCH = {"ResBlock": "branch2", "X3dBottleneckBlock": "layers"}

# Those that keep their stem and stages in one module.
_WITH_FEATURES = frozenset({"S3D", "C3D", "TSM", "ECOLite", "RegNet3D"})
_HEADS = frozenset({"PoolConcatPathway", "ResNetBasicHead"})


class FeaturesError(PgtError, ValueError):
    """The module is not built in a way that says where its head begins."""


def dense_features(model: nn.Module) -> nn.Sequential:
    """Stem and stages of a zoo model, as a view of it: the modules and weights are the same.

    Takes what :func:`pgt_fx.zoo.build` returns.  A model with squeeze-excitation ends before
    the first such block, because that one looks at all of time; where it stands inside a
    residual block, only the main branch up to it is run.

    Input and output are NCTHW tensors; for two paths lists of them (and, as in pytorchvideo,
    the list given is written into).

    Raises:
        FeaturesError: if the class of the model, or of what surrounds its first
            squeeze-excitation, is not known here.
    """
    kind = type(model).__name__
    if kind == "FrameWiseVideo":
        # Squeeze-excitations of its image model look at single frames.
        return nn.Sequential(model.features).train(model.training)  # type: ignore[arg-type]
    if kind == "VideoResNet":
        stages = [model.stem, model.layer1, model.layer2, model.layer3, model.layer4]
    elif kind in _WITH_FEATURES:
        stages = [model.features]
    elif kind == "SwinTransformer3d":
        from torchvision.ops.misc import Permute

        whole: Any = model
        stages = [whole.patch_embed, whole.pos_drop, whole.features, whole.norm]
        stages.append(Permute([0, 4, 1, 2, 3]))
    elif kind == "FrameWise" and type(model.image).__name__ == "ResNet":
        image: Any = model.image
        trunk = [image.conv1, image.bn1, image.relu, image.maxpool]
        trunk += [image.layer1, image.layer2, image.layer3, image.layer4]
        stages = [FrameWiseMaps(nn.Sequential(*trunk))]
    elif kind == "EfficientX3d":
        stages = [model.s1, model.s2, model.s3, model.s4, model.s5]
    elif kind in ("Net", "DetectionBBoxNetwork"):
        net: Any = model.model if kind == "DetectionBBoxNetwork" else model
        stages = [m for m in net.blocks if type(m).__name__ not in _HEADS]
    else:
        raise FeaturesError(f"{kind} is not a model of this zoo: where its head begins is unknown")
    body = nn.Sequential(*stages)  # type: ignore[arg-type]

    first = next(
        (name for name, m in body.named_modules() if type(m).__name__ in _SQUEEZE_EXCITATION), None
    )
    if first is None:
        return body.train(model.training)
    return nn.Sequential(*_before(body, first.split("."), "")).train(model.training)


def _before(module: nn.Module, path: list[str], at: str) -> list[nn.Module]:
    """The modules that run before ``module.<path>``, in order."""
    if not path:
        return []
    head, *rest = path
    children = dict(module.named_children())
    kind = type(module).__name__
    if kind in _BRANCH:
        if head != _BRANCH[kind]:
            raise FeaturesError(f"squeeze-excitation in the shortcut of the {kind} at {at!r}")
        earlier = []
    elif kind in _SEQUENTIAL:
        names = list(children)
        earlier = [children[name] for name in names[: names.index(head)]]
    else:
        raise FeaturesError(f"in which order the children of {kind} at {at!r} run is unknown")
    return earlier + _before(children[head], rest, f"{at}.{head}".lstrip("."))

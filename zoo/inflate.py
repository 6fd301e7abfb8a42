"""Image models of timm as video models: some of their convolutions look along time."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from .entry import UnknownModelError, timm_for
from .image_layers import choose, read
from .temporal import InflationError, Preset, Temporal, settings
from .temporal_conv import TemporalConv, over_time
from .time_graph import fold, trace, with_time


class Inflated(nn.Module):
    """An image model over time.

    Attributes:
        features: clips (N, C, T, H, W) to maps (N, C', T', H', W'), T' = T unless the temporal
            settings have a stride.  Dense in time: this is what to stream.  The modules in it
            have the image model's names.
        head: maps of single elements (M, C', H', W') to scores (M, classes).
        temporal: the settings it was made with.
        convolutions: names in ``features`` of the convolutions that look along time, and the
            number of frames that each sees.
    """

    def __init__(
        self,
        features: fx.GraphModule,
        head: fx.GraphModule,
        temporal: Temporal,
        convolutions: dict[str, int],
    ) -> None:
        super().__init__()
        self.features, self.head = features, head
        self.temporal, self.convolutions = temporal, convolutions

    def forward_features(self, clip: Tensor) -> Tensor:
        """(N, C', T', H', W') of clips (N, C, T, H, W)."""
        maps: Tensor = self.features(clip)
        return maps

    def forward(self, clip: Tensor) -> Tensor:
        """Scores (N, classes) of clips (N, C, T, H, W): the mean over the elements of time.

        The last layer is linear: it is the score of the mean of what stands before it.
        """
        maps = self.features(clip)
        scores: Tensor = self.head(fold(maps))
        return scores.unflatten(0, (maps.shape[0], maps.shape[2])).mean(1)


def inflate(
    model: nn.Module | str,
    temporal: Temporal | Preset = "slowonly",
    *,
    image: Tensor | None = None,
    pretrained: bool = False,
    seed: int = 0,
) -> Inflated:
    """Turn an image model of timm into a video model.

    Weights are carried over so that a still video gives the image model's features and scores;
    that is checked here, on an image, before the model is returned.  All but the chosen
    convolutions works frame by frame, squeeze-excitation and attention too: nothing but the
    score looks at all of time, so that ``features`` can be streamed exactly.  Stochastic depth
    is drawn frame by frame as well.

    Args:
        model: a timm convolutional net, or its name in timm.  A model is copied, and the copy
            is left in its mode; by name it is built in eval mode.
        temporal: which convolutions look along time, and how; or "slowonly", "i3d", "r2plus1d",
            which are :data:`SLOWONLY`, :data:`I3D` and :data:`R2PLUS1D` of zoo/temporal.py.
        image: (N, C, H, W) as the model takes it, on which its stages are read and the copy is
            checked; None: noise of the size in its timm configuration.
        pretrained: of a name: download weights.
        seed: of a name: of the random weights; the global random state is left as it was.

    Raises:
        InflationError: the model can't be inflated like this: the message says why.
        UnknownModelError: timm has no model of that name.
        MissingPackageError: timm is not installed.
        OptionError: unknown preset.
    """
    chosen = settings(temporal)
    whole: Any = _built(model, pretrained, seed) if isinstance(model, str) else copy.deepcopy(model)
    name = type(whole).__name__
    for method in ("forward_features", "forward_head"):
        if not hasattr(whole, method):
            raise InflationError(f"{name} has no {method}: only classifiers of timm are inflated")
    modes = {module: module.training for module in whole.modules()}
    training = whole.training
    whole.eval()
    if image is None:
        image = _noise(whole)
    try:
        reading = read(whole, image)
        with torch.no_grad():
            scores = whole(image)
    except Exception as error:  # whatever its code raises on an image that it can't take
        size = "x".join(map(str, image.shape[1:]))
        raise InflationError(
            f"{name} fails on an image of {size} ({error}); give image= as the model takes it"
        ) from error
    _check_maps(whole, reading.maps)

    convolutions = choose(reading.layers, chosen)
    for path, kernel in convolutions.items():
        replaced = over_time(path, whole.get_submodule(path), kernel, chosen)
        whole.set_submodule(path, replaced)
    body = trace(whole, "forward_features", reading.lists)
    features = with_time(whole, body, image[:1], chosen.stride)
    head = fx.GraphModule(whole, trace(whole, "forward_head", reading.lists), f"{name}Head")
    made = Inflated(features, head, chosen, convolutions).eval()
    _check_still(made, image, reading.maps, scores, name)
    made.train(training)
    for module, mode in modes.items():  # layers that the caller has frozen stay so
        module.training = mode
    return made


def _built(name: str, pretrained: bool, seed: int) -> nn.Module:
    timm = timm_for(name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownModelError(f"timm has no model {name!r}{hint}")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the accelerators, which are not put back.
        torch.default_generator.manual_seed(seed)
        return timm.create_model(name, pretrained=pretrained).eval()


def _noise(model: Any) -> Tensor:
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *size, generator=generator).to(like)


def _check_maps(model: Any, maps: Any) -> None:
    name, channels = type(model).__name__, getattr(model, "num_features", None)
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    last = len(shape) == 4 and shape[1] != channels and shape[3] == channels
    if len(shape) != 4 or last:
        raise InflationError(
            f"the features of {name} are {shape}, not maps (N, C, H, W): a transformer, or a net "
            "with channels last; take a convolutional net, or run it frame by frame"
        )


def _check_still(made: Inflated, image: Tensor, maps: Tensor, scores: Tensor, name: str) -> None:
    """A still video must give what the image gave: nothing in the model was misread."""
    frames = 2 * math.prod(made.temporal.stride.values())
    still = image.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    try:
        with torch.no_grad(), _replicating(made):
            found, said = made.features(still), made(still)
    except Exception as error:  # whatever its code raises where it was misread
        raise InflationError(f"{name} does not run over time ({error})") from error
    # Rounding grows with depth; a wrong wiring is of the order of one.
    tolerance = 10 * torch.finfo(maps.dtype).eps ** 0.5
    expected = maps.unsqueeze(2).expand(-1, -1, found.shape[2], -1, -1)
    for what, got, wanted in (("features", found, expected), ("scores", said, scores)):
        bound = float(tolerance * wanted.abs().max())
        if got.shape != wanted.shape or not torch.allclose(
            got, wanted, rtol=0, atol=bound, equal_nan=True
        ):
            raise InflationError(
                f"a still video does not give the {what} of {name}: its forward does not keep "
                "frames apart that stand in the batch, or is not forward_head of forward_features"
            )


@contextmanager
def _replicating(made: Inflated) -> Iterator[None]:
    """Repeat the ends of a video: with zeros there would be no frame to compare."""
    convs = [module for module in made.modules() if isinstance(module, TemporalConv)]
    ends = [conv.ends for conv in convs]
    for conv in convs:
        conv.ends = "replicate"
    try:
        yield
    finally:
        for conv, end in zip(convs, ends, strict=True):
            conv.ends = end

"""Redrawing the norm layers of a freshly built model.

Model zoos start the last norm of each residual branch at weight zero.  Such a model is the
identity along its residual path: its temporal convolutions contribute nothing, and a test that
compares two ways of running them passes whatever they do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

_LOCAL_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def redraw_norms(
    model: nn.Module, generator: torch.Generator | None = None, example: Any = None
) -> nn.Module:
    """Redraw weight, bias and running statistics of every norm layer, in place.

    Weights come from [0.5, 1.5], those of a residual branch's last norm (recognised by a weight
    that is all zero, or by pytorchvideo's mark ``block_final_bn``) from [0.2, 0.6]; biases from
    [-0.3, 0.3].

    Args:
        model: any module; left in the mode it is in.
        generator: a CPU generator; None draws from the global one.
        example: a batch of clips as the model takes them, on its device and in its dtype.  With
            it the running statistics are set, layer by layer in one forward pass, to the mean
            and variance that the layer really sees, times [0.5, 1.5] for the variance and
            shifted by up to 0.2 standard deviations: activations then stay of the order of 1
            through a net of any depth, also where the initial convolution weights are far from
            preserving scale (depthwise ones, inception blocks).  Without it the statistics are
            drawn around mean 0 and variance 1, which in such a net leaves little of the past
            in the output.

    Returns:
        The model that was given.
    """
    running: list[_NormBase] = []
    for module in model.modules():
        if isinstance(module, (_NormBase, *_LOCAL_NORMS)):
            _redraw_affine(module, generator)
        if isinstance(module, _NormBase) and module.running_mean is not None:
            _redraw_statistics(module, generator)
            running.append(module)
    if example is not None and running:
        _fit_statistics(model, running, generator, example)
    return model


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    # Drawn on the CPU in float64, so that a seed means the same on every device and dtype.
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * drawn).to(like)


@torch.no_grad()
def _redraw_affine(module: nn.Module, generator: torch.Generator | None) -> None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if weight is not None:
        last_of_branch = getattr(module, "block_final_bn", False) or not weight.any()
        low, high = (0.2, 0.6) if last_of_branch else (0.5, 1.5)
        weight.copy_(_uniform(weight, low, high, generator))
    if bias is not None:
        bias.copy_(_uniform(bias, -0.3, 0.3, generator))


@torch.no_grad()
def _redraw_statistics(module: _NormBase, generator: torch.Generator | None) -> None:
    mean, var = module.running_mean, module.running_var
    if mean is not None:
        mean.copy_(_uniform(mean, -0.2, 0.2, generator))
    if var is not None:
        var.copy_(_uniform(var, 0.5, 1.5, generator))


@torch.no_grad()
def _fit_statistics(
    model: nn.Module,
    norms: list[_NormBase],
    generator: torch.Generator | None,
    example: Any,
) -> None:
    """Scale the drawn statistics of each norm by what arrives there, before the norm runs."""
    seen: set[nn.Module] = set()

    def fit(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module in seen:  # a layer used twice keeps the statistics of its first use
            return
        seen.add(module)
        x: Tensor = args[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(1), x.var(1, unbiased=False)
        # A channel that is nearly constant on this one example must not be blown up on others.
        var = var.clamp_min(1e-2 * float(x.square().mean()) + 1e-12)
        module.running_mean.copy_(mean + module.running_mean * var.sqrt())  # type: ignore[operator]
        module.running_var.copy_(var * module.running_var)  # type: ignore[operator]

    training = {module: module.training for module in model.modules()}
    handles = [norm.register_forward_pre_hook(fit) for norm in norms]
    model.eval()
    try:
        # Copies of lists, because SlowFast writes its activations into the one it is given.
        arguments = example if isinstance(example, tuple) else (example,)
        model(*(list(a) if isinstance(a, list) else a for a in arguments))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode

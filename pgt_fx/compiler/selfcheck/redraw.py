"""Generic weights for norm layers and for what starts at zero, so that a measurement can show
something.

Model zoos start the last norm of each residual branch at weight zero, others a gate, a scale per
channel or the last convolution: temporal operators on that branch then contribute nothing, and
every comparison holds whatever they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pgt_fx.core.counts import counted
from pgt_fx.core.torch_private import NormBase

_LOCAL = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@torch.no_grad()
def redraw_zeros(model: nn.Module, seed: int) -> int:
    """Draw every trainable parameter that is all zero, those of norm layers aside, in place.

    To be called before :func:`redraw_norms`, which fits statistics to what the layers then see.

    Returns:
        how many parameters were drawn.
    """
    # A generator of its own: norms get the same numbers, whether there is a zero or not.
    generator = torch.Generator().manual_seed(seed)
    zeros = _zeros(model)
    for p in zeros:
        # Gates, scales and biases stand for themselves; what is summed over, for its terms.
        terms = p.numel() // p.shape[0] if p.dim() > 1 else 1
        drawn = torch.rand(p.shape, generator=generator, dtype=torch.float64, device="cpu")
        signs = torch.rand(p.shape, generator=generator, dtype=torch.float64, device="cpu") - 0.5
        p.copy_(((0.2 + 0.4 * drawn) * signs.sign() / terms**0.5).to(p))
    return len(zeros)


def redrawn(model: nn.Module) -> set[int]:
    """Ids of the parameters that :func:`redraw_zeros` and :func:`redraw_norms` write."""
    return {id(p) for p in (*_zeros(model), *_of_norms(model))}


def _of_norms(model: nn.Module) -> list[nn.Parameter]:
    norms = [m for m in model.modules() if isinstance(m, (NormBase, *_LOCAL))]
    return [p for m in norms for p in m.parameters(recurse=False)]


def _zeros(model: nn.Module) -> list[nn.Parameter]:
    aside = set(map(id, _of_norms(model)))
    return [
        p
        for p in model.parameters()
        if id(p) not in aside
        and not is_lazy(p)
        and p.requires_grad
        and p.is_floating_point()
        and p.numel()
        and _is_zero(p)
    ]


def _is_zero(p: Tensor) -> bool:
    """Whether all of a tensor is zero; of nearly all that are not, a few numbers tell."""
    few = p[(0,) * (p.dim() - 1)] if p.dim() > 1 else p
    return not bool(few.any()) and not bool(p.any())


def redrawn_in_words(norms: int, zeros: int) -> str:
    """What was redrawn, for the setting of a measurement."""
    parts = [f"{norms} norm layers redrawn"] if norms else []
    parts += [f"{counted(zeros, 'parameter')} of zeros redrawn"] if zeros else []
    return ", ".join(parts) or "weights as they are"


@torch.no_grad()
def redraw_norms(
    model: nn.Module,
    generator: torch.Generator,
    run: Callable[[], Any],
    floor: float = 1e-2,
) -> int:
    """Redraw weight, bias and running statistics of every norm layer of ``model``, in place.

    Args:
        generator: a CPU generator.
        run: one forward pass over a typical clip. The statistics of each layer are fitted to what
            it sees there and then disturbed, so that activations keep their scale through a net
            of any depth.
        floor: least variance, in mean squares of what arrives. A layer that sees few elements may
            find them nearly alike, and would blow up their rounding.

    Returns:
        how many layers were redrawn.
    """

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        # On the CPU in float64: a seed means the same on every device and in every dtype.
        drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu")
        return (low + (high - low) * drawn).to(like)

    count = 0
    running: list[NormBase] = []
    for module in model.modules():
        if not isinstance(module, (NormBase, *_LOCAL)):
            continue
        count += 1
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is not None:
            # Residual branches stay smaller than what they are added to.
            weight.copy_(uniform(weight, *((0.5, 1.5) if weight.any() else (0.2, 0.6))))
        if bias is not None:
            bias.copy_(uniform(bias, -0.3, 0.3))
        if isinstance(module, NormBase) and module.running_mean is not None:
            running.append(module)
    if running:
        _fit(running, uniform, run, floor)
    return count


def _fit(
    norms: list[NormBase],
    uniform: Callable[[Tensor, float, float], Tensor],
    run: Callable[[], Any],
    floor: float,
) -> None:
    """Running statistics from what arrives at each layer, before the layer runs."""
    seen: set[int] = set()

    @torch.no_grad()
    def fit(module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in seen or not args:  # used twice: the statistics of its first use
            return
        means, variances = module.running_mean, module.running_var
        if not isinstance(means, Tensor) or not isinstance(variances, Tensor):
            return
        seen.add(id(module))
        x: Tensor = args[0].transpose(0, 1).flatten(1)
        mean, var = x.mean(1), x.var(1, unbiased=False)
        # A channel that is nearly constant on this clip must not be blown up on others.
        var = var.clamp_min(floor * float(x.square().mean()) + 1e-12)
        shift, scale = uniform(mean, -0.2, 0.2), uniform(var, 0.5, 1.5)
        means.copy_(mean + shift * var.sqrt())
        variances.copy_(var * scale)

    handles = [norm.register_forward_pre_hook(fit) for norm in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()

"""Calls of operators along a video, where arguments made from a schema won't do.

Wherever the operator can be along time, it is; what it gives for each frame comes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

aten = torch.ops.aten
FRAMES, SIDE = 9, 4


class Net(nn.Module):
    """What an operator may be given: streams of unequal delay, and values without time."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.late = nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0))
        self.prompt, self.call = nn.Conv3d(4, 4, 1), call
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.cube = nn.Parameter(torch.randn(4, 4, 3, 3, 3))
        self.positive = nn.Parameter(torch.rand(4) + 0.5)
        self.table = nn.Parameter(torch.randn(1, 4, FRAMES, 1, 1))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.register_buffer("center", torch.randn(4))
        self.register_buffer("spread", torch.rand(4) + 0.5)
        self.register_buffer("order", torch.tensor([2, 0, 3, 1]))
        self.register_buffer("two", torch.tensor([0, 2]))

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


Call = Callable[[Net, Tensor], Any]


@dataclass(frozen=True)
class Case:
    """A call with an operator along a video, and what is promised of it.

    Attributes:
        call: of the module and a video (N, C, T, H, W).
        verdict: "exact"; "step" (refused, unless with strict=False); "refused".
        reason: of the operator, where it is not exact.
        constant: its answer is the same for all frames.
        device: on which torch has it.
        captured: the name under which ``torch.export`` writes it, where that is another one.
    """

    call: Call
    verdict: str = "exact"
    reason: str = ""
    constant: bool = False
    device: str = "cpu"
    captured: str = ""


def sequence(m: Net, x: Tensor) -> Tensor:
    """(N, C, T)"""
    return m.late(x).mean((3, 4))


def whole(m: Net, x: Tensor) -> Tensor:
    """(N, C, T, H, W)"""
    return m.late(x)


def plane(m: Net, x: Tensor) -> Tensor:
    """(N, C, T, H)"""
    return m.late(x).mean(4)


def tokens(m: Net, x: Tensor) -> Tensor:
    """(N, T, C)"""
    return sequence(m, x).mT


def video(call: Callable[..., Any]) -> Call:
    """Of (N, C, T, H, W)."""
    return lambda m, x: call(m, m.late(x))


def two(call: Callable[..., Any]) -> Call:
    """Of (N, C, T, H, W) twice, the second without a delay."""
    return lambda m, x: call(m, m.late(x), m.prompt(x))


def along(view: Callable[[Net, Tensor], Tensor], call: Callable[..., Any]) -> Call:
    return lambda m, x: call(m, view(m, x))


def frames(call: Callable[..., Any]) -> Call:
    """Of (N T, C, H, W); its results are (N, T, …)."""

    def run(m: Net, x: Tensor) -> Any:
        out = call(m, m.late(x).transpose(1, 2).flatten(0, 1))
        return pytree.tree_map(lambda t: t.unflatten(0, (x.shape[0], x.shape[2])), out)

    return run


def first(call: Callable[..., Any]) -> Callable[..., Any]:
    """The first result alone."""
    return lambda *given: call(*given)[0]


def reduced(name: str, *more: Any) -> Case:
    """Over channels, and over time."""
    call = getattr(aten, name)
    return Case(video(lambda m, y: (call(y, [1], *more), call(y, [2], *more))))


def indices(y: Tensor) -> Tensor:
    """(N, C, T, H, W): an order of each frame's channels."""
    return y.argsort(1)


def bits(y: Tensor) -> Tensor:
    return y.mul(10).to(torch.int64)


def resized(rank: int, name: str, *more: Any) -> Case:
    """To twice the size along time and space."""
    call, views = getattr(aten, name), {1: sequence, 2: plane, 3: whole}
    return Case(along(views[rank], lambda m, y: call(y, None, *more, [2.0] * rank)))


def in_space(name: str, *more: Any) -> Case:
    call = getattr(aten, name)
    return Case(frames(lambda m, y: call(y, [6, 7], *more)))


def pads(name: str, view: Callable[[Net, Tensor], Tensor], rank: int) -> Case:
    """One behind, two in front in time; one on either side of space."""
    pad = [1, 1] * (rank - 1) + [2, 1]
    return Case(along(view, lambda m, y: getattr(aten, name)(y, pad)))


def _conv(rank: int, view: Callable[[Net, Tensor], Tensor], transposed: bool = False) -> Case:
    call = getattr(aten, f"conv_transpose{rank}d" if transposed else f"conv{rank}d")
    return Case(
        along(
            view,
            lambda m, y: call(
                y, m.cube.flatten(2)[..., : 3**rank].unflatten(2, [3] * rank), m.center,
                [2] * rank, [1] * rank,
            ),
        )
    )  # fmt: skip


def _pool(name: str, view: Callable[[Net, Tensor], Tensor], rank: int) -> Case:
    call = getattr(aten, name)
    return Case(along(view, lambda m, y: call(y, [3] * rank, [2] * rank, [1] * rank)))


def _adaptive(kind: str, rank: int, view: Callable[[Net, Tensor], Tensor]) -> Case:
    """Over all time, and of each frame."""
    call, sizes = getattr(aten, f"adaptive_{kind}_pool{rank}d"), [1, 2, 2][:rank]
    shapes = {1: lambda y: y.flatten(2), 2: lambda y: y, 3: lambda y: y.unsqueeze(2)}
    own = frames(lambda m, y: call(shapes[rank](y), sizes))

    def both(m: Net, x: Tensor) -> Any:
        pooled = call(view(m, x), sizes)
        return pooled[0] if kind == "max" else pooled, own(m, x)

    return Case(both)


def _last_kept(m: Net, y: Tensor) -> Tensor:
    out = torch.sin(y)
    out[:, :, :-1] = torch.cos(y)[:, :, :-1]
    return out


def _expand_rows(m: Net, x: Tensor) -> Tensor:
    y = m.late(x).transpose(1, 2).flatten(0, 1).flatten(2).mT
    out = torch.cat([m.token.expand(y.shape[0], -1, -1), y], 1)
    return out.unflatten(0, (x.shape[0], x.shape[2]))


BY_HAND: dict[str, Case] = {
    # products
    "bmm": Case(lambda m, x: aten.bmm(tokens(m, x), m.matrix.expand(x.shape[0], -1, -1))),
    "mm": Case(lambda m, x: aten.mm(tokens(m, x).flatten(0, 1), m.matrix).unflatten(
        0, (x.shape[0], x.shape[2]))),
    "matmul": Case(along(tokens, lambda m, y: aten.matmul(y, m.matrix))),
    "baddbmm": Case(lambda m, x: aten.baddbmm(
        tokens(m, x), tokens(m, x), m.matrix.expand(x.shape[0], -1, -1)),
        "refused", "no rule for this product"),
    "einsum": Case(video(lambda m, y: aten.einsum("ncthw,cd->ndthw", [y, m.matrix]))),
    "bilinear": Case(along(tokens, lambda m, y: aten.bilinear(y, y, m.cube[..., :1, 0, 0].expand(
        4, 4, 4), None)),
        "refused", "no rule for this product"),
    "scaled_dot_product_attention": Case(along(tokens, lambda m, y:
        aten.scaled_dot_product_attention(y, y * 2, y + 1, None, 0.0, True))),
    "linear": Case(along(tokens, lambda m, y: aten.linear(y, m.matrix, m.center))),
    "tensordot": Case(video(lambda m, y: aten.tensordot(y, m.matrix, [1], [0]))),
    "cdist": Case(along(tokens, lambda m, y: aten.cdist(y, m.matrix.unsqueeze(0)))),
    "_cdist_forward": Case(along(tokens, lambda m, y: aten._cdist_forward(
        y, m.matrix.expand(y.shape[0], -1, -1), 2.0, None))),
    "embedding": Case(lambda m, x: aten.embedding(m.matrix, m.late(x).argmax(1))),
    # picked by index
    "gather": Case(video(lambda m, y: aten.gather(y, 1, indices(y)))),
    "scatter": Case(two(lambda m, y, z: aten.scatter(z, 1, indices(y), y))),
    "scatter_add": Case(two(lambda m, y, z: aten.scatter_add(z, 1, indices(y), y))),
    "scatter_reduce": Case(two(lambda m, y, z: aten.scatter_reduce(z, 1, indices(y), y, "amax"))),
    "index_select": Case(video(lambda m, y: aten.index_select(y, 1, m.two))),
    "index_add": Case(two(lambda m, y, z: aten.index_add(z, 1, m.two, y[:, :2]))),
    "index_copy": Case(two(lambda m, y, z: aten.index_copy(z, 1, m.two, y[:, :2]))),
    "index_fill": Case(video(lambda m, y: aten.index_fill(y, 1, m.two, 0.7))),
    "index": Case(video(lambda m, y: aten.index(y, [None, m.order]))),
    "index_put": Case(two(lambda m, y, z: aten.index_put(z, [None, m.two], y[:, :2]))),
    # spectra of each frame
    "real": Case(video(lambda m, y: aten.real(aten.fft_rfft(y)))),
    "imag": Case(video(lambda m, y: aten.imag(aten.fft_rfft(y)))),
    "angle": Case(video(lambda m, y: aten.angle(aten.fft_rfft(y)).cos())),
    "conj": Case(video(lambda m, y: aten.imag(aten.conj(aten.fft_rfft(y))))),
    "resolve_conj": Case(video(lambda m, y: aten.real(aten.resolve_conj(aten.fft_rfft(y))))),
    "view_as_real": Case(video(lambda m, y: aten.view_as_real(aten.fft_rfft(y)).flatten(-2))),
    "complex": Case(two(lambda m, y, z: aten.abs(aten.complex(y, z)))),
    "polar": Case(two(lambda m, y, z: aten.real(aten.polar(y, z)))),
    "fft_irfft": Case(video(lambda m, y: aten.fft_irfft(aten.fft_rfft(y), y.shape[-1]))),
    "fft_ifft": Case(video(lambda m, y: aten.real(aten.fft_ifft(aten.fft_fft(y))))),
    "masked_fill": Case(two(lambda m, y, z: aten.masked_fill(y, z > 0, 0.7))),
    "where": Case(two(lambda m, y, z: aten.where(y > 0, y, z))),
    "select_scatter": Case(two(lambda m, y, z: aten.select_scatter(y, z[:, 0], 1, 2))),
    "slice_scatter": Case(two(lambda m, y, z: aten.slice_scatter(y, z[:, :2], 1, 1, 3))),
    # norms
    "batch_norm": Case(video(lambda m, y: aten.batch_norm(
        y, m.positive, m.center, m.center, m.spread, False, 0.1, 1e-5, False))),
    "native_batch_norm": Case(video(first(lambda m, y: aten.native_batch_norm(
        y, m.positive, m.center, m.center, m.spread, False, 0.1, 1e-5)))),
    "_native_batch_norm_legit": Case(video(first(lambda m, y: aten._native_batch_norm_legit(
        y, m.positive, m.center, True, 0.1, 1e-5))), "step",
        "batch statistics are those of the step"),
    "_native_batch_norm_legit_no_training": Case(video(first(
        lambda m, y: aten._native_batch_norm_legit_no_training(
            y, m.positive, m.center, m.center, m.spread, 0.1, 1e-5)))),
    "instance_norm": Case(frames(lambda m, y: aten.instance_norm(
        y, m.positive, m.center, None, None, True, 0.1, 1e-5, False))),
    "group_norm": Case(frames(lambda m, y: aten.group_norm(y, 2, m.positive, m.center))),
    "native_group_norm": Case(frames(first(lambda m, y: aten.native_group_norm(
        y, m.positive, m.center, y.shape[0], 4, SIDE * SIDE, 2, 1e-5)))),
    "layer_norm": Case(along(tokens, lambda m, y: aten.layer_norm(y, [4], m.positive, m.center))),
    "native_layer_norm": Case(along(tokens, first(lambda m, y: aten.native_layer_norm(
        y, [4], m.positive, m.center, 1e-5)))),
    "rms_norm": Case(along(tokens, lambda m, y: aten.rms_norm(y, [4], m.positive))),
    "_fused_rms_norm": Case(along(tokens, first(lambda m, y: aten._fused_rms_norm(
        y, [4], m.positive, 1e-5)))),
    # where there is no such device, test_every_rule.py shows that its rule is that of another
    "cudnn_batch_norm": Case(video(first(lambda m, y: aten.cudnn_batch_norm(
        y, m.positive, m.center, m.center, m.spread, False, 0.1, 1e-5))), device="cuda"),
    "renorm": Case(frames(lambda m, y: aten.renorm(y, 2, 0, 0.7))),
    # element by element
    "clamp": Case(video(lambda m, y: aten.clamp(y, -0.3, 0.4))),
    "bitwise_not": Case(video(lambda m, y: aten.bitwise_not(y > 0))),
    "logical_not": Case(video(lambda m, y: aten.logical_not(y > 0))),
    **{f"bitwise_{how}": Case(two(lambda m, y, z, how=how: getattr(
        aten, f"bitwise_{how}")(bits(y), bits(z)))) for how in ("and", "or", "xor")},
    **{f"logical_{how}": Case(two(lambda m, y, z, how=how: getattr(
        aten, f"logical_{how}")(y > 0, z > 0))) for how in ("and", "or", "xor")},
    "isnan": Case(video(lambda m, y: aten.isnan(y.log()))),
    "isinf": Case(video(lambda m, y: aten.isinf(y.relu().log()))),
    "isfinite": Case(video(lambda m, y: aten.isfinite(y.relu().log()))),
    "nan_to_num": Case(video(lambda m, y: aten.nan_to_num(y.log(), 0.7))),
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(y.mul(10))))
       for name in ("round", "floor", "ceil", "trunc", "sign", "frac")},
    **{name: Case(two(lambda m, y, z, name=name: getattr(aten, name)(bits(y), bits(z))))
       for name in ("eq", "ne")},
    "floor_divide": Case(two(lambda m, y, z: aten.floor_divide(y.mul(10), z))),
    "heaviside": Case(two(lambda m, y, z: aten.heaviside(y.mul(2).round(), z))),
    "threshold": Case(video(lambda m, y: aten.threshold(y, 0.1, 0.7))),
    "hardshrink": Case(video(lambda m, y: aten.hardshrink(y, 0.3))),
    "softshrink": Case(video(lambda m, y: aten.softshrink(y, 0.3))),
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(y)))
       for name in ("relu", "elu", "leaky_relu", "celu", "selu", "abs", "hardswish", "silu", "gelu",
                    "mish")},
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(y.mul(8))))
       for name in ("relu6", "hardtanh", "hardsigmoid")},
    "clamp_min": Case(two(lambda m, y, z: aten.clamp_min(y, z))),
    "clamp_max": Case(two(lambda m, y, z: aten.clamp_max(y, z))),
    "prelu": Case(video(lambda m, y: aten.prelu(y, m.positive))),
    "glu": Case(video(lambda m, y: aten.glu(y, 1))),
    "native_dropout": Case(video(first(lambda m, y: aten.native_dropout(y, 0.5, False)))),
    "bernoulli": Case(video(lambda m, y: aten.bernoulli((y > 0).to(y.dtype)))),
    "to": Case(video(lambda m, y: aten.to(y, torch.float32))),
    "_to_copy": Case(video(lambda m, y: aten._to_copy(y, dtype=torch.float32))),
    "zero": Case(video(lambda m, y: aten.zero(y)), constant=True),
    "zeros_like": Case(video(lambda m, y: aten.zeros_like(y)), constant=True),
    "ones_like": Case(video(lambda m, y: aten.ones_like(y)), constant=True),
    "full_like": Case(video(lambda m, y: aten.full_like(y, 0.7)), constant=True),
    "empty_like": Case(two(lambda m, y, z: aten.copy(aten.empty_like(y), z))),
    "rand_like": Case(two(lambda m, y, z: torch.where(aten.rand_like(y) < 1, z, y))),
    "randn_like": Case(two(lambda m, y, z: torch.where(aten.randn_like(y) < 99, z, y))),
    "lift_fresh": Case(video(lambda m, y: aten.lift_fresh(y)), captured="aten::lift_fresh_copy"),
    "fill": Case(video(lambda m, y: aten.fill(y, 0.7)), constant=True),
    # along other axes
    "cumsum": Case(video(lambda m, y: (aten.cumsum(y, 1), aten.cumsum(y, 2)))),
    "cumprod": Case(video(lambda m, y: (aten.cumprod(y, 1), aten.cumprod(y, 2)))),
    "logcumsumexp": Case(video(lambda m, y: (aten.logcumsumexp(y, 1), aten.logcumsumexp(y, 2)))),
    "roll": Case(video(lambda m, y: aten.roll(y, [1], [1]))),
    "topk": Case(video(lambda m, y: aten.topk(y, 2, 1))),
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(y).abs()))
       for name in ("fft_fft", "fft_rfft", "fft_fft2", "fft_rfft2")},
    # reductions
    "mean": reduced("mean"), "sum": reduced("sum"), "amax": reduced("amax"),
    "amin": reduced("amin"), "var": reduced("var"), "std": reduced("std"),
    "prod": Case(video(lambda m, y: (aten.prod(y, 1), aten.prod(y, 2)))),
    "any": Case(video(lambda m, y: (aten.any(y > 0.9, 1), aten.any(y > 0.9, 2)))),
    "all": Case(video(lambda m, y: (aten.all(y > 0, 1), aten.all(y > -0.5, 2)))),
    "max": Case(video(lambda m, y: aten.max(y, 1))),
    "min": Case(video(lambda m, y: aten.min(y, 1))),
    "argmax": Case(video(lambda m, y: aten.argmax(y, 1))),
    "argmin": Case(video(lambda m, y: aten.argmin(y, 1))),
    "median": Case(video(lambda m, y: aten.median(y, 1))),
    "nanmedian": Case(video(lambda m, y: aten.nanmedian(y, 1))),
    "var_mean": Case(video(lambda m, y: aten.var_mean(y, [1]))),
    "std_mean": Case(video(lambda m, y: aten.std_mean(y, [1]))),
    "logsumexp": Case(video(lambda m, y: aten.logsumexp(y, [1]))),
    "norm": Case(video(lambda m, y: aten.norm(y, 2, [1]))),
    "linalg_vector_norm": Case(video(lambda m, y: aten.linalg_vector_norm(y, 2, [1]))),
    "count_nonzero": Case(video(lambda m, y: aten.count_nonzero(y > 0, [1]))),
    "select": Case(video(lambda m, y: (aten.select(y, 1, 2), aten.select(y, 2, -1)))),
    **{f"adaptive_{kind}_pool{rank}d": _adaptive(kind, rank, view) for kind in ("avg", "max")
       for rank, view in ((1, sequence), (2, plane), (3, whole))},
    # windows
    **{f"conv{rank}d": _conv(rank, view) for rank, view in ((1, sequence), (2, plane), (3, whole))},
    **{f"conv_transpose{rank}d": _conv(rank, view, True)
       for rank, view in ((1, sequence), (2, plane), (3, whole))},
    **{f"{kind}_pool{rank}d": _pool(f"{kind}_pool{rank}d", view, rank) for kind in ("max", "avg")
       for rank, view in ((1, sequence), (2, plane), (3, whole))},
    # Along time torch fixes the length of its input; F.max_pool1d is captured as max_pool2d.
    "max_pool1d": Case(frames(lambda m, y: aten.max_pool1d(y.flatten(2), [3], [2], [1]))),
    "max_pool1d_with_indices": Case(frames(
        lambda m, y: aten.max_pool1d_with_indices(y.flatten(2), [2]))),
    "max_pool2d_with_indices": Case(frames(lambda m, y: aten.max_pool2d_with_indices(y, [2, 2]))),
    "max_pool3d_with_indices": Case(frames(
        lambda m, y: aten.max_pool3d_with_indices(y.unsqueeze(2), [1, 2, 2]))),
    "unfold": Case(video(lambda m, y: aten.unfold(y, 2, 3, 2))),
    "im2col": Case(frames(lambda m, y: aten.im2col(y, [2, 2], [1, 1], [0, 0], [1, 1]))),
    "col2im": Case(frames(lambda m, y: aten.col2im(
        y.flatten(2)[..., :9], [4, 4], [2, 2], [1, 1], [0, 0], [1, 1]))),
    "grid_sampler": Case(frames(lambda m, y: aten.grid_sampler(
        y, y[:, :2].movedim(1, -1).tanh(), 0, 0, False))),
    # resizing
    **{f"{name}{rank}d": resized(rank, f"{name}{rank}d")
       for name in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3)},
    "upsample_linear1d": resized(1, "upsample_linear1d", False),
    "upsample_bilinear2d": resized(2, "upsample_bilinear2d", False),
    "upsample_trilinear3d": resized(3, "upsample_trilinear3d", False),
    **{name: in_space(name, False)
       for name in ("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")},
    "repeat_interleave": Case(video(lambda m, y: aten.repeat_interleave(y, 2, 2))),
    # views
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(
        y.contiguous(), [y.shape[0], 2, 2, y.shape[2], SIDE * SIDE])))
       for name in ("view", "reshape", "_unsafe_view", "view_copy")},
    "flatten": Case(video(lambda m, y: aten.flatten(y, 3, 4))),
    "unflatten": Case(video(lambda m, y: aten.unflatten(y, 1, [2, 2]))),
    "permute": Case(video(lambda m, y: aten.permute(y, [2, 0, 1, 4, 3]))),
    "t": Case(lambda m, x: aten.t(m.late(x)[0, :, :, 0, 0])),
    "numpy_T": Case(lambda m, x: aten.numpy_T(m.late(x)[0, :, :, 0, 0])),
    "transpose": Case(video(lambda m, y: aten.transpose(y, 1, 2))),
    "swapaxes": Case(video(lambda m, y: aten.swapaxes(y, 1, 2))),
    "swapdims": Case(video(lambda m, y: aten.swapdims(y, 1, 2))),
    "movedim": Case(video(lambda m, y: aten.movedim(y, 2, 0))),
    "moveaxis": Case(video(lambda m, y: aten.moveaxis(y, 2, 0))),
    "squeeze": Case(video(lambda m, y: aten.squeeze(y[:, :1], 1))),
    "mT": Case(lambda m, x: aten.mT(sequence(m, x))),
    **{name: Case(video(lambda m, y, name=name: getattr(aten, name)(
        y[:, :1], [y.shape[0], 3, y.shape[2], SIDE, SIDE])))
       for name in ("expand", "broadcast_to")},
    "expand_as": Case(two(lambda m, y, z: aten.expand_as(y[:, :1], z))),
    "repeat": Case(video(lambda m, y: aten.repeat(y, [1, 2, 1, 1, 3]))),
    "tile": Case(video(lambda m, y: aten.tile(y, [2, 1, 1, 3]))),
    "chunk": Case(video(lambda m, y: aten.chunk(y, 2, 1))),
    "unsafe_chunk": Case(video(lambda m, y: aten.unsafe_chunk(y, 2, 1))),
    "split": Case(video(lambda m, y: aten.split(y, 2, 1))),
    "split_with_sizes": Case(video(lambda m, y: aten.split_with_sizes(y, [1, 3], 1))),
    "tensor_split": Case(video(lambda m, y: aten.tensor_split(y, [1, 3], 1))),
    "hsplit": Case(video(lambda m, y: aten.hsplit(y, [1, 3]))),
    "unbind": Case(video(lambda m, y: aten.unbind(y, 1))),
    "channel_shuffle": Case(video(lambda m, y: aten.channel_shuffle(y, 2))),
    "pixel_shuffle": Case(frames(lambda m, y: aten.pixel_shuffle(y, 2))),
    "pixel_unshuffle": Case(frames(lambda m, y: aten.pixel_unshuffle(y, 2))),
    # parts and pads
    "slice": Case(video(lambda m, y: aten.slice(y, 2, 1, -1, 2))),
    "slice_copy": Case(video(lambda m, y: aten.slice_copy(y, 2, 1, -1, 2))),
    "pad": Case(video(lambda m, y: aten.pad(y, [1, 1, 0, 1, 2, 1], "replicate"))),
    "constant_pad_nd": Case(video(lambda m, y: aten.constant_pad_nd(y, [1, 1, 0, 1, 2, 1], 0.7))),
    **{f"{kind}_pad{rank}d": pads(f"{kind}_pad{rank}d", view, rank)
       for kind in ("reflection", "replication")
       for rank, view in ((1, sequence), (2, plane), (3, whole))},
    "cat": Case(two(lambda m, y, z: aten.cat([y[:, :, :1] * 2, y[:, :, 1:]], 2))),
    "concat": Case(two(lambda m, y, z: aten.concat([y, z], 1))),
    "concatenate": Case(two(lambda m, y, z: aten.concatenate([y, z], 1))),
    # our own
    "pgt_fx::clip_table": Case(video(lambda m, y: y + m.table[:, :, : y.shape[2]]), "step",
                               "in each step from its first row"),
    "pgt_fx::expand_rows": Case(_expand_rows),
    "pgt_fx::interleave": Case(lambda m, x: torch.relu(torch.stack(
        [sequence(m, x), sequence(m, x) * 2], 3).flatten(2)[:, :, 1:])),
    "pgt_fx::marks": Case(video(_last_kept)),
    "pgt_fx::extreme_so_far": Case(video(lambda m, y: y.cummax(2)[0])),
    "pgt_fx::recurrent": Case(along(tokens, lambda m, y: m.gru(y)[0])),
}  # fmt: skip

"""Signals cut into frames along time, written as what it is: windows, and an operator on each."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.masked_writes import call_before
from pgt_fx.capture.schema import named, schema_name
from pgt_fx.core.node_arguments import as_node

aten = torch.ops.aten


def signal_frames(captured: Captured, _: int) -> None:
    """Rewrite the calls that cut their operand into frames along time and work on each.

    Before: ``%z = aten.stft(%x, 16, 4, 16, %window)``

    After::

        %frames = aten.unfold(%x, 1, 16, 4)
        %weighed = aten.mul(%frames, %window)
        %spectra = aten.fft_rfft(%weighed)
        %z = aten.transpose(%spectra, 1, 2)
    """
    for node in list(captured.graph.nodes):
        rewrite = _REWRITES.get(schema_name(node))
        new = rewrite(captured, node) if rewrite is not None else None
        if new is not None:
            new.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(new)
            captured.graph.erase_node(node)


def _stft(captured: Captured, node: fx.Node) -> fx.Node | None:
    given, x = named(node), as_node(node.args[0])
    size, window = given["n_fft"], given["window"]
    width = size if given["win_length"] is None else given["win_length"]
    hop = size // 4 if given["hop_length"] is None else given["hop_length"]
    value = x.meta["val"]
    plain = all(isinstance(n, int) for n in (size, width, hop)) and not value.is_complex()
    if not plain or given.get("center") or given.get("align_to_window"):
        return None
    if given["return_complex"] is False or not captured.has_time(value.shape[-1]):
        return None
    frames = call_before(node, aten.unfold.default, x, value.dim() - 1, size, hop)
    if window is None and width < size:
        window = call_before(node, aten.ones.default, [width])
    if window is not None:
        if width < size:
            before = (size - width) // 2
            amounts = [before, size - width - before]
            window = call_before(node, aten.constant_pad_nd.default, window, amounts)
        frames = call_before(node, aten.mul.Tensor, frames, window)
    halved = given["onesided"] is None or given["onesided"]
    transform = aten.fft_rfft.default if halved else aten.fft_fft.default
    norm = "ortho" if given["normalized"] else None
    spectra = call_before(node, transform, frames, None, -1, norm)
    return call_before(node, aten.transpose.int, spectra, -1, -2)


def _im2col(captured: Captured, node: fx.Node) -> fx.Node | None:
    given, x = named(node), as_node(node.args[0])
    shape = x.meta["val"].shape
    sizes, steps = list(given["kernel_size"]), list(given["stride"])
    amounts, apart = list(given["padding"]), list(given["dilation"])
    timed = any(captured.has_time(n) for n in shape[-2:])
    if len(shape) != 4 or not timed or any(n != 1 for n in apart):
        return None
    if not all(isinstance(n, int) for n in (*sizes, *steps, *amounts)):
        return None
    if any(amounts):
        around = [amounts[1], amounts[1], amounts[0], amounts[0]]
        with captured.graph.inserting_before(node):
            padded = captured.graph.call_function(aten.constant_pad_nd.default, (x, around))
        # Made by hand: torch's own padding takes sizes for numbers, which would fix the frames.
        value = x.meta["val"]
        sides = [n + 2 * amount for n, amount in zip(shape[-2:], amounts, strict=True)]
        padded.meta = {**node.meta, "val": value.new_empty([*shape[:2], *sides])}
        x = padded
    for dim, size, step in zip((2, 3), sizes, steps, strict=True):
        if (size, step) == (1, 1):
            x = call_before(node, aten.unsqueeze.default, x, -1)
        else:
            x = call_before(node, aten.unfold.default, x, dim, size, step)
    x = call_before(node, aten.permute.default, x, [0, 1, 4, 5, 2, 3])
    x = call_before(node, aten.flatten.using_ints, x, 1, 3)
    return call_before(node, aten.flatten.using_ints, x, 2, 3)


_REWRITES: dict[str, Any] = {"aten::stft": _stft, "aten::im2col": _im2col}

"""Frames written in place, as what they come to: a shift, a padding, a choice between two videos.

``out[:, 1:] = x[:, :-1]`` puts each frame one place later. What stood there before it is left at
the edge alone, of which the end is known when the video has ended, as with a padding.
"""

from __future__ import annotations

import torch
from torch import fx

from pgt_fx.capture.captured import Captured
from pgt_fx.capture.passes.cat_to_pad import Chain, chains
from pgt_fx.capture.passes.frame_regions import SCATTERS, Region, shape_of
from pgt_fx.capture.passes.frame_values import END, FrameWriter
from pgt_fx.capture.schema import schema_name

aten = torch.ops.aten


def written_frames(captured: Captured, _: int) -> None:
    """Rewrite what writes to a part of the frames.

    Before::

        %later = aten.slice(%out, 1, 1)                   # out[:, 1:, :2] = x[:, :-1, :2]
        %part = aten.slice_scatter(%later, %written, 2, 0, 2)
        %new = aten.slice_scatter(%out, %part, 1, 1)

    After::

        %shifted = aten.pad(%x, [0, 0, 0, 0, 0, 0, 1, -1])  # of the channels that are written
        %new = aten.slice_scatter(%out, %shifted, 2, 0, 2)
    """
    writes = _Writes(captured)
    for node in list(captured.graph.nodes):
        if schema_name(node) in SCATTERS:
            writes.rewrite(node)


class _Writes(FrameWriter):
    def __init__(self, captured: Captured) -> None:
        super().__init__(captured)
        #: Of frames that are taken in turn: the parts that they are from.
        self.rows: dict[fx.Node, list[fx.Node]] = {}

    def rewrite(self, node: fx.Node) -> None:
        """In place of a write along time, what it comes to; any other is left as it is."""
        whole, part, dim, region = self.read(node)
        timed = [d for d, n in enumerate(shape_of(whole)) if self.captured.has_time(n)]
        if region is None or timed != [dim]:
            return  # along another axis; or to a table of pairs of frames
        self.before = node
        condition = self.captured.lengths
        new = self._written(whole, part, dim, region, schema_name(node) == SCATTERS[1])
        if new is None:
            self.captured.lengths = condition
            return
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)

    def _written(
        self, whole: fx.Node, part: fx.Node, dim: int, region: Region, picked: bool
    ) -> fx.Node | None:
        """``whole`` with ``part`` written into a region along ``dim``; None where it has no other
        form. ``picked``: the part has no dimension there."""
        apart = self._other_axis_first(whole, part, dim, region, picked)
        if apart is not None:
            return apart
        part = self.plain(part)
        value = self.constant(part)
        if region.step > 1:
            return self._in_turn(whole, part, value, dim, region)
        if value is None and region == Region(0, None):
            return part
        if region.to_the_end:
            return self._to_the_end(whole, part, value, dim, region)
        if region.first < 0:
            return self._last(whole, part, value, dim, region, picked)
        return self._first(whole, part, value, dim, region, picked)

    def _other_axis_first(
        self, whole: fx.Node, part: fx.Node, dim: int, region: Region, picked: bool
    ) -> fx.Node | None:
        """``out[:, 1:, :2] = y`` is first a write along time to the channels ``out[:, :, :2]``."""
        if schema_name(part) not in SCATTERS:
            return None
        base, inner, at, channels = self.read(part)
        name = schema_name(part)
        if channels is None or not self.is_part(base, whole, dim, region, picked):
            return None
        if self.captured.has_time(shape_of(base)[at]):
            return None
        outer = at + (1 if picked and at >= dim else 0)
        if outer == dim:
            return None
        end = END if channels.end is None else channels.end
        if name == SCATTERS[1]:
            some = self.call(aten.select.int, whole, outer, channels.first)
            under = dim - (1 if outer < dim else 0)
        else:
            some = self.some(whole, outer, channels.first, end, channels.step)
            under = dim
        new = self._written(some, inner, under, region, picked)
        if new is None:
            return None
        if name == SCATTERS[1]:
            return self.call(aten.select_scatter.default, whole, new, outer, channels.first)
        return self.beside(whole, new, outer, channels.first, end, channels.step)

    def _to_the_end(
        self, whole: fx.Node, part: fx.Node, value: float | None, dim: int, region: Region
    ) -> fx.Node | None:
        """All but ``first`` elements in front and some at the end."""
        before, after = region.first, -(region.end or 0)
        if not self.at_least(whole, dim, before + after):
            return None
        edge = self.constant(whole)
        if value is not None and edge is None:
            inside = self.inside(whole, dim, before, after)
            return self.call(aten.masked_fill.Scalar, whole, inside, value)
        if value is not None:
            part = self.call(aten.full_like.default, self.slice(whole, dim, region), value)
        if not self.captured.has_time(shape_of(part)[dim]):
            return None
        shifted = self._shifted(part, dim, before, after, edge)
        if edge is not None:
            return shifted if shifted is not None else self.pad(part, dim, before, after, edge)
        inside = self.inside(whole, dim, before, after)
        moved = shifted if shifted is not None else self.pad(part, dim, before, after, 0.0)
        return self.call(aten.where.self, inside, moved, whole)

    def _shifted(
        self, part: fx.Node, dim: int, before: int, after: int, edge: float | None
    ) -> fx.Node | None:
        """A part that is a slice of something, put in its place by one padding."""
        for body in chains(part, dim):
            start, left_out = body.start, -(body.stop or 0)
            if start < 0 or left_out < 0 or (start, body.stop) == (0, None):
                continue
            if edge is not None and ((before and start) or (after and left_out)):
                continue  # the edge would show what was cropped
            left, right = before - start, after - left_out
            if not self.at_least(body.root, dim, max(0, -left) + max(0, -right)):
                continue
            source = self.uncropped(body)
            return self.pad(source, dim, left, right, edge or 0.0)
        return None

    def _first(
        self,
        whole: fx.Node,
        part: fx.Node,
        value: float | None,
        dim: int,
        region: Region,
        picked: bool,
    ) -> fx.Node | None:
        """The elements ``first:end``, both counted from the start."""
        first, end = region.first, region.end
        if end is None:  # up to the end of the video: not of this form
            return None
        here = self.positions(whole, dim, region)
        if value is not None:
            return self.call(aten.masked_fill.Scalar, whole, here, value)
        body = self._taken(part, dim, picked)
        if body is not None and body.start >= 0:
            moved = self._moved(whole, body, dim, first - body.start)
            return None if moved is None else self.call(aten.where.self, here, moved, whole)
        part = self.call(aten.unsqueeze.default, part, dim) if picked else part
        if end - first == 1 and not self.timed(part):
            return self.call(aten.where.self, here, part, whole)
        if not self.at_least(whole, dim, end):
            return None
        front = [self.slice(whole, dim, Region(0, first))] if first else []
        rest = self.slice(whole, dim, Region(end, None))
        return self.call(aten.cat.default, [*front, part, rest], dim)

    def _last(
        self,
        whole: fx.Node,
        part: fx.Node,
        value: float | None,
        dim: int,
        region: Region,
        picked: bool,
    ) -> fx.Node | None:
        """Elements counted from the end."""
        first, left_out = -region.first, -(region.end or 0)
        if left_out < 0 or not self.at_least(whole, dim, first):
            return None
        outside = self.followed(whole, dim, first)
        if left_out:
            last = self.call(aten.logical_not.default, self.followed(whole, dim, left_out))
            outside = self.call(aten.logical_or.default, outside, last)
        if value is not None:
            inside = self.call(aten.logical_not.default, outside)
            return self.call(aten.masked_fill.Scalar, whole, inside, value)
        body = self._taken(part, dim, picked)
        if body is not None and body.start < 0:
            offset = self.offset(body.root, whole, dim)
            if offset is None:
                return None
            moved = self._moved(whole, body, dim, -body.start - first - offset)
            return None if moved is None else self.call(aten.where.self, outside, whole, moved)
        part = self.call(aten.unsqueeze.default, part, dim) if picked else part
        if self.timed(part) or first - left_out != 1:
            return None
        return self.call(aten.where.self, outside, whole, part)

    def _taken(self, part: fx.Node, dim: int, picked: bool) -> Chain | None:
        """What a part is a slice of."""
        if picked:
            if schema_name(part) != "aten::select":
                return None
            source, at, index = part.args
            if at != dim or not isinstance(index, int) or not isinstance(source, fx.Node):
                return None
            return Chain(source, (), index)
        found = [body for body in chains(part, dim) if (body.start, body.stop) != (0, None)]
        whole = [body for body in chains(part, dim) if body.root is not part and not body.start]
        return found[0] if found else whole[0] if whole and whole[0].stop is not None else None

    def _moved(self, whole: fx.Node, body: Chain, dim: int, by: int) -> fx.Node | None:
        """The source of a slice, ``by`` elements later, as long as ``whole``."""
        offset = self.offset(whole, body.root, dim)
        if offset is None:
            return None
        left, right = by, offset - by
        if not self.at_least(body.root, dim, max(0, -left) + max(0, -right)):
            return None
        source = self.uncropped(body)
        return source if not left and not right else self.pad(source, dim, left, right, 0.0)

    def _in_turn(
        self, whole: fx.Node, part: fx.Node, value: float | None, dim: int, region: Region
    ) -> fx.Node | None:
        """Every ``step``-th element."""
        if value is not None and region.end is None and region.first >= 0:
            return self.call(
                aten.masked_fill.Scalar, whole, self.positions(whole, dim, region), value
            )
        step, first, edge = region.step, region.first, self.constant(whole)
        if region.end is not None or not 0 <= first < step:
            return None
        length, turns = shape_of(whole)[dim], shape_of(part)[dim]
        if not self.captured.sizes.multiple(length, turns, step, groups=True):
            return None
        if not self.at_least(whole, dim, 0, multiple=step):
            return None
        rows = self.rows.get(whole)
        if rows is None or len(rows) != step:
            rows = []
            for k in range(step):
                if edge is not None:
                    rows.append(self.call(aten.full_like.default, part, edge))
                else:
                    rows.append(self.slice(whole, dim, Region(k, None, step)))
        rows = [part if k == first else row for k, row in enumerate(rows)]
        new = self.call(aten.stack.default, rows, dim + 1)
        new = self.call(aten.flatten.using_ints, new, dim, dim + 1)
        self.rows[new] = rows
        return new

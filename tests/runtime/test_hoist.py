"""Generated code that walks to each child once: it must see what was replaced, as before."""

from __future__ import annotations

import copy
import re

import torch
from torch import Tensor, nn

import pgt_fx


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Deep(nn.Module):
    """Children whose names are those that the generated code would like to use."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(Block(), Block()), nn.Sequential(Block())])
        self.in_stages_0 = nn.Conv1d(4, 4, 1)
        self.in_stages = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_stages(self.in_stages_0(x))
        for stage in self.stages:
            x = stage(x)
        return x


def made() -> tuple[Deep, pgt_fx.Progressive, Tensor]:
    torch.manual_seed(0)
    model, video = Deep().eval(), torch.randn(2, 4, 40)
    return model, pgt_fx.transform(model, video[:, :, :8], future="wait"), video


def whole(prog: pgt_fx.Progressive, video: Tensor) -> Tensor:
    outs = prog.run(video, schedule=[16, 16, 8])
    return torch.cat([out for out in outs if out is not None], 2)


def test_every_module_is_reached_once() -> None:
    _, prog, video = made()
    assert torch.allclose(whole(prog, video), prog.inspect.model(video), atol=1e-6)
    code = prog.inspect.program.module().code
    walks = re.findall(r"self\.(\w+)", code)
    assert sorted(walks) == sorted({"stages", "in_stages", "in_stages_0", "markov"}), code
    assert code.count('"0")') <= 4, "stage 0, its block 0, the block of stage 1, in_stages"
    assert "in_stages_0_ = " in code, "the name is taken by a child's own value"


def test_what_a_person_reads_names_the_whole_path() -> None:
    _, prog, _ = made()
    assert "self.stages[0][1].norm(" in prog.code
    assert not re.search(r"^\s*in_stages_* = self\.stages$", prog.code, re.M)


def test_a_replaced_child_is_seen() -> None:
    model, prog, video = made()
    before = whole(prog, video)
    model.stages[0][1].norm = nn.BatchNorm1d(4).eval()
    nn.init.constant_(model.stages[0][1].norm.weight, 3.0)
    after = whole(prog, video)
    assert not torch.allclose(before, after)
    assert torch.allclose(after, model(video), atol=1e-6)
    model.stages[1] = nn.Sequential(Block().eval())
    assert torch.allclose(whole(prog, video), model(video), atol=1e-6)


def test_copies_are_apart() -> None:
    model, prog, video = made()
    other = copy.deepcopy(prog)
    nn.init.zeros_(model.stages[0][0].conv.weight)
    assert not torch.allclose(whole(prog, video), whole(other, video))

"""The model's own modes, parts and hooks hold for its steps, whoever changes them and when."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import relative_error
from torch import Tensor, nn

import pgt_fx
from pgt_fx.core.errors import CaptureError, ClipError

CLIP = (1, 2, 8, 6, 6)
EXACT = 1e-5


def conv(inputs: int = 2, outputs: int = 4) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1)


class Dropping(nn.Module):
    """Dropout as a function, in the mode of its module."""

    def __init__(self, inputs: int = 2) -> None:
        super().__init__()
        self.conv = conv(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5, self.training)


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3, 4)))


def clip(seed: int = 0) -> Tensor:
    return torch.randn(CLIP, generator=torch.Generator().manual_seed(seed))


def drops(prog: nn.Module) -> bool:
    """Whether about half of what it gives is zero."""
    return bool((prog(clip()) == 0).float().mean() > 0.3)


# -- train and eval ------------------------------------------------------------------------------


class KeepsNorms(nn.Module):
    """``norm_eval``, as in many backbones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm3d(4)

    def train(self, mode: bool = True) -> KeepsNorms:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def test_the_models_own_train_is_called() -> None:
    model = KeepsNorms().train()
    prog = pgt_fx.transform(model, clip())
    assert prog.train() is prog and model.training and not model.norm.training
    assert prog.eval() is prog and not model.training


def test_the_mode_is_the_models_whoever_sets_it() -> None:
    model = Dropping().train()
    prog = pgt_fx.transform(model, clip())
    assert prog.training and drops(prog)
    model.eval()
    assert not prog.training and relative_error(prog.full(clip()), model(clip())) < EXACT
    other = prog.replace(pooling="running")
    prog.train()
    assert other.training and drops(other)
    other.eval()
    prog.reset()
    assert not drops(prog)
    prog.training = True
    prog.reset()
    assert model.training and drops(prog)


@pytest.mark.parametrize("frozen_before", [False, True])
def test_parts_have_modes_of_their_own(frozen_before: bool) -> None:
    model = nn.Sequential(Dropping(), Dropping(4)).train()
    if frozen_before:
        model[0].eval(), model[1].eval()
    prog = pgt_fx.transform(model, clip())
    if not frozen_before:
        assert drops(prog)
        model[0].eval(), model[1].eval()
        prog.reset()
    assert model.training and relative_error(prog.full(clip()), model(clip())) < EXACT
    prog.train()
    prog.reset()
    assert drops(prog)


class Childless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.conv3d(x, self.weight, padding=1), 0.5, self.training)


@pytest.mark.parametrize("model", [Childless(), nn.Dropout(0.5)], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_a_model_without_parts_has_a_mode(model: nn.Module, first: bool) -> None:
    prog = pgt_fx.transform(model.train(first), clip())
    for mode in (first, not first, first):
        prog.reset()
        assert drops(prog.train(mode)) == mode


def test_a_norm_as_a_function_is_frozen_with_its_module() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm3d(4)

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            ways = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            return F.batch_norm(self.conv(x), *ways, training=norm.training)

    model = Folded().train()
    prog = pgt_fx.transform(model, clip())
    prog(clip())
    seen = model.norm.running_mean
    assert seen is not None and seen.abs().max() > 0
    model.norm.eval()
    before = seen.clone()
    prog.reset()
    assert relative_error(prog.full(clip(1)), model(clip(1))) < EXACT
    assert torch.equal(seen, before)


def test_doctor_leaves_frozen_parts_frozen() -> None:
    from pgt_fx.doctor import examine

    model = nn.Sequential(conv(), nn.BatchNorm3d(4)).train()
    model[1].eval()
    examine(model, clip())
    assert [m.training for m in model.modules()] == [True, True, False]


# -- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 5))])
def test_a_new_head_is_seen(head: nn.Module) -> None:
    model = Headed().eval()
    prog = pgt_fx.transform(model, clip())
    prog.full(clip())
    prog.head = copy.deepcopy(head)
    out = prog.full(clip())
    assert model.head is prog.head and torch.allclose(out, model(clip()), atol=1e-6)
    out.sum().backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_a_part_that_is_replaced_is_captured_anew() -> None:
    model = nn.Sequential(nn.Sequential(Dropping(), Dropping(4)), conv(4)).train()
    prog = pgt_fx.transform(model, clip(), future="wait")
    assert prog.report.look_ahead == [3]
    model[0][1] = Dropping(4)
    model[0][0].eval(), model[0][1].eval()
    assert relative_error(prog.full(clip()), model(clip())) < EXACT
    model[0][0].conv = nn.Conv3d(2, 4, (5, 3, 3), padding=(2, 1, 1))
    other = copy.deepcopy(prog)
    for one in (prog, other):
        outs = [y for y in one.run(clip(), schedule=[5, 3]) if y is not None]
        assert relative_error(torch.cat(outs, 2), model(clip())) < EXACT
        assert one.report.look_ahead == [4]


def test_a_copy_is_frozen_where_its_original_is_and_has_its_hooks() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm3d(4)).train()
    prog = pgt_fx.transform(model, clip())
    model[1].eval()
    calls: list[str] = []
    prog.register_forward_hook(lambda *_: calls.append("hook"))
    prog.remark = ["mine"]
    other = copy.deepcopy(prog)
    assert [m.training for m in (other, *other.children())] == [True, True, False]
    other(clip())
    assert calls == ["hook"] and not prog.state and other.state
    assert other.remark == ["mine"] and other.remark is not prog.remark


def test_it_is_pickled_as_the_model_is() -> None:
    prog = pgt_fx.transform(Headed().eval(), clip(), pooling="running")
    first, second = prog(clip()), prog(clip(1))
    prog.reset()
    prog(clip())
    other = pickle.loads(pickle.dumps(prog))
    assert other.inspect.model.conv is other.conv and other.options == prog.options
    assert torch.equal(other(clip(1)), second)
    other.reset()
    assert torch.equal(other(clip()), first)


class Renamed(nn.Module):
    """Takes the names of older checkpoints, and keeps a number of its own."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.number = conv(), 7

    def get_extra_state(self) -> Any:
        return self.number

    def set_extra_state(self, state: Any) -> None:
        self.number = state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, meta: Any, *args: Any) -> None:
        if meta.get("version") is None:
            for key in [k for k in state_dict if k.startswith(f"{prefix}old.")]:
                state_dict[key.replace("old.", "conv.")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, meta, *args)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_checkpoints_are_read_and_written_as_the_model_does() -> None:
    model = Renamed()
    prog = pgt_fx.transform(model, clip())
    saved = prog.state_dict()
    assert saved.keys() == model.state_dict().keys() and saved["_extra_state"] == 7
    assert saved._metadata[""]["version"] == 3
    old = {"old.weight": torch.ones(4, 2, 3, 3, 3), "old.bias": torch.ones(4), "_extra_state": 9}
    seen: list[str] = []
    model.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    prog.load_state_dict(dict(old))
    assert model.number == 9 and bool((model.conv.weight == 1).all()) and seen == ["loaded"]
    wrapped = nn.ModuleDict({"inner": prog})
    wrapped.load_state_dict({f"inner.{k}": v * 2 for k, v in old.items()})
    assert model.number == 18 and bool((model.conv.bias == 2).all())


# -- what is made late ---------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.factor = conv(), torch.randn(4, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.factor.to(x.device)


@pytest.mark.parametrize("moved", [False, True])
def test_what_is_first_needed_under_inference_mode_can_be_trained(moved: bool) -> None:
    model = Scaled().train(not moved)
    prog = pgt_fx.transform(model, clip())
    x = clip()
    if moved:
        model.to("meta")
        x = x.to("meta")
    prog.eval()
    with torch.inference_mode():
        prog.full(x)
    prog.full(x).sum().backward()
    assert model.conv.weight.grad is not None


# -- leaves and names ----------------------------------------------------------------------------


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, scale: float, x: Tensor, flag: bool = False) -> Tensor:
        return self.conv(x) * (2 if flag else 1) * scale


def test_what_is_no_tensor_is_the_examples() -> None:
    model, x = Flagged().eval(), clip()
    prog = pgt_fx.transform(model, (3.0, x, True), future="wait")
    outs = [y for y in prog.run(3.0, x, True, schedule=[3, 5]) if y is not None]
    assert relative_error(torch.cat(outs, 2), model(3.0, x, True)) < EXACT
    with pytest.raises(ClipError, match=r"input 2 is False.*captured with True"):
        prog.full(3.0, x, False)
    for flag in (torch.zeros(3), np.zeros(3)):
        with pytest.raises(ClipError, match="captured with True"):
            prog.full(3.0, x, flag)


def test_a_model_may_name_things_as_python_and_as_this_library_do() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = nn.ModuleDict({"global": nn.Sequential(conv(), conv(4)), "local": conv()})
            self.clock = nn.ModuleDict({"frames": conv(4)})

        def forward(self, clip: Tensor, state: Tensor) -> Tensor:
            y = self.b["global"](clip) + self.b["local"](clip)
            return self.clock["frames"](y) + state

    model, x, one = Named().eval(), clip(), torch.tensor(1.0)
    prog = pgt_fx.transform(model, {"clip": x, "state": one}, future="wait")
    whole = model(x, one)
    pieces = [prog(clip=x[:, :, :5], state=one), prog(clip=x[:, :, 5:], state=one, last=True)]
    assert relative_error(torch.cat([p for p in pieces if p is not None], 2), whole) < EXACT
    prog.reset()
    prog(clip=x[:, :, :5], state=one)
    prog.double()
    floating = [v for v in prog.state.values() if v.is_floating_point()]
    assert len(floating) >= 4 and all(v.dtype == torch.float64 for v in floating)


class Shifted(nn.Module):
    """What is added is broadcast along the width, and has one entry per frame of no clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.conv(x) + shift


def test_an_input_that_may_have_a_row_per_video_is_no_table_along_space() -> None:
    model, x, shift = Shifted().eval(), clip(), torch.ones(1)
    with pytest.raises(CaptureError, match=r"input of shape \(1,\).*an example of two videos"):
        pgt_fx.transform(model, (x, shift))
    two = torch.cat([x, clip(1)])
    for example in ((two, shift), (x, shift[0])):
        prog = pgt_fx.transform(model, example, future="wait")
        outs = [y for y in prog.run(*example, schedule=[3, 5]) if y is not None]
        assert relative_error(torch.cat(outs, 2), model(*example)) < EXACT

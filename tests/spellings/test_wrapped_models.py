"""What stands around a model or a part of it, in how people write: wrappers, blocks of autocast and
without gradients, checkpointing, checks of values, adapters. Each is exact, or refused in words."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import value_checks as values
from judge import RIGHT, Case, judge
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import pgt_fx
from pgt_fx.core.errors import BlockedError, CaptureError

CLIP = (1, 2, 8, 4, 4)


class Net(nn.Module):
    """Two convolutions along time, and what a case does with them."""

    def __init__(self, then: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv3d(2, 4, (3, 1, 1), padding=(1, 0, 0))
        self.two = nn.Conv3d(4, 2, 3, padding=1)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x))) if self.then is None else self.then(self, x)


def _right(make: Callable[[], nn.Module]) -> None:
    assert judge(Case(make, RIGHT, CLIP, (1, 3, 11), chunkings=2)) == RIGHT


# ------------------------------------------------------------------------------------ autocast


def _autocast(**how: Any) -> Callable[[Any, Tensor], Tensor]:
    def then(model: Any, x: Tensor) -> Tensor:
        y = model.one(x)
        with torch.autocast("cpu", **how):
            y = model.two(torch.tanh(y))
        return y

    return then


def _nested(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch.tanh(model.one(x))
        with torch.autocast("cpu", enabled=False):
            y = model.two(y.to(x.dtype))
        y = y * 2
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.one(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return y + model.two(z)


def _many(model: Any, x: Tensor) -> Tensor:
    """Operators that autocast casts in one way and in another: some inside of what they call."""
    weight = model.two.weight[:, :, 0, 0, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model.one(x).movedim(1, -1)
        y = torch.einsum("btxyd,ed->btxye", y, weight).softmax(-1)
        y = torch.cat([y, F.layer_norm(y.float(), (2,))], -1)
        return model.two(y.movedim(-1, 1)) + F.linear(y, weight).movedim(-1, 1)


AUTOCAST = {
    "on": _autocast(dtype=torch.bfloat16),
    "off": _autocast(enabled=False),
    "float16": _autocast(dtype=torch.float16),
    "nested": _nested,
    "many operators": _many,
}


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_in_forward(name: str) -> None:
    _right(lambda: Net(AUTOCAST[name]))


@pytest.mark.parametrize("name", AUTOCAST)
def test_the_types_of_autocast_are_the_models(name: str) -> None:
    """In float32, where it casts: the same operators of the same types give the same bits."""
    model = Net(AUTOCAST[name]).eval()
    video = torch.randn(1, 2, 10, 4, 4)
    prog = pgt_fx.transform(model, video[:, :, :8], future="wait")
    with torch.no_grad():
        whole, steps = model(video), prog.run(video, schedule=pgt_fx.Schedule(4, 3))
        assert torch.equal(prog.full(video), whole) and prog.full(video).dtype == whole.dtype
        found = torch.cat([y for y in steps if y is not None], 2)
        assert found.dtype == whole.dtype and found.shape == whole.shape
        assert (found - whole).abs().max() < 0.02 * whole.abs().max()
        if name != "off":
            plain = copy.deepcopy(model).double()(video.double())
            assert (whole - plain).abs().max() > 1e-4, "it casts nothing"
        # Moved to another type it is captured anew: float64 is not cast.
        model.double()
        assert torch.allclose(prog.full(video.double()), model(video.double()), atol=1e-12)


def test_a_module_that_autocast_is_around_is_not_called_without_it() -> None:
    class Frames(nn.Module):
        """Mixes no time: it would be called as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu()

    def then(model: Any, x: Tensor) -> Tensor:
        y = model.one(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model.frames(y)
        return model.two(y.to(x.dtype))

    model = Net(then)
    model.frames = Frames()
    video = torch.randn(1, 2, 11, 4, 4)
    prog = pgt_fx.transform(model.eval(), video[:, :, :8], future="wait")
    with torch.no_grad():
        assert torch.equal(prog.full(video), model(video))


def test_gradients_go_through_the_casts() -> None:
    model, video = Net(_nested), torch.randn(1, 2, 8, 4, 4)
    prog = pgt_fx.transform(model, video, future="wait")
    found = []
    for call in (prog.full, model):
        model.zero_grad()
        call(video).float().square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for ours, own in zip(*found, strict=True):
        assert torch.allclose(ours, own, rtol=0.02, atol=0.02 * float(own.abs().max()))


@pytest.mark.parametrize("enabled", [True, False])
def test_what_torch_export_loses_of_gradients_is_refused(enabled: bool) -> None:
    def then(model: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            with torch.no_grad():
                y = model.one(x)
            return model.two(y)

    with pytest.raises(CaptureError, match="write the two the other way round") as error:
        pgt_fx.transform(Net(then), torch.zeros(CLIP), future="wait")
    assert "with torch.no_grad()" in str(error.value)


def test_autocast_around_such_a_model_is_refused() -> None:
    model, video = Net(AUTOCAST["on"]).eval(), torch.randn(CLIP)
    prog = pgt_fx.transform(model, video, future="wait")
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(BlockedError, match="autocast"):
        prog.full(video)


# ----------------------------------------------------------- gradients, memory, tensors' data


def _without(context: Callable[[Any], Any]) -> Callable[[Any, Tensor], Tensor]:
    def then(model: Any, x: Tensor) -> Tensor:
        with context(model):
            y = model.one(x)
        return model.two(y)

    return then


def _switched(model: Any, x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = model.one(x)
    torch.set_grad_enabled(before)
    return model.two(y)


def _written(model: Any, x: Tensor) -> Tensor:
    y = model.one(x)
    y.data.mul_(2)
    return model.two(y)


def _checkpoint(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda s, x: s.two(
        checkpoint(lambda t: torch.tanh(s.one(t)), x, use_reentrant=reentrant)
    )


PLAIN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "no_grad": _without(lambda _: torch.no_grad()),
    "enable_grad": _without(lambda _: torch.enable_grad()),
    "set_grad_enabled": _without(lambda s: torch.set_grad_enabled(s.training)),
    "set_grad_enabled as a call": _switched,
    "detach": lambda s, x: s.two(s.one(x).detach()),
    "detach_": lambda s, x: s.two(s.one(x).detach_()),
    "data": lambda s, x: s.two(s.one(x).data),
    "data of weights": lambda s, x: s.two(F.conv3d(x, s.one.weight.data, None, padding=(1, 0, 0))),
    "data, written": _written,
    "checkpoint": _checkpoint(False),
    "checkpoint, reentrant": _checkpoint(True),
    "checkpoint of a module": lambda s, x: s.two(checkpoint(s.one, x, use_reentrant=False)),
    "checkpoint of a sequence": lambda s, x: checkpoint_sequential(
        nn.Sequential(s.one, nn.Tanh(), s.two), 2, x, use_reentrant=False
    ),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.filterwarnings("ignore")
def test_blocks_and_tensors_without_gradients(name: str) -> None:
    _right(lambda: Net(PLAIN[name]))


def test_data_has_no_gradient() -> None:
    model = Net(PLAIN["data"])
    pgt_fx.transform(model, torch.zeros(CLIP)).full(torch.randn(CLIP)).sum().backward()
    assert model.two.weight.grad is not None and model.one.weight.grad is None


# ------------------------------------------------------------------------- checks of values


def _check(check: Callable[[Tensor], None]) -> Callable[[Any, Tensor], Tensor]:
    def then(model: Any, x: Tensor) -> Tensor:
        y = model.one(x)
        check(y)
        return model.two(y)

    return then


RAISING = (
    *(
        values.raises,
        values.raises_with_a_flag,
        values.asserts,
        values.asserts_not,
        values.asserts_several,
        values.asserts_in_torch,
    ),
    *(values.equal, values.close),
)


@pytest.mark.parametrize("check", RAISING, ids=lambda c: c.__name__)
def test_a_check_that_only_raises_is_left_out_and_told(check: Callable[[Tensor], None]) -> None:
    _right(lambda: Net(_check(check)))
    prog = pgt_fx.transform(Net(_check(check)).eval(), torch.zeros(CLIP), future="wait")
    (told,) = (g for g in prog.guards if g.checked == "never")
    assert told.otherwise == "answered" and "value_checks.py" in told.because[0]
    assert "its own checks are left out" in str(prog.report.guards)


def test_a_check_in_a_module_is_left_out_of_each_step() -> None:
    """A module that mixes no time would be called whole, and check each chunk alone."""

    class Checks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] and (x.std((0, 2, 3, 4)) == 0).any():
                raise ValueError("a constant")
            return x.relu()

    def then(model: Any, x: Tensor) -> Tensor:
        return model.two(model.checks(model.one(x)))

    model = Net(then)
    model.checks = Checks()
    video = torch.ones(1, 2, 12, 1, 1)
    video[:, :, :6] = torch.randn(6, 1, 1)
    prog = pgt_fx.transform(model.eval(), torch.randn(1, 2, 8, 1, 1), future="wait")
    with torch.no_grad():
        out = [prog(video[:, :, t : t + 3], last=t == 9) for t in (0, 3, 6, 9)]
        found = torch.cat([y for y in out if y is not None], 2)
        assert torch.allclose(found, model(video), atol=1e-6)


@pytest.mark.parametrize(
    "check",
    [
        values.goes_on,
        values.branches,
        values.ends,
        values.chooses,
        values.number,
    ],
    ids=lambda c: c.__name__,
)
def test_a_branch_on_values_is_refused(check: Callable[[Tensor], None]) -> None:
    with pytest.raises(CaptureError, match="of the values of a tensor") as error:
        pgt_fx.transform(Net(_check(check)).eval(), torch.randn(CLIP), future="wait")
    assert "value_checks.py" in str(error.value) and "may stay, as assert" in str(error.value)


# --------------------------------------------------------------------- wrappers and adapters


class Adapted(nn.Module):
    """A convolution with an adapter of low rank, as PEFT puts it in place of one."""

    def __init__(self, base: nn.Conv3d, rank: int = 2) -> None:
        super().__init__()
        self.base_layer, self.active = base, ["default"]
        down = nn.Conv3d(base.in_channels, rank, base.kernel_size, padding=base.padding, bias=False)
        self.down = nn.ModuleDict({"default": down})
        self.up = nn.ModuleDict({"default": nn.Conv3d(rank, base.out_channels, 1, bias=False)})
        self.scaling = {"default": 0.5}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out = self.base_layer(x, *args, **kwargs)
        for name in self.active:
            out = out + self.up[name](self.down[name](x)) * self.scaling[name]
        return out


def _adapted() -> nn.Module:
    model = Net()
    model.one, model.two = Adapted(model.one), Adapted(model.two)
    return model


def _compiled() -> nn.Module:
    model = Net()
    model.one = torch.compile(model.one, backend="eager")
    return model


MODULES: dict[str, Callable[[], nn.Module]] = {
    "adapters": _adapted,
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "compiled part": _compiled,
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3))
    ),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore")
def test_modules_around_modules(name: str) -> None:
    _right(MODULES[name])


def test_an_adapter_that_is_switched_off_is_seen() -> None:
    model, video = _adapted().eval(), torch.randn(CLIP)
    prog = pgt_fx.transform(model, video, future="wait")
    model.one.active = []
    with torch.no_grad():
        assert torch.allclose(prog.full(video), model(video), atol=1e-6)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed, of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


WRAPPERS = {
    "DataParallel": (nn.DataParallel, r"pass the module inside \(\.module\)"),
    "DistributedDataParallel": (
        nn.parallel.DistributedDataParallel,
        r"pass the module inside .* DistributedDataParallel\(prog\)",
    ),
    "fully_shard": (_sharded, r"fully_shard\(prog\)"),
    "jit.script": (lambda m: torch.jit.script(nn.Sequential(m.one, m.two)), "scripted by torch"),
    "jit.trace": (lambda m: torch.jit.trace(m, torch.zeros(CLIP)), "traced by torch"),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_wrappers_are_refused_in_a_line(name: str, inside: bool, group: None) -> None:
    wrap, words = WRAPPERS[name]
    wrapped = wrap(Net().eval())
    model = nn.Sequential(nn.Tanh(), wrapped) if inside else wrapped
    with pytest.raises(CaptureError, match=words) as error:
        pgt_fx.transform(model, torch.zeros(CLIP))
    assert error.value.place is not None and error.value.place.module == ("1" if inside else "")
    assert str(error.value).count("\n") == 1


def test_lazy_modules_are_called_first() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyConv3d(4, 3, padding=1), nn.LazyBatchNorm3d()).eval()
    with pytest.raises(CaptureError, match=r"none yet \(weight, bias\): call the model once"):
        pgt_fx.transform(model, torch.zeros(CLIP))
    model(torch.randn(CLIP))
    _right(lambda: copy.deepcopy(model))

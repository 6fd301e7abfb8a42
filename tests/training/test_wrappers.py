"""Models that are wrapped: by accelerate, Lightning, fully_shard, torch.compile, DataParallel."""

from __future__ import annotations

import copy
import inspect
import pickle
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pgt_fx
from pgt_fx import Schedule
from pgt_fx.core.errors import DifferentiatedError, OptionError, StateError
from pgt_fx.inference import predict
from pgt_fx.training import backward, fit

SCHEDULE = Schedule(4, 3)  # 10 frames as 4, 3, 3
LABEL = torch.tensor([1, 2])
BOTH = pytest.mark.parametrize("gradient", ["truncated", "exact"])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, 4, 3, padding=1),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    )  # fmt: skip


def progressive(**options: Any) -> pgt_fx.Progressive:
    return pgt_fx.transform(net(), torch.zeros(1, 3, 4, 4, 4), **options)


def video() -> Tensor:
    return torch.randn(2, 3, 10, 4, 4, generator=torch.Generator().manual_seed(3))


def taken(model: nn.Module) -> dict[str, Tensor]:
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return bool(a) and a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[k] - b[k]).norm() / b[k].norm()) for k in b)


def in_float32(gradient: str = "truncated") -> dict[str, Tensor]:
    prog = progressive()
    backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, gradient=gradient)
    return taken(prog)


def by_hand(call: Any, prog: pgt_fx.Progressive, differentiate: Any = Tensor.backward) -> Any:
    """The steps as calls of the wrapped model, differentiated as its makers say."""
    prog.reset()
    for number, chunk in enumerate(video().split([4, 3, 3], 2)):
        differentiate(F.cross_entropy(call(chunk, last=number == 2), LABEL))
    prog.reset()
    return taken(prog)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed, of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# --------------------------------------------------------------------------- accelerate


@pytest.fixture
def accelerate() -> Iterator[Any]:
    found = pytest.importorskip("accelerate")
    yield found
    found.state.AcceleratorState._reset_state(True)


@BOTH
def test_accelerates_precision_is_that_of_each_step(accelerate: Any, gradient: str) -> None:
    prog = progressive()
    prog(video()[:, :, :3])
    stream, plain = prog.state, in_float32(gradient)
    accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
    prepared, optimizer = accelerator.prepare(prog, torch.optim.SGD(prog.parameters(), 0.1))
    how: dict[str, Any] = {"schedule": SCHEDULE, "gradient": gradient}
    found = backward(prepared, video(), F.cross_entropy, LABEL, **how)
    own = taken(prog)
    assert all(torch.equal(stream[k], v) for k, v in prog.state.items()), "its own stream"
    assert found.outputs[0].dtype == torch.float32, "as accelerate casts answers"
    if gradient == "truncated":
        assert same(own, by_hand(prepared, prog))
    else:
        backward(prepared, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, keep=99)
        assert apart(own, taken(prog)) < 0.05
    assert apart(own, plain) > 1e-3, "bfloat16 must have been used"
    before = [p.detach().clone() for p in prog.parameters()]
    backward(prepared, video(), F.cross_entropy, LABEL, **how)
    optimizer.step()
    for a, b, (name, _) in zip(before, prog.parameters(), prog.named_parameters(), strict=True):
        assert torch.allclose(a - 0.1 * own[name], b)


def test_whole_videos_of_a_prepared_model_are_in_its_precision(accelerate: Any) -> None:
    prog, x = progressive().eval(), video()
    single = prog.full(x)
    prepared = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(prog)
    with torch.no_grad():
        steps = [prepared(c, last=n == 2) for n, c in enumerate(x.split([4, 3, 3], 2))]
        prog.reset()
        assert all(map(torch.equal, prepared.run(x, schedule=SCHEDULE), steps))
        assert not torch.equal(prepared.full(x), single)
        scores = predict(prepared, x, schedule=SCHEDULE, activation=None).scores
    assert torch.allclose(scores, torch.stack(steps).mean(0))
    assert prog.state == {}


def test_accelerates_float16_needs_its_scaler(accelerate: Any, monkeypatch: Any) -> None:
    """Its optimizer divides the gradients by a scale, which the losses then must have had."""
    prog = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare(progressive())
    state = accelerate.state.AcceleratorState
    monkeypatch.setitem(state._shared_state, "_mixed_precision", "fp16")
    with pytest.raises(OptionError, match=r"pass scaler=accelerator\.scaler"):
        backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    scaler = torch.amp.GradScaler("cpu")
    backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, scaler=scaler)
    assert taken(prog)


# ----------------------------------------------------------------------------- Lightning


@pytest.fixture
def fabric() -> Any:
    return pytest.importorskip("lightning.fabric")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fabrics_precision_is_that_of_each_step(fabric: Any, precision: str) -> None:
    prog, plain = progressive(), in_float32()
    how: Any = {"precision": precision}
    if precision == "16-mixed":  # on a CPU it has to be given its scaler
        from lightning.fabric.plugins import MixedPrecision

        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        how = {"plugins": MixedPrecision("16-mixed", "cpu", scaler)}
    runner = fabric.Fabric(accelerator="cpu", devices=1, **how)
    module, optimizer = runner.setup(prog, torch.optim.SGD(prog.parameters(), 0.1))
    found = backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    own = taken(prog)
    assert same(own, by_hand(module, prog, runner.backward))
    assert same(own, plain) == (precision == "32-true")
    assert found.loss.isfinite() and found.outputs[0].dtype == torch.float32
    backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, gradient="exact")
    exact = taken(prog)
    backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, keep=99)
    assert apart(exact, taken(prog)) < (1e-5 if precision == "32-true" else 0.05)
    # Its optimizer takes out what its scaler has put in.
    before = [p.detach().clone() for p in prog.parameters()]
    backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    optimizer.step()
    for old, new, gradient in zip(before, prog.parameters(), plain.values(), strict=True):
        assert (old - new - 0.1 * gradient).norm() < 0.02 * 0.1 * gradient.norm()


def test_fit_takes_fabrics_module(fabric: Any) -> None:
    prog, reference = progressive(), progressive()
    runner = fabric.Fabric(accelerator="cpu", devices=1)
    module, optimizer = runner.setup(prog, torch.optim.SGD(prog.parameters(), 0.1))
    how: dict[str, Any] = {"epochs": 1, "schedule": SCHEDULE, "progress": False}
    fit(module, [(video(), LABEL)], optimizer, **how)
    fit(reference, [(video(), LABEL)], torch.optim.SGD(reference.parameters(), 0.1), **how)
    assert all(map(torch.equal, prog.parameters(), reference.parameters()))


def test_fabric_around_data_parallel(fabric: Any, group: None, monkeypatch: Any) -> None:
    """Gradients are averaged once, over the processes of the module inside."""
    from lightning.fabric.wrappers import _FabricModule

    prog = progressive()
    runner = fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    module = _FabricModule(DistributedDataParallel(prog), runner.strategy, original_module=prog)
    reduced: list[Tensor] = []
    reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda x, **k: (reduced.append(x), reduce(x, **k)))
    backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, sync=False)
    own = taken(prog)
    assert not reduced
    backward(module, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    assert len(reduced) == 2 and same(taken(prog), own) and not same(own, in_float32())


def example() -> str:
    """The LightningModule that backward's documentation shows."""
    text = inspect.getdoc(backward) or ""
    lines = text[text.index("    class Training") :].splitlines()
    end = next(n for n, line in enumerate(lines) if line and not line.startswith("    "))
    return textwrap.dedent("\n".join(lines[:end]))


def trained(lightning: Any, module: Any, loader: Any) -> Any:
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    return trainer


def test_the_documented_lightning_module_trains() -> None:
    lightning = pytest.importorskip("lightning")
    prog, reference = progressive(), progressive()
    names: dict[str, Any] = {
        "lightning": lightning, "torch": torch, "F": F, "backward": backward, "Schedule": Schedule,
    }  # fmt: skip
    exec(example(), names)
    loader = torch.utils.data.DataLoader([*zip(video(), LABEL, strict=True)], 2)
    trainer = trained(lightning, names["Training"](prog), loader)
    found = backward(reference, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    torch.optim.SGD(reference.parameters(), 0.1).step()
    assert all(map(torch.equal, prog.parameters(), reference.parameters()))
    assert trainer.callback_metrics["loss"] == found.loss

    class Automatic(names["Training"]):  # type: ignore[misc]
        """As one writes it who doesn't know."""

        def __init__(self) -> None:
            super().__init__(prog)
            self.automatic_optimization = True

        def training_step(self, batch: Any, index: int) -> Tensor:
            return backward(self.prog, batch[0], F.cross_entropy, batch[1], schedule=SCHEDULE).loss

    with pytest.raises(DifferentiatedError, match=r"self\.automatic_optimization = False"):
        trained(lightning, Automatic(), loader)


# ----------------------------------------------------------------- losses, differentiated


@BOTH
def test_a_loss_that_is_differentiated_says_so(gradient: str) -> None:
    prog = progressive()
    found = backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, gradient=gradient)
    for loss in (found.loss, found.losses[0], found.loss / 2, sum(found.losses), +found.loss):
        with pytest.raises(DifferentiatedError, match=r"Leave out loss\.backward\(\)"):
            loss.backward()
    # A number like any other.
    number = float(found.loss)
    assert f"{found.loss:.3f}" == f"{number:.3f}" and repr(found.loss).startswith("tensor(")
    assert not found.loss.requires_grad and found.loss.numpy() == found.loss.item()
    # With a term that has a graph it is differentiated as any tensor.
    prog.zero_grad()
    weights = sum(p.square().sum() for p in prog.parameters())
    (found.loss + weights).backward()
    assert all(torch.allclose(p.grad, 2 * p) for p in prog.parameters())


def test_a_differentiated_loss_is_saved_as_a_tensor(tmp_path: Path) -> None:
    found = backward(progressive(), video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    torch.save({"loss": found.loss}, tmp_path / "c.pt")
    loaded = torch.load(tmp_path / "c.pt", weights_only=True)["loss"]
    assert type(loaded) is Tensor and torch.equal(loaded, found.loss)
    assert type(pickle.loads(pickle.dumps(found.loss))) is Tensor
    assert torch.equal(copy.deepcopy(found).loss, found.loss)


# ----------------------------------------------------------------------- other wrappers


def test_hooks_on_the_model_see_each_step() -> None:
    prog = progressive()
    prog(video()[:, :, :3])
    stream = prog.state
    backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    plain, seen = taken(prog), []
    handle = prog.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[2]))
    backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    assert same(taken(prog), plain) and seen == [4, 3, 3]
    prog.run(video(), schedule=SCHEDULE)
    handle.remove()
    assert seen == [4, 3, 3] * 2
    assert all(torch.equal(stream[k], v) for k, v in prog.state.items())
    failing = prog.register_forward_pre_hook(lambda m, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prog.run(video(), schedule=SCHEDULE)
    failing.remove()
    assert all(torch.equal(stream[k], v) for k, v in prog.state.items())


def test_a_sharded_model(group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    prog, plain = progressive().eval(), in_float32()
    whole = prog.run(video(), schedule=SCHEDULE)
    fully_shard(prog, mesh=init_device_mesh("cpu", (1,)))
    prog.train()
    for keep in (1, 3):
        backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, keep=keep)
        found = {k: v.full_tensor() for k, v in taken(prog).items()}
        assert (apart(found, plain) < 1e-5) == (keep == 1)
    with torch.no_grad():
        assert all(map(torch.allclose, prog.run(video(), schedule=SCHEDULE), whole))
        assert predict(prog, video(), schedule=SCHEDULE).scores.shape == (2, 4)
    with pytest.raises(OptionError, match='use gradient="truncated"'):
        backward(prog, video(), F.cross_entropy, LABEL, schedule=SCHEDULE, gradient="exact")


class FullyShardedDataParallel(nn.Module):
    """By its name: the true one needs an accelerator."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (torch.compile, r"prog\.compile\(\) compiles the steps in place: call that, and pass prog"),
        (nn.DataParallel, r"use DistributedDataParallel\(prog\)"),
        (FullyShardedDataParallel, r"use torch\.distributed\.fsdp\.fully_shard\(prog\)"),
        (nn.Sequential, r"got Sequential; pass the progressive model inside"),
        (lambda prog: net(), r"expected a progressive model .* got Sequential$"),
    ],
)
def test_wrappers_that_steps_can_t_go_through_are_refused(wrap: Any, message: str) -> None:
    prog = progressive()
    with pytest.raises(OptionError, match=message) as error:
        backward(wrap(prog), video(), F.cross_entropy, LABEL, schedule=SCHEDULE)
    assert "\n" not in str(error.value) and not taken(prog)


def test_data_parallel_copies_are_refused_where_they_are_made() -> None:
    with pytest.raises(StateError, match=r"use torch\.nn\.parallel\.DistributedDataParallel"):
        progressive()._replicate_for_data_parallel()

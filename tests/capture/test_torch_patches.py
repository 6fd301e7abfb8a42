"""All that a capture changes in torch: is it needed, and is it put back.

A new patch (:data:`pgt_fx.capture.torch_patches.PATCHES`) needs an entry in SHOWN: a model that is
right with it and not without; or in UNSEEN, with why there is none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numbers_of_frames
import pytest
import torch
import torch._dynamo.external_utils
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

import pgt_fx
from pgt_fx.capture import torch_patches as listed
from pgt_fx.capture.replacing import Change
from pgt_fx.capture.torch_export import sizes_as_asked
from pgt_fx.core.errors import BlockedError, CaptureError, PgtError

CLIP, VIDEO = (2, 2, 8, 4, 4), (2, 2, 11, 4, 4)
Body = Callable[[Tensor], Tensor]
PATCHES = {patch.where: patch for patch in listed.PATCHES}


class Model(nn.Module):
    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@contextlib.contextmanager
def without(patch: Change) -> Iterator[None]:
    """As if the patch were not there."""
    (name,) = (n for n in ("replaced", "put", "on") if hasattr(patch, n))
    setattr(patch, name, lambda *args, **kwargs: contextlib.nullcontext())
    try:
        yield
    finally:
        delattr(patch, name)


def transformed(model: nn.Module | Body) -> pgt_fx.Progressive:
    """Without the comparison with the model, which would find what a missing patch does."""
    torch.manual_seed(0)
    model = model if isinstance(model, nn.Module) else Model(model)
    return pgt_fx.transform(model.eval(), torch.randn(CLIP), future="wait", check=False)


# ----------------------------------------------------- what each is needed for, by a small model


def answers(
    body: Body,
    video: tuple[int, ...] = VIDEO,
    where: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Callable[[], None]:
    """The program answers as the model does, for a video of this size, under ``where``."""

    def look() -> None:
        prog, x = transformed(body), torch.randn(video)
        with where():
            assert torch.equal(prog.full(x), body(x))

    return look


def refused(body: Body, says: str) -> Callable[[], None]:
    """The model is refused, with this line or reason."""

    def look() -> None:
        with pytest.raises(BlockedError, match=re.escape(says)):
            transformed(body)

    return look


def asks(question: Callable[[], Any]) -> Body:
    return lambda x: x * (2 if question() else 3)


def seeds(seeding: Callable[[], Any]) -> Body:
    def body(x: Tensor) -> Tensor:
        seeding()
        return x + torch.rand_like(x)

    return body


def forks(x: Tensor) -> Tensor:
    with torch.random.fork_rng():
        return x + torch.rand_like(x)


@contextlib.contextmanager
def default_type() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def autocast_on_gpus() -> Iterator[None]:
    """Without a GPU ``torch.autocast("cuda")`` turns itself off."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@contextlib.contextmanager
def variable() -> Iterator[None]:
    os.environ["PGT_FX_TEST_FACTOR"] = "5"
    try:
        yield
    finally:
        del os.environ["PGT_FX_TEST_FACTOR"]


def half() -> contextlib.AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.float16)


STATE = torch.get_rng_state()


def turned(y: Tensor) -> Tensor:
    return y.flip(2)  # reverses time


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def hooked(y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda grad: grad * 5)
    return y * 2


class Weighed(nn.Module):
    """A layer with a weight, and ``then`` behind it."""

    def __init__(self, then: Body = lambda y: y * 2) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv3d(2, 2, 1), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.conv(x))


def gradient_told(then: Body) -> Callable[[], None]:
    def look() -> None:
        with pytest.warns(UserWarning, match="gradients of this model would be wrong"):
            transformed(Weighed(then))

    return look


def keeps_its_layer() -> None:
    assert "self.conv(x)" in transformed(Weighed()).inspect.program.module().code


def says_its_frames(x: Tensor) -> Tensor:
    print("%d frames" % x.shape[2])  # noqa: UP031
    return x * 2


def goes_on_without_a_solution() -> None:
    """torch's solver is one that gives up, as sympy does on floors of floors."""
    solver, plain = listed.SOLVER.home, listed.SOLVER.now()

    def gives_up(self: Any) -> None:
        raise NotImplementedError("sympy")

    solver.solve = gives_up
    try:
        answers(lambda x: x * 2)()
    finally:
        solver.solve = plain


def groups(x: Tensor) -> Tensor:
    """Frames in groups of 8 and back, block by block, as a temporal shift takes them."""
    y = x.transpose(1, 2).flatten(0, 1)
    for _ in range(4):
        grouped = y.view(y.shape[0] // 8, 8, *y.shape[1:])
        y = torch.relu((grouped * 2).view(y.shape))
    return y


def sizes_stay_short() -> None:
    dims = {"x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}}
    video = torch.randn(2, 2, 24, 4, 4)
    with sizes_as_asked():
        program = torch.export.export(Model(groups), (video,), dynamic_shapes=(dims["x"],))
    values = [node.meta.get("val") for node in program.graph.nodes]
    sizes = [n for value in values if isinstance(value, Tensor) for n in value.shape]
    assert max(len(str(n.node.expr)) for n in sizes if isinstance(n, torch.SymInt)) < 20


def logs_nothing() -> None:
    """torch logs an error that it raises; here a model does it in torch's name."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, listener = logging.getLogger("torch._subclasses"), Listener()

    def body(x: Tensor) -> Tensor:
        if type(x) is not Tensor or x.is_meta:
            logger.error("failed while attempting to run meta")
        return x * 2

    logger.addHandler(listener)
    try:
        transformed(body)
    finally:
        logger.removeHandler(listener)
    assert not heard


def compiles_nothing() -> None:
    compiled: list[Any] = []

    def backend(module: Any, example: Any) -> Any:
        compiled.append(module)
        return module.forward

    model = Weighed()
    model.conv = torch.compile(model.conv, backend=backend)  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformed(model)
    assert not compiled
    torch._dynamo.reset()


class Widened(nn.Module):
    """T + 1 elements arrive at a module that asks whether there is a single one."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d((2, 1, 1), 1, (1, 0, 0))
        self.inner = Model(lambda y: 3 * y if y.shape[2] < 2 else y - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.pool(x))


def is_not_asked_again() -> None:
    """Of the first frame there is one element, and of no video."""
    model = Widened()
    prog, x = transformed(model), torch.randn(VIDEO)
    outs = [out for out in prog.run(x, schedule=[1] * VIDEO[2]) if out is not None]
    assert torch.equal(torch.cat(outs, 2), model(x))


def branches_on_a_pool() -> None:
    """At 12 frames the pool has 3 windows, as at 9 to 11; a formula without its branch says 4."""

    def body(x: Tensor) -> Tensor:
        pooled = F.max_pool3d(x, (2, 1, 1), (4, 1, 1), ceil_mode=True)
        return x * (2 if pooled.shape[2] == 3 else 3)

    prog = pgt_fx.transform(Model(body).eval(), torch.randn(1, 2, 10, 4, 4), check=False)
    assert str(prog.video_lengths) == "9 to 12", prog.video_lengths


def says_which_space(x: Tensor) -> Tensor:
    torch._check(x.shape[3] % 4 == 0)
    return x * 2


def holds_for_its_space() -> None:
    prog = transformed(says_which_space)
    with pytest.raises(PgtError, match=r"torch\._check\(x\.shape\[3\]"):
        prog.full(torch.randn(*VIDEO[:3], 6, 6))


#: Where a patch stands -> what holds with it, and does not without.
SHOWN: dict[str, Callable[[], None]] = {
    "torch.SymBool.__bool__": answers(
        lambda x: x * 2 if x.shape[0] == 1 else x * 3, (1, *VIDEO[1:])
    ),
    "SymNode.expect_true": holds_for_its_space,
    "SymNode.guard_int": answers(says_its_frames),
    "SymNode.__init__": is_not_asked_again,
    "SymNode.guard_float": answers(lambda x: x * float(x.shape[3] / 3), (*VIDEO[:3], 6, 6)),
    "torch.SymInt.__repr__": answers(lambda x: x * {"4": 2}[repr(x.shape[3])]),
    "torch.SymInt.__format__": answers(lambda x: x * {"  4": 2}[f"{x.shape[3]:>3}"]),
    "torch.SymInt.__hash__": answers(lambda x: x * {4: 2}[x.shape[3]]),
    "torch.SymFloat.__repr__": answers(lambda x: x * {"2.0": 2}[repr(x.shape[3] / 2)]),
    "torch.SymFloat.__format__": answers(lambda x: x * {"2.00": 2}[f"{x.shape[3] / 2:.2f}"]),
    "torch.SymBool.__repr__": answers(lambda x: x * {"True": 2}[repr(x.shape[3] > 2)]),
    "torch.SymBool.__format__": answers(lambda x: x * {"     1": 2}[f"{x.shape[3] > 2:6}"]),
    "torch._meta_registrations.pooling_output_shape_pad_lr": branches_on_a_pool,
    "DimConstraints.solve": goes_on_without_a_solution,
    "torch._refs._reshape_view_helper": sizes_stay_short,
    "torch.fx.proxy.TracerBase._filter_traceback_frames": refused(
        lambda x: turned(x) * 2, "return y.flip(2)  # reverses time"
    ),
    "torch.autograd.Function.apply": gradient_told(lambda y: Reverse.apply(y)),
    "torch.Tensor.register_hook": gradient_told(hooked),
    "torch.is_grad_enabled": answers(asks(lambda: torch.is_grad_enabled()), where=torch.no_grad),
    "torch.is_inference_mode_enabled": answers(
        asks(lambda: torch.is_inference_mode_enabled()), where=torch.inference_mode
    ),
    "torch.get_default_dtype": answers(
        asks(lambda: torch.get_default_dtype() == torch.float32), where=default_type
    ),
    "torch.is_autocast_enabled": answers(
        asks(lambda: torch.is_autocast_enabled("cpu")), where=half
    ),
    "torch.is_autocast_cpu_enabled": answers(
        asks(lambda: torch.is_autocast_cpu_enabled()), where=half
    ),
    "torch.get_autocast_dtype": answers(
        asks(lambda: torch.get_autocast_dtype("cpu") == torch.float16), where=half
    ),
    "torch.get_autocast_cpu_dtype": answers(
        asks(lambda: torch.get_autocast_cpu_dtype() == torch.float16), where=half
    ),
    "torch.get_autocast_gpu_dtype": answers(
        asks(lambda: torch.get_autocast_gpu_dtype() == torch.bfloat16), where=autocast_on_gpus
    ),
    "torch.get_float32_matmul_precision": answers(
        asks(lambda: torch.get_float32_matmul_precision() == "high"), where=precision
    ),
    "torch.are_deterministic_algorithms_enabled": answers(
        asks(lambda: torch.are_deterministic_algorithms_enabled()), where=deterministic
    ),
    "torch.get_deterministic_debug_mode": answers(
        asks(lambda: torch.get_deterministic_debug_mode()), where=deterministic
    ),
    "os.environ.__getitem__": answers(
        lambda x: x * float(os.environ.get("PGT_FX_TEST_FACTOR", "2")), where=variable
    ),
    **{
        where: refused(seeds(seeding), "seeds torch's random numbers")
        for where, seeding in {
            "torch.manual_seed": lambda: torch.manual_seed(0),
            "torch.seed": lambda: torch.seed(),
            "torch.set_rng_state": lambda: torch.set_rng_state(STATE),
            "torch.random.manual_seed": lambda: torch.random.manual_seed(0),
            "torch.random.seed": lambda: torch.random.seed(),
            "torch.random.set_rng_state": lambda: torch.random.set_rng_state(STATE),
            "torch.cuda.manual_seed": lambda: torch.cuda.manual_seed(0),
            "torch.cuda.manual_seed_all": lambda: torch.cuda.manual_seed_all(0),
            "torch.cuda.seed": lambda: torch.cuda.seed(),
            "torch.cuda.set_rng_state": lambda: torch.cuda.set_rng_state(STATE, "cuda:0"),
        }.items()
    },
    "torch.random.fork_rng": refused(forks, "seeds torch's random numbers"),
    "torch.compiler.is_compiling": answers(asks(is_compiling)),
    "torch.compiler.is_exporting": answers(asks(is_exporting)),
    "torch._dynamo.external_utils.is_compiling": answers(
        asks(torch._dynamo.external_utils.is_compiling)
    ),
    "builtins.type": answers(lambda x: x * 2 if type(x.shape[2]) is int else x * 3),
    "builtins.isinstance": answers(lambda x: x * 2 if isinstance(x.shape[2], int) else x * 3),
    "builtins.int": answers(numbers_of_frames.by_half),
    "builtins.float": answers(numbers_of_frames.by_float),
    "builtins.divmod": answers(numbers_of_frames.by_remainder),
    "torch.nn.modules.module.register_module_forward_hook": keeps_its_layer,
    "logging.getLogger('torch').level": logs_nothing,
    "torch.compiler.set_stance": compiles_nothing,
}

_BY_REPR = "object's own asks __repr__, which is replaced: needed once torch has one in the class"
_NO = "torch answers no in the export that is made here: needed once it does not"
#: Where a patch stands -> why nothing differs without it, and what holds either way. Once torch
#: gives it a use this is seen to hold no longer: then it goes into SHOWN.
UNSEEN: dict[str, tuple[str, Callable[[], None]]] = {
    "torch.SymInt.__str__": (_BY_REPR, answers(lambda x: x * {"4": 2}[str(x.shape[3])])),
    "torch.SymFloat.__str__": (_BY_REPR, answers(lambda x: x * {"2.0": 2}[str(x.shape[3] / 2)])),
    "torch.SymBool.__str__": (_BY_REPR, answers(lambda x: x * {"True": 2}[str(x.shape[3] > 2)])),
    "torch.SymFloat.__hash__": (
        "torch makes a number of it, as for SymInt it does not",
        answers(lambda x: x * {2.0: 2}[x.shape[3] / 2]),
    ),
    "torch.compiler.is_dynamo_compiling": (
        _NO,
        answers(asks(torch.compiler.is_dynamo_compiling)),
    ),
    "torch.onnx.is_in_onnx_export": (_NO, answers(asks(torch.onnx.is_in_onnx_export))),
    "torch.jit.is_tracing": (_NO, answers(asks(torch.jit.is_tracing))),
}


def test_every_patch_is_shown_to_be_needed_or_said_why_not() -> None:
    assert len(PATCHES) == len(listed.PATCHES), "two of one name"
    assert {*SHOWN, *UNSEEN} == set(PATCHES)
    assert not SHOWN.keys() & UNSEEN.keys()
    assert all(patch.why and patch.tried for patch in listed.PATCHES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", SHOWN)
def test_without_the_patch_a_model_goes_wrong(where: str) -> None:
    SHOWN[where]()
    with (
        without(PATCHES[where]),
        # Not warned of; not refused; wrong; or not captured.
        pytest.raises((AssertionError, CaptureError, pytest.fail.Exception)),
    ):
        SHOWN[where]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", UNSEEN)
def test_a_patch_that_is_not_seen_is_said_truly_not_to_be(where: str) -> None:
    _, holds = UNSEEN[where]
    holds()
    with without(PATCHES[where]):
        holds()


def test_sizes_have_no_text_of_their_own_but_repr() -> None:
    assert not any("__str__" in vars(k) for k in (torch.SymInt, torch.SymFloat, torch.SymBool))


# --------------------------------------------------------------------------------- is it put back


def raises(x: Tensor) -> Tensor:
    raise ValueError("in forward")


def interrupted(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


EXPORTS: dict[str, tuple[Body, Callable[..., Any]]] = {
    "as it is": (numbers_of_frames.twice, torch.export.export),
    "interrupted": (numbers_of_frames.twice, interrupted),
    "of a model that can't be captured": (numbers_of_frames.eight, torch.export.export),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_after_a_capture_everything_is_as_it_was(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, export = EXPORTS[name]
    before = {where: patch.now() for where, patch in PATCHES.items()}
    meanwhile: list[dict[str, Any]] = []

    def looking(*args: Any, **kwargs: Any) -> Any:
        meanwhile.append({where: patch.now() for where, patch in PATCHES.items()})
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", looking)
    with contextlib.suppress(PgtError, KeyboardInterrupt):
        transformed(body)
    still = [where for where in PATCHES if meanwhile[0][where] == before[where]]
    assert still == ["torch.compiler.set_stance"], "which is for runs without compute alone"
    assert {where: patch.now() for where, patch in PATCHES.items()} == before


def test_after_an_error_of_the_model_everything_is_as_it_was() -> None:
    before = {where: patch.now() for where, patch in PATCHES.items()}
    with pytest.raises(Exception, match="in forward"):
        transformed(raises)
    assert {where: patch.now() for where, patch in PATCHES.items()} == before

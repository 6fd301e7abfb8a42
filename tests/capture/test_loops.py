"""Models that loop over their frames in Python, with a cache of their own or without: refused
before a capture, with the module inside the loop; and layers that a call does not reach."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracles import relative_error
from torch import Tensor, nn
from torch.nn import functional as F

import pgt_fx
from pgt_fx import hints
from pgt_fx.core.errors import BlockedError, ClipError, LoopError

T = 9


class Causal(nn.Module):
    """Three taps, the frames before in front: zeros, or those of a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        before = cache[0] if cache else x.new_zeros(x.shape[0], 4, 2)
        x = torch.cat([before, x], 2)
        if cache is not None:
            cache[:] = [x[:, :, -2:]]
        return self.conv(x)


class InChunks(nn.Module):
    """A list of its own, written anew in each turn; the first frame apart, as video autoencoders
    have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Causal()

    def forward(self, x: Tensor) -> Tensor:
        cache: list[Tensor] = []
        parts = [self.net(x[:, :, :1], cache)]
        for i in range(1, x.shape[2], 4):
            parts.append(self.net(x[:, :, i : i + 4], cache))  # turn
        return torch.cat(parts, 2)


class Returning(nn.Module):
    """The cache goes out with the answer, as a dictionary."""

    class Net(Causal):
        def forward(self, x: Tensor, cache: Any = None) -> Any:
            held = [] if cache is None else [cache["conv"]]
            return super().forward(x, held), {"conv": held[0]}

    def __init__(self) -> None:
        super().__init__()
        self.net = self.Net()

    def forward(self, x: Tensor) -> Tensor:
        cache, parts = None, []
        for piece in x.split(2, 2):
            part, cache = self.net(piece, cache=cache)  # turn
            parts.append(part)
        return torch.cat(parts, 2)


class FrameByFrame(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.net(frame) for frame in x.unbind(2)], 2)  # turn


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.GRUCell(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, out = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[2]):
            h = self.net(x[:, :, t], h)  # turn
            out.append(h)
        return torch.stack(out, 2)


class FewAtATime(nn.Module):
    """Frames as a batch, a few at a time to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(0, 1)
        rows = torch.cat([self.net(few) for few in rows.split(4)])  # turn
        return rows.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


@pytest.fixture
def no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture unrolls the loop: of a deep model this takes minutes."""

    def export(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("captured")

    monkeypatch.setattr(torch.export, "export", export)


@pytest.mark.parametrize(
    ("kind", "cache"),
    [
        (InChunks, "cache"),
        (Returning, "cache"),
        (FrameByFrame, ""),
        (Recurrent, ""),
        (FewAtATime, ""),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_loop_over_the_frames_is_told_without_a_capture(
    kind: type[nn.Module], cache: str, inside: bool, no_capture: None
) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1), kind()) if inside else kind()
    with pytest.raises(LoopError) as caught:
        pgt_fx.transform(model.eval(), torch.randn(1, 4, T), future="wait")
    text, place = str(caught.value), caught.value.place
    path = "1.net" if inside else "net"
    assert place is not None and place.module == path
    assert "test_loops.py:" in place.source and place.line.endswith("# turn")
    assert "loops over the frames in Python" in text
    assert f"Pass the module inside the loop, {path} of the class" in text
    assert f"{T}, 21 and 25 frames" in text
    own = "with a cache of its own (cache)" in text and "without cache" in text
    assert own == bool(cache) and ("cache" in text.split("\n", 1)[1]) == own


def test_it_is_told_of_a_model_that_asks_for_a_device(no_capture: None) -> None:
    class Asks(InChunks):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.ones(4, 1)

    with pytest.raises(LoopError, match=r"\(cache\)"):
        pgt_fx.transform(Asks().eval(), torch.randn(1, 4, T))


def test_the_module_inside_the_loop_in_steps_is_the_loop() -> None:
    model, x = InChunks().eval(), torch.randn(2, 4, 17)
    prog = pgt_fx.transform(model.net, x[:, :, :8], future="wait")
    with torch.no_grad():
        outs = [y for y in prog.run(x, schedule=[3, 1, 6, 7]) if y is not None]
        assert relative_error(torch.cat(outs, 2), model(x)) <= 1e-5


@pytest.mark.parametrize("inside", [False, True])
def test_one_turn_of_such_a_loop_is_told_without_a_capture(inside: bool, no_capture: None) -> None:
    """It returns a cache beside its answer, whichever way it takes the last frames."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Returning.Net()

        def forward(self, x: Tensor, cache: Any = None) -> Any:
            y, held = self.net(x, cache)
            return y, {"net": held["conv"].clone(), "own": x[:, :, x.shape[2] - 3 :]}

    model: Any = Outer() if inside else Returning.Net()
    with pytest.raises(LoopError) as caught:
        pgt_fx.transform(model.eval(), torch.randn(1, 4, T))
    text, place = str(caught.value), caught.value.place
    assert "is made for one chunk of a video" in text and "(see cache)" in text
    assert place is not None and "test_loops.py:" in place.source and "-2:" in place.line
    assert "Pass a module that computes the same over the whole video" in text
    assert ("2 tensors" if inside else "1 tensor ") in text


class LastFrame(nn.Module):
    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * 2, x[:, :, -1:].clone()


class LastChannels(nn.Module):
    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * 2, x[:, -2:]


class ButTheFirst(nn.Module):
    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * 2, x[:, :, 2:]


@pytest.mark.parametrize("kind", [LastFrame, LastChannels, ButTheFirst])
def test_what_is_returned_beside_the_answer_is_no_cache(kind: type[nn.Module]) -> None:
    prog = pgt_fx.transform(kind().eval(), torch.randn(1, 4, T), time_dim=2)
    x = torch.randn(1, 4, 20)
    for a, b in zip(prog.full(x), kind()(x), strict=True):
        assert torch.equal(a, b)


def test_the_last_frames_of_a_model_that_takes_no_cache_are_told_as_ever() -> None:
    class Tail(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x[:, :, -2:]

    with pytest.raises(BlockedError, match="takes the last 2 frames"):
        pgt_fx.transform(Tail().eval(), torch.randn(1, 4, T), time_dim=2)


def test_a_call_over_several_lines_is_quoted_as_one() -> None:
    class Several(FrameByFrame):
        def forward(self, x: Tensor) -> Tensor:
            out = []
            for frame in x.unbind(2):
                out.append(
                    self.net(  # of one frame
                        frame.add(sum([0, 1])),  # )
                    )
                )
            return torch.stack(out, 2)

    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.flip(
                x,
                [2],
            )

    with pytest.raises(LoopError) as loop:
        pgt_fx.transform(Several().eval(), torch.randn(1, 4, T))
    assert loop.value.place is not None
    assert loop.value.place.line == "self.net(frame.add(sum([0, 1])))"
    with pytest.raises(BlockedError) as blocked:
        pgt_fx.transform(Reversed().eval(), torch.randn(1, 4, T), time_dim=2)
    assert blocked.value.blockers[0].place.line == "return torch.flip(x, [2])"


class Often(nn.Module):
    """One layer, as often at any length."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.net(x).relu()) + x


class OverTheBatch(Often):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(row) for row in x.split(1)])


class MoreOften(Often):
    """Once more where the frames are not 4n + 1."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        return x if x.shape[2] % 4 == 1 else self.net(x)


@pytest.mark.parametrize("kind", [Often, OverTheBatch, MoreOften])
def test_what_is_called_several_times_is_no_loop(kind: type[nn.Module]) -> None:
    model, x = kind().eval(), torch.randn(3, 4, 21)
    prog = pgt_fx.transform(model, x[:, :, :T], future="wait")
    with torch.no_grad():
        outs = [y for y in prog.run(x, schedule=[8, 4, 9]) if y is not None]
        assert relative_error(torch.cat(outs, 2), model(x)) <= 1e-5


# ---- hints ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = dict(hints._HINTS)
    yield
    hints._HINTS.clear()
    hints._HINTS.update(before)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_registered_hint_stands_in_the_error(by_name: bool) -> None:
    class Derived(InChunks):
        pass

    hints.register("test_loops.InChunks" if by_name else InChunks, "pass whole(vae)")
    for model in (InChunks(), nn.Sequential(Derived())):
        with pytest.raises(LoopError, match=r"\nInChunks: pass whole\(vae\)$") as caught:
            pgt_fx.transform(model.eval(), torch.randn(1, 4, T))
        assert "Pass the module" not in str(caught.value)  # which may say something else
    diagnosis = pgt_fx.doctor.examine(InChunks(), torch.zeros(1, 4, T), time_dim=2)
    assert "InChunks: pass whole(vae)" in diagnosis.mixing[0].change


def test_it_stands_in_every_refusal() -> None:
    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(2)

    hints.register("test_loops.test_it_stands_in_every_refusal.<locals>.Reversed", "don't")
    for call in (pgt_fx.transform, pgt_fx.analyze):
        with pytest.raises(BlockedError, match=r"Reversed: don't$"):
            call(Reversed(), torch.randn(1, 4, T), time_dim=2)
    with pytest.raises(ClipError, match=r"Reversed: don't$"):
        pgt_fx.transform(Reversed(), torch.randn(4))


def test_of_nested_classes_the_outermost_hint_is_given_and_none_inside_the_form() -> None:
    hints.register(InChunks, "outer")
    hints.register(Causal, "inner", unless=["torch.Sequential"])
    assert hints.hints_for(InChunks()) == ["InChunks: outer"]
    assert hints.hints_for(InChunks().net) == ["Causal: inner"]
    assert hints.hints_for(nn.ModuleList([Causal(), Causal()])) == ["Causal: inner"]
    assert hints.hints_for(nn.Sequential(Causal())) == []


def test_the_zoo_s_forms_are_known_by_the_name_of_a_class_alone() -> None:
    vae = type("AutoencoderKLWan", (InChunks,), {"__module__": "diffusers.somewhere"})
    with pytest.raises(LoopError, match=r"pgt_fx\.zoo\.diffusers_vae\.whole_decoder\(vae\)"):
        pgt_fx.transform(vae().eval(), torch.randn(1, 4, T))


# ---- layers that a call does not reach --------------------------------------------------------


class Upsample(nn.Module):
    """Works along time when it is handed a cache, as Wan's."""

    def __init__(self) -> None:
        super().__init__()
        self.time_conv, self.mix = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        if cache is not None:
            x = torch.stack(self.time_conv(x).chunk(2, 1), 3).flatten(2, 3)
        return self.mix(x)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv1d(4, 4, 3, padding=1), Upsample()

    def forward(self, x: Tensor, cache: Any = None, first: bool = False) -> Tensor:
        return self.up(self.first(x), cache)


def test_layers_along_time_that_are_not_run_are_told() -> None:
    hints.register(Decoder, "pass whole(vae)")
    x = torch.randn(1, 4, T)
    with pytest.warns(UserWarning, match=r"up\.time_conv\nDecoder: pass whole") as caught:
        prog = pgt_fx.transform(Decoder().eval(), (x,))
    assert "(its arguments cache=, first= were left out)" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert prog.report.idle == ["up.time_conv"] and prog.report.to_dict()["idle"]
    assert "not run           up.time_conv" in str(prog.report)
    with pytest.warns(UserWarning, match=r"\(its arguments first= were left out\)"):
        pgt_fx.transform(Decoder().eval(), {"x": x, "cache": None})
    with pytest.warns(UserWarning, match="time_conv"):
        pgt_fx.doctor.examine(Decoder().eval(), x, time_dim=2)


class Frames(nn.Module):
    """Another argument runs a layer that works within a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor, more: bool = False) -> Tensor:
        return self.mix(self.first(x)) if more else self.first(x)


def test_layers_within_a_frame_that_are_not_run_are_no_matter() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prog = pgt_fx.transform(Frames().eval(), torch.randn(1, 4, T))
    assert prog.report.idle == ["mix"]


class Quiet(nn.Module):
    """Layers that are not called, and nothing is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.up, self.head = Decoder(), Upsample(), nn.Linear(4, 4)
        self.weights = nn.Conv1d(4, 4, 3)  # read, and not called
        self.left = nn.Conv1d(4, 4, 3)  # no argument would run it

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.conv1d(x, self.weights.weight, padding=1), cache=[])
        return x


def test_layers_that_nothing_would_run_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prog = pgt_fx.transform(Quiet().eval(), torch.randn(1, 4, T))
    assert prog.report.idle == ["head", "left"]

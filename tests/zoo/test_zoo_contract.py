"""The contract on real backbones, all norms redrawn, at a small space.

By default every model runs with few frames; ``--slow`` adds longer videos and a larger
space. Capturing a backbone costs more than running it, so each worker keeps the last
one; run in parallel with ``-n 2 --dist loadgroup``, which keeps a model on one worker.
"""

from __future__ import annotations

import copy
import functools
import random
import zlib
from typing import Any

import pytest
import torch
from oracles import (
    cut_masked,
    ends,
    error_per_frame,
    pieces,
    random_chunks,
    relative_error,
    sensitive_to_time,
    stitch,
)
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pgt_fx
from pgt_fx import zoo
from pgt_fx.core.errors import PgtError

pytestmark = pytest.mark.full

EXACT = 1e-9
FLOAT32 = 1e-4
#: Above rounding (some 1e-15), below what a frame at the rim of a deep receptive field weighs.
NOISE = 1e-13
CHUNKINGS = 5
SPACE = 32

NAMES = [
    "r3d_18", "mc3_18", "r2plus1d_18", "s3d",
    "slow_r50", "c2d_r50", "i3d_r50", "r2plus1d_r50", "csn_r101", "slowfast_r50",
    "x3d_xs", "x3d_s", "x3d_m",
]  # fmt: skip
X3D = [name for name in NAMES if name.startswith("x3d")]
#: Two pools that must agree: at other lengths than the clip's only `full` is a reference.
FIXED_LENGTH = {"slowfast_r50"}
#: No window of this model reads ahead of a cut: a pool of tiles is its only temporal operator.
ALWAYS_EXACT = {"c2d_r50"}


def per_model(names: list[str]) -> Any:
    """Parametrised by name, and all tests of a name on the same worker."""
    marks = [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names]
    return pytest.mark.parametrize("name", marks)


def test_the_list_of_models_is_the_zoo_s() -> None:
    assert set(NAMES) <= set(zoo.names())


# ------------------------------------------------------------------ what is tested


def clip_frames(name: str) -> int:
    """T': frames of one clip; of two paths, those of the slow one."""
    return min(zoo.get(name).clip)


def clip(name: str, frames: int, space: int = SPACE, seed: int = 1) -> Any:
    """A video of `frames`; of two paths, of so many in the slow one."""
    lengths = zoo.get(name).clip
    per_path = [frames * length // min(lengths) for length in lengths]
    return zoo.clip(
        name,
        space=space,
        frames=per_path[0] if len(per_path) == 1 else per_path,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


def call(module: Any, video: Any, **options: Any) -> Any:
    """Runs without gradient on a list of its own: slowfast_r50 writes into what it is given."""
    with torch.no_grad():
        return module(list(video) if isinstance(video, list) else video, **options)


@functools.lru_cache(maxsize=1)
def model(name: str, space: int = SPACE) -> nn.Module:
    return zoo.build(name, space=space, seed=0, redraw_norms=True).double()


@functools.lru_cache(maxsize=1)
def features(name: str, space: int = SPACE) -> tuple[nn.Module, Any]:
    """Stem and stages, and the same turned progressive."""
    backbone = zoo.features(name, model(name, space))
    example = clip(name, clip_frames(name), space, seed=2)
    return backbone, pgt_fx.transform(backbone, listed(example), future="wait")


@functools.lru_cache(maxsize=1)
def logits(name: str, space: int = SPACE) -> tuple[nn.Module, Any]:
    whole = model(name, space)
    example = clip(name, clip_frames(name), space, seed=2)
    return whole, pgt_fx.transform(whole, listed(example), future="wait", pooling="running")


def listed(video: Any) -> Any:
    return list(video) if isinstance(video, list) else video


def run(prog: Any, video: Any, chunks: list[int]) -> list[Any]:
    prog.reset()
    clips = pieces(video, chunks)
    return [call(prog, c, last=i == len(clips) - 1) for i, c in enumerate(clips)]


def chunkings(name: str, frames: int, count: int = CHUNKINGS) -> list[list[int]]:
    """Random cuts into chunks of 1 to 2T' frames, the same in every run."""
    rng = random.Random(zlib.crc32(name.encode()))
    return [random_chunks(frames, 2 * clip_frames(name), rng) for _ in range(count)]


# ------------------------------------------------------------------------- exact


def check_exact_features(name: str, frames: int, space: int) -> None:
    backbone, prog = features(name, space)
    video = clip(name, frames, space)
    assert sensitive_to_time(backbone, listed(video))
    whole = call(backbone, video)
    with torch.no_grad():
        assert relative_error(prog.full(listed(video)), whole) <= EXACT
    for chunks in chunkings(name, frames):
        assert relative_error(stitch(run(prog, video, chunks)), whole) <= EXACT, chunks


@per_model(NAMES)
def test_features_are_exact_under_wait(name: str) -> None:
    check_exact_features(name, clip_frames(name) * 2 + 3, SPACE)


@pytest.mark.slow
@per_model(NAMES)
def test_features_are_exact_under_wait_on_long_videos(name: str) -> None:
    check_exact_features(name, clip_frames(name) * 5 + 3, 2 * SPACE)


def check_exact_logits(name: str, frames: int, space: int) -> None:
    whole, prog = logits(name, space)
    video = clip(name, frames, space)
    with torch.no_grad():
        reference = prog.full(listed(video))
    if name in FIXED_LENGTH and frames != clip_frames(name):
        with pytest.raises(RuntimeError):  # else the model itself would be the reference
            call(whole, video)
    else:
        assert sensitive_to_time(whole, listed(video))
        assert relative_error(reference, call(whole, video)) <= EXACT
    for chunks in chunkings(name, frames):
        answer = run(prog, video, chunks)[-1]
        assert answer is not None, "the last step must answer"
        assert relative_error(answer, reference) <= EXACT, chunks


@per_model([n for n in NAMES if n not in X3D])
def test_logits_are_exact_at_the_last_step(name: str) -> None:
    check_exact_logits(name, clip_frames(name) * 2 + 3, SPACE)


@per_model(sorted(FIXED_LENGTH))
def test_logits_of_the_clip_itself_are_the_model_s(name: str) -> None:
    check_exact_logits(name, clip_frames(name), SPACE)


@pytest.mark.slow
@per_model([n for n in NAMES if n not in X3D])
def test_logits_are_exact_at_the_last_step_of_long_videos(name: str) -> None:
    check_exact_logits(name, clip_frames(name) * 5 + 3, 2 * SPACE)


@per_model(NAMES)
def test_float32_stays_close(name: str) -> None:
    backbone, prog = features(name)
    single, narrow = copy.deepcopy(backbone).float(), copy.deepcopy(prog).float()
    frames = clip_frames(name) + 5
    video = pytree.tree_map(Tensor.float, clip(name, frames))
    assert sensitive_to_time(single, listed(video), threshold=10 * FLOAT32)
    whole = call(single, video)
    for chunks in chunkings(name, frames, 2):
        answer = stitch(run(narrow, video, chunks))
        assert all(x.dtype == torch.float32 for x in pytree.tree_leaves(answer))
        assert relative_error(answer, whole) <= FLOAT32, chunks


# ------------------------------------------------------------ squeeze-excitation


def squeezes(module: nn.Module) -> list[str]:
    return [n for n, m in module.named_modules() if type(m).__name__ == "SqueezeExcitation"]


@per_model(X3D)
def test_squeeze_excitation_is_refused_by_name(name: str) -> None:
    whole = model(name)
    example = clip(name, clip_frames(name))
    paths = squeezes(whole)
    assert paths
    with pytest.raises(PgtError) as refusal:
        pgt_fx.transform(whole, example, future="wait", pooling="running", strict=True)
    for path in paths:
        assert path in str(refusal.value), "all that stands in the way, at once"


@per_model(X3D)
def test_squeeze_excitation_is_reported_where_accepted(name: str) -> None:
    whole = model(name)
    frames = clip_frames(name)
    video = clip(name, frames)
    prog = pgt_fx.transform(whole, clip(name, frames, seed=2), future="wait", strict=False)
    assert prog.report.exact is False
    for path in squeezes(whole):
        assert path in str(prog.report)
    # One step over the clip is still the model: the policy shows only between steps.
    with torch.no_grad():
        assert relative_error(prog.full(video), call(whole, video)) <= EXACT


# -------------------------------------------------------------------- progressive


def revealing_chunks(name: str, prog: Any) -> tuple[list[int], list[bool]]:
    """Chunks long enough that some frames are exact, and some are not."""
    base = clip_frames(name)
    for length in (base, 2 * base, 3 * base, 4 * base, 6 * base, 8 * base):
        chunks = [length, length, max(2, base // 2)]
        flags = prog.exact_frames(chunks)
        # The last chunk alone proves little: nothing is missing behind it.
        if any(flags[: len(flags) // 2]):
            return chunks, flags
    raise AssertionError("no chunk of eight clips gives an exact frame")


def check_progressive(name: str) -> None:
    backbone, waiting = features(name)
    prog = waiting.replace(future="zero")
    chunks, flags = revealing_chunks(name, prog)
    video = clip(name, sum(chunks))
    assert sensitive_to_time(backbone, listed(video))
    assert any(flags) and (all(flags) == (name in ALWAYS_EXACT))

    outputs = run(prog, video, chunks)
    assert all(y is not None for y in outputs), "every step answers at once"
    answer, whole = stitch(outputs), call(backbone, video)
    paths = [video] if isinstance(video, Tensor) else video
    ratios = [x.shape[2] // sum(chunks) for x in paths]
    cuts = [[n * r for r in ratios] for n in ends(chunks)]
    masked = cut_masked(backbone, listed(video), cuts if len(ratios) > 1 else [c[0] for c in cuts])
    assert relative_error(answer, masked) <= EXACT

    # Of two paths the flags are those of the first.
    first, reference = pytree.tree_leaves(answer)[0], pytree.tree_leaves(whole)[0]
    errors = error_per_frame(first, reference, 2).tolist()
    assert len(flags) == len(errors)
    for i, (flag, error) in enumerate(zip(flags, errors, strict=True)):
        if flag:
            assert error <= EXACT, f"frame {i} is said to be exact"
        else:
            assert error > NOISE, f"frame {i} is exact, and said not to be"


#: Receptive fields of hundreds of frames: chunks that show an exact frame take minutes.
DEEP = {"csn_r101", "r3d_18", "r2plus1d_18", "s3d", "r2plus1d_r50"}


@per_model([n for n in NAMES if n not in DEEP])
def test_progressive_frames(name: str) -> None:
    check_progressive(name)


@pytest.mark.slow
@per_model(sorted(DEEP))
def test_progressive_frames_of_deep_models(name: str) -> None:
    check_progressive(name)


@per_model(sorted(DEEP))
def test_progressive_frames_of_deep_models_are_the_cut_mask_s(name: str) -> None:
    """At chunks of about a clip: no frame need be exact, all must be what the mask says."""
    backbone, waiting = features(name)
    prog = waiting.replace(future="zero")
    chunks = [clip_frames(name), 1, clip_frames(name) // 2 + 1]
    video = clip(name, sum(chunks))
    assert sensitive_to_time(backbone, video)
    masked = cut_masked(backbone, video, ends(chunks))
    assert relative_error(stitch(run(prog, video, chunks)), masked) <= EXACT
    whole = call(backbone, video)
    for flag, error in zip(
        prog.exact_frames(chunks), error_per_frame(masked, whole, 2).tolist(), strict=True
    ):
        assert error <= EXACT if flag else error > NOISE


# ------------------------------------------------------------------- edges of use


@per_model(["r3d_18"])
def test_a_refused_chunk_leaves_the_state_intact(name: str) -> None:
    backbone, prog = features(name)
    video = clip(name, 12)
    whole = call(backbone, video)
    prog.reset()
    outputs = [call(prog, video[:, :, :7])]
    rest = video[:, :, 7:]
    for wrong in (rest[:, :, :0], rest[..., : SPACE // 2], rest.expand(2, -1, -1, -1, -1)):
        with pytest.raises(PgtError):
            call(prog, wrong)
    outputs.append(call(prog, rest, last=True))
    assert relative_error(stitch(outputs), whole) <= EXACT


@per_model(["slow_r50"])
def test_a_video_shorter_than_the_look_ahead(name: str) -> None:
    backbone, prog = features(name)
    for frames in (1, 2, 5):  # slow_r50 looks nine frames ahead
        video = clip(name, frames)
        outputs = run(prog, video, [1] * frames)
        assert all(y is None for y in outputs[:-1]), "nothing is due before the end"
        assert relative_error(outputs[-1], call(backbone, video)) <= EXACT


@per_model(["r3d_18"])
def test_rows_of_a_batch_never_mix(name: str) -> None:
    backbone, prog = features(name)
    rows = torch.cat([clip(name, 11, seed=s) for s in (3, 4)])
    spoilt = rows.clone()
    spoilt[1, :, 4] = float("nan")
    outputs = stitch(run(prog, spoilt, [3, 4, 4]))
    assert outputs[1].isnan().any()
    assert relative_error(outputs[:1], call(backbone, rows)[:1]) <= EXACT

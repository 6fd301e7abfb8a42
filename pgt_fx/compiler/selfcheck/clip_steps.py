"""Two clips, one after the other, of a model whose step is a clip.

Each answer is the model's own for that clip; with keys and values of the clip before, that of the
first one, and that of the same clip fed once more: every key is then there twice, which changes no
weighted mean, as long as none is put where another one stands.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pgt_fx.compiler.selfcheck.compare import Difference, tried
from pgt_fx.compiler.selfcheck.copies import Trial
from pgt_fx.compiler.selfcheck.measure import error
from pgt_fx.compiler.selfcheck.videos import Video


def clip_steps(trial: Trial) -> Difference | None:
    """The first difference there."""
    prog, frames = trial.prog, trial.length
    first, other = trial.first(frames), trial.video(frames, salt=5)
    memory = prog.options.memory is not None
    again = memory and all(
        k.rotary is None and all(t.kind == "mask" for t in k.tables.values())
        for k in prog.inspect.captured.clip_keys
    )
    second = first if again else other
    video = _joined(trial, first, second)
    chunks = (frames, frames)
    ran = tried(trial, prog, 2 * frames, chunks, lambda: trial.run(prog, video, chunks))
    if isinstance(ran, Difference):
        return ran
    if ran is None:
        return None
    pairs: list[tuple[Any, Any]] = [(ran[0], trial.answer)]
    if again or not memory:
        wanted = trial.answer if again else trial.alone(partial(trial.plain, second))
        pairs.append((ran[1], wanted))
    for number, (got, right) in enumerate(pairs):
        gap = error(got, right)
        if gap > trial.bound:
            words = f"is off by {gap:.0e} in clip {number + 1}"
            # The clip in which it is, as the model itself takes no two.
            return Difference(trial, prog, (first, second)[number], chunks, gap, words)
    return None


def _joined(trial: Trial, first: Video, second: Video) -> Video:
    out = list(first)
    for i in trial.spec.paths:
        if isinstance(out[i], Tensor):
            out[i] = torch.cat([first[i], second[i]], trial.spec.times[i] or 0)
    return out

"""What the pytest plugin's options and configuration require of models.

Nothing here imports torch before a model was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgt_fx.testing.verify.required import Requirements


def add_options(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    """``--pgt-require`` and its limits; each may stand in the configuration as well."""
    group.addoption(
        "--pgt-require",
        action="append",
        default=[],
        metavar="WORD",
        help="what has to hold: exact, causal, one-way, gradients, or the id of a promise (may be "
        "given several times)",
    )
    group.addoption(
        "--pgt-max-look-ahead", metavar="N", help="frames after its own that an output may read"
    )
    group.addoption(
        "--pgt-max-state",
        metavar="BYTES",
        help="bytes that may be carried from step to step, such as 4MiB: at the clip's space and "
        "dtype, for a batch of one",
    )
    parser.addini("pgt_require", "as --pgt-require, beside it", type="linelist", default=[])
    parser.addini("pgt_max_look_ahead", "as --pgt-max-look-ahead, which goes before it")
    parser.addini("pgt_max_state", "as --pgt-max-state, which goes before it")


def required_of(config: pytest.Config, *, plain: bool) -> Requirements:
    """What options and configuration require.

    Args:
        plain: of a model that is measured as it is. What has no meaning for it (a state, exactness)
            is left to progressive models, where there are any to ask it of.

    Raises:
        OptionError: for an unknown word, or a limit that is no number.
    """
    from pgt_fx.core.errors import OptionError
    from pgt_fx.testing.verify.required import known_words, requirements

    words = [*config.getini("pgt_require"), *config.getoption("--pgt-require")]
    ahead = config.getoption("--pgt-max-look-ahead") or config.getini("pgt_max_look_ahead") or None
    state = config.getoption("--pgt-max-state") or config.getini("pgt_max_state") or None
    if ahead is not None and not str(ahead).isdecimal():
        raise OptionError(f"max_look_ahead: expected a number of frames, 0 or more, got {ahead!r}")
    frames = None if ahead is None else int(ahead)
    if has_kind(config, not plain):
        # Each word has to mean something for one kind of models; and then it is asked of that.
        other = set(known_words(not plain)) - set(known_words(plain))
        words = [word for word in words if word not in other]
        if plain:
            state, frames = None, 0 if frames == 0 else None
    return requirements(words, frames, state, plain=plain)


def has_kind(config: pytest.Config, plain: bool) -> bool:
    """Whether there are models to be measured as they are, or progressive ones, in this run."""
    kind, option, ini = (
        ("pgt-causal:", "--pgt-causal", "pgt_causal")
        if plain
        else ("pgt-model:", "--pgt-model", "pgt_models")
    )
    by_id = any(kind in str(arg) for arg in config.args)
    return bool(by_id or config.getoption(option) or config.getini(ini))

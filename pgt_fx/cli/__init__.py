"""The command line: ``pgt-fx COMMAND``, one file per command.

Exit codes: 0 it holds; 1 a promise is violated; 2 it could not be checked: a wrong argument, an
unknown model, one that can't be made progressive, or an error that nobody foresaw. 130: Ctrl-C;
141: the reader of a pipe went away (``| head``).

Nothing here imports torch before a command needs it: ``--help`` and a mistyped option answer at
once. ``app`` is made when it is first asked for, so that ``main`` can answer a Ctrl-C meanwhile.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgt_fx.cli.commands import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    if name == "app":
        from pgt_fx.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Entry point; ends the process with the exit code."""
    try:
        from pgt_fx.cli.commands import app

        app()
    except KeyboardInterrupt:  # outside of a command: while this was imported
        sys.exit(130)
    finally:
        # What Python tears down now has nothing to say to another Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

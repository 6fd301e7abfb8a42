"""How a command ends, whatever happens in it: the message that is printed and the exit code.

A command prints what it found and raises ``typer.Exit`` with its verdict. Any other exception is no
verdict: one message on stderr says it, ``pgt-fx: error: …``, and the exit code is 2. So no command
has to catch an exception that it does not understand, and none may.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pgt_fx.cli.talk import HOLDS, INTERRUPTED, NO_READER, UNCHECKED
from pgt_fx.core.errors import (
    CaptureError,
    ClipError,
    CompileError,
    PgtError,
    VerificationError,
    out_of_memory,
)
from pgt_fx.core.terminal import columns, plain

PROG = "pgt-fx"
#: Options of ``pgt_fx.transform``, as errors name them: each followed by a sign of equality.
_KEYWORDS = "time_dim|operator|future|pooling|clip_pools|strict|attention|check"
#: Errors of this package whose cause may be an error of the user's model.
OF_A_MODEL = (CaptureError, ClipError, CompileError, VerificationError)
#: What typer's parser raises. Releases of typer have it from click, or as their own.
UsageError: Any = typer.BadParameter.__mro__[1]


class Command(TyperCommand):
    """A command whose help is as wide, and as plain, as everything else that is printed."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _fit_help()
        super().format_help(ctx, formatter)


class Door(TyperGroup):
    """All commands, and the one place where what they raise becomes an exit code."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _fit_help()
        super().format_help(ctx, formatter)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run a command and exit; with ``standalone_mode=False`` as typer's own."""
        if not extra.get("standalone_mode", True):
            return super().main(args, *rest, **extra)
        sys.exit(enter(self, sys.argv[1:] if args is None else list(args)))


def enter(command: Any, args: list[str]) -> int:
    """Run a command line; the exit code. Raises nothing."""
    context: Any = None

    def work() -> int:
        nonlocal context
        context = command.make_context(PROG, list(args))
        with context:
            command.invoke(context)
        return HOLDS

    def options() -> dict[str, str]:
        """Options of the command that runs, by the name of their value in Python."""
        name = None if context is None else context.invoked_subcommand
        invoked = getattr(command, "commands", {}).get(name)
        parameters = invoked.params if invoked is not None else []
        return {p.name: p.opts[-1] for p in parameters if p.opts and p.opts[-1].startswith("--")}

    def debug() -> bool:
        return context is not None and bool(context.params.get("debug"))

    return guarded(work, args, debug, options)


def guarded(
    work: Callable[[], int],
    args: list[str],
    debug: Callable[[], bool],
    options: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """The exit code of some work; what it raises is printed as a message. Raises nothing.

    Args:
        work: gives its exit code, or raises ``typer.Exit`` with it.
        args: of the command line, for a message that says how to run it again.
        debug: whether the traceback of an error is shown; asked when there is one.
        options: what a keyword that an error names is called here; asked when there is one.
    """
    with _interrupts() as interrupted, warnings.catch_warnings():
        # torch says so wherever NumPy is not installed, which nothing here needs.
        warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
        try:
            try:
                code = work()
            except typer.Exit as verdict:
                code = verdict.exit_code
            # Here, and not where Python ends: there a reader that is gone would go unanswered.
            if sys.stdout is not None:  # it is None where it was closed before this began
                sys.stdout.flush()
            return code
        except BaseException as error:
            return _answer(error, args, debug(), bool(interrupted), options)


def _answer(
    error: BaseException,
    args: list[str],
    debug: bool,
    interrupted: bool,
    options: Callable[[], Mapping[str, str]],
) -> int:
    with contextlib.suppress(OSError):  # stderr may have no reader either
        if interrupted or isinstance(error, KeyboardInterrupt):
            _say("interrupted", "")
            return INTERRUPTED
        if _no_reader(error):
            return NO_READER
        usage = isinstance(error, UsageError)
        if debug and (not usage or _hides_a_cause(error)):
            traceback.print_exception(error)
        text = _of_usage(error) if usage else _of(error)
        if isinstance(error, PgtError):
            with contextlib.suppress(Exception):  # the error is printed whatever else is wrong
                text = in_options(text, options())
        if _hides_a_cause(error) and not debug:
            again = shlex.join([PROG, "--debug", *args])
            text += f"\n    run again with --debug for the traceback: {again}"
        _say("error: ", text)
    return UNCHECKED


def _say(kind: str, text: str) -> None:
    head = f"{PROG}: {kind}"
    typer.echo((head if plain() else typer.style(head, fg="red", bold=True)) + text, err=True)


def _of(error: BaseException) -> str:
    """What one error says, without a traceback."""
    if isinstance(error, PgtError):  # these say themselves what was seen and what to do
        return str(error)
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):  # what it had to say
            return error.code
        return f"something called sys.exit({error.code!r}), which is no verdict of {PROG}"
    # torch may append the frames of its own C++ to its message.
    said = str(error).partition("\nException raised from ")[0].strip()
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"out of memory; a smaller clip needs less ({text})" if out_of_memory(error) else text


def in_options(text: str, options: Mapping[str, str]) -> str:
    """What an error says with the keywords of Python as the options that the command has for them;
    and how to give those of ``transform`` that it has no option for.

    >>> in_options("pass time_dim=2, or strict=False", {"time_dim": "--time-dim"})[:32]
    'pass --time-dim 2, or strict=Fal'
    """

    def named(found: re.Match[str]) -> str:
        name, value = found[1], found[2] or ""
        if name not in options or value.startswith("["):
            return found[0]
        return f"{options[name]} {value}" if value else options[name]

    text = re.sub(rf"\b({_KEYWORDS})=(\w+|\[|\"[\w-]+\"|'[\w-]+')?", named, text)
    text = re.sub(r"^(\w+): ", lambda m: f"{options.get(m[1], m[1])}: ", text)
    left = sorted({m[1] for m in re.finditer(rf"\b({_KEYWORDS})=", text)})
    if left and "time_dim" in left + list(options):
        names = ", ".join(f"{name}=" for name in left)
        text += (
            f"\n    {names}: of pgt_fx.transform, which a factory of yours may call itself, and "
            "give what it returns: package.module:factory"
        )
    return text


def _of_usage(error: Any) -> str:
    """What was wrong in how the command was called."""
    if _own(error):
        return str(error.message)
    said = error.format_message().rstrip(".")
    text = said[:1].lower() + said[1:]
    context = error.ctx
    if context is None:
        return text
    option = getattr(error, "option_name", "")
    root = context.find_root()
    if context is not root and any(option in p.opts for p in root.command.params):
        text += f"; {option} goes before the command: {PROG} {option} {context.info_name}"
    return f"{text}\n    what can be given: {context.command_path} --help"


def _own(error: Any) -> bool:
    """Whether a command refuses what it was given, and not typer's parser."""
    plain_one = type(error) is typer.BadParameter
    return plain_one and error.param is None and error.param_hint is None


def _hides_a_cause(error: BaseException) -> bool:
    """Whether a traceback would say more than the message does."""
    cause = error.__cause__
    if isinstance(error, PgtError):  # else it is about what was asked for, and says all
        return cause is not None and isinstance(error, OF_A_MODEL)
    if isinstance(error, UsageError):
        return cause is not None and _own(error)
    return True


# -- pipes and signals ---------------------------------------------------------------------------


def _no_reader(error: BaseException) -> bool:
    """Whether this is stdout's or stderr's pipe, closed at its other end (``| head``); then what is
    still to be written goes nowhere, without a complaint when Python ends."""
    # Rich exits with 1 where its pipe is closed.
    broken = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(broken, BrokenPipeError):
        return False
    closed = [number for number in (1, 2) if _closed(number)]
    for number in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(closed) or broken is not error


def _closed(number: int) -> bool:
    """Whether nobody reads what is written to a pipe; False also where that can't be known."""
    if not hasattr(select, "poll"):  # Windows
        return number == 1
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note that Ctrl-C was pressed, and raise KeyboardInterrupt as always.

    A C extension that is being imported may make another error of that, and a destructor loses it:
    then the next Ctrl-C ends the process at once.
    """
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _fit_help() -> None:
    """Typer's help asks the terminal of stdin for its width, and NO_COLOR leaves its bold."""
    from typer import rich_utils

    rich_utils.MAX_WIDTH = columns()
    rich_utils.COLOR_SYSTEM = None if plain() else "auto"

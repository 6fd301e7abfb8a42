"""The door of the command line: exit codes, one style of refusal, pipes, Ctrl-C, a base install."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

import pgt_fx
from pgt_fx.cli import app, script
from pgt_fx.core.errors import PgtError
from pgt_fx.runtime.markov.window import MarkovWindow
from pgt_fx.testing.verify.result import Check, Verification

PREFIX = "pgt-fx: error: "
AGAIN = "run again with --debug for the traceback: pgt-fx --debug "
COMMANDS = ("demo", "analyze", "verify", "doctor", "train", "erf", "fuzz", "zoo", "bench")

SOURCE = """
    import os, signal, sys, time
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.conv(x))

    class Fails(nn.Module):
        def forward(self, x):
            raise KeyError("no such key")

    class Imports(nn.Module):
        def forward(self, x):
            import not_to_be_found
            return x

    class Hungry(nn.Module):
        def forward(self, x):
            torch.empty(10**15)
            return x

    CLIP = torch.zeros(1, 3, 4, 6, 6)
    pair = lambda: (Tiny(), CLIP)
    fails = lambda: (Fails(), CLIP)
    imports = lambda: (Imports(), CLIP)
    hungry = lambda: (Hungry(), CLIP)

    def raises():
        return {}["of the factory"]

    def quits():
        sys.exit(1)

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    def hides_it():
        try:
            interrupted()
        except BaseException:
            raise ImportError("what a C extension makes of it")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A folder with a module of models, the current one; the module's name."""
    name = f"door_models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    return name


def run(*args: str, **env: str) -> Result:
    return CliRunner().invoke(app, list(args), env={"TERM": "dumb", **env})


def refused(result: Result) -> str:
    """The message of a refusal, which has one form."""
    assert result.exit_code == 2, (result.exit_code, result.output)
    before, found, message = result.stderr.partition(PREFIX)
    # The demo has told what it does by then.
    assert found and (not before or before.startswith("pgt-fx demo:")), result.output
    assert (not before or before.endswith("\n")) and not result.stdout, result.output
    assert "Traceback" not in result.stderr
    return message


# ------------------------------------------------------------- what nobody foresaw

#: What a command calls first of all that does its work, and how to get there.
FIRST = {
    "demo": ("pgt_fx.cli.demo.run.run", ()),
    "analyze": ("pgt_fx.zoo.build", ("r3d_18",)),
    "verify": ("pgt_fx.zoo.build", ("r3d_18",)),
    "doctor": ("pgt_fx.zoo.build", ("r3d_18",)),
    "train": ("pgt_fx.cli.train_job.read_config", ("a.toml",)),
    "erf": ("pgt_fx.zoo.build", ("r3d_18",)),
    "fuzz": ("pgt_fx.testing.fuzz.campaign.fuzz", ()),
    "zoo": ("pgt_fx.zoo.names", ()),
    "bench": ("pgt_fx.cli.bench.benchmarks", ("step",)),
}
FOREIGN = (
    KeyError("pool"),
    ImportError("libcudart.so: cannot open shared object file"),
    RuntimeError("mat1 and mat2\nException raised from mm at ATen.cpp:5\nframe #0"),
    MemoryError(),
    SystemExit(1),
    ValueError("of torch"),
    BrokenPipeError("a worker is gone"),
)


@pytest.mark.parametrize("error", FOREIGN, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_foreign_error_looks_like_a_verdict(
    command: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if command == "erf":
        pytest.importorskip("matplotlib")

    def broken(*args: Any, **options: Any) -> None:
        raise error

    where, args = FIRST[command]
    monkeypatch.setattr(where, broken)
    said = refused(run(command, *args))
    assert f"{AGAIN}{' '.join((command, *args))}" in said
    assert "frame #0" not in said
    assert (str(error).splitlines() or ["out of memory"])[0].strip("'") in said
    shown = run("--debug", command, *args)
    assert shown.exit_code == 2 and "in broken" in shown.stderr and AGAIN not in shown.stderr


@pytest.mark.parametrize(
    "name, words",
    [("raises", "KeyError: 'of the factory'"), ("quits", "failed: SystemExit: 1")],
)
def test_a_factory_that_raises_is_told_and_traced(here: str, name: str, words: str) -> None:
    said = refused(run("analyze", f"{here}:{name}"))
    assert words in said and f"{AGAIN}analyze {here}:{name}" in said
    shown = run("--debug", "analyze", f"{here}:{name}")
    assert f"in {name}" in shown.stderr and "Traceback" in shown.stderr
    assert shown.exit_code == 2 and PREFIX in shown.stderr


@pytest.mark.parametrize("command", ["verify", "doctor", "analyze", "verify --causal"])
@pytest.mark.parametrize("name", ["fails", "imports", "hungry"])
def test_a_model_that_fails_by_itself_gets_no_verdict(here: str, command: str, name: str) -> None:
    said = refused(run(*command.split(), f"{here}:{name}"))
    words = {
        "fails": "no such key",
        "imports": "No module named 'not_to_be_found'",
        "hungry": "can't allocate memory",
    }
    assert words[name] in said and AGAIN in said


def test_a_check_that_runs_out_of_memory_violates_nothing(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(MarkovWindow, "forward", forward)
    said = refused(run("verify", f"{here}:pair", "--check", "reset", "--chunkings", "1"))
    assert said.startswith("out of memory")


def test_a_fuzzed_graph_that_runs_out_of_memory_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("hypothesis")

    def check(case: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("pgt_fx.testing.fuzz.campaign.check", check)
    monkeypatch.setattr("pgt_fx.testing.fuzz.campaign.BATCH", 3)
    said = refused(run("fuzz", "--minutes", "0.5", "--output", str(tmp_path)))
    assert said.startswith("out of memory") and not list(tmp_path.iterdir())


def test_what_the_package_raises_has_one_base() -> None:
    from pgt_fx import zoo
    from pgt_fx.inference.video import VideoError, read

    errors = (zoo.UnknownModelError, zoo.MissingPackageError, zoo.FeaturesError, VideoError)
    assert all(issubclass(e, PgtError) for e in (*errors, zoo.InflationError))
    for refuse in (
        lambda: zoo.clip("slow_r50", space=33),
        lambda: zoo.clip("slow_r50", frames=[1, 2]),
        lambda: zoo.build("c3d", pretrained=True),
        lambda: zoo.Temporal(every=0),
        lambda: read("a.mp4", stride=0),
    ):
        with pytest.raises(PgtError) as told:
            refuse()
        assert isinstance(told.value, ValueError)  # as before they had a type of their own


def test_a_benchmark_is_behind_the_door_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", list(sys.argv))
    path = tmp_path / "one.py"
    path.write_text(
        "import argparse, sys\n"
        "cli = argparse.ArgumentParser(prog='pgt-fx bench one')\n"
        "cli.add_argument('--at', type=int)\n"
        "at = cli.parse_args().at\n"
        "assert __name__ == '__main__' and sys.argv[0] == __file__\n"
        "if at: sys.exit('--at: not here')\n"
        "print(1 // at)\n"
    )
    for args, words in (
        (["--at", "0"], f"ZeroDivisionError: integer division or modulo by zero\n    {AGAIN}"),
        (["--at", "1"], "--at: not here"),
        (["--oops"], "unrecognized arguments: --oops\n    what can be given: pgt-fx bench one"),
    ):
        assert script.run(str(path), args) == 2
        assert capsys.readouterr().err.startswith(PREFIX + words)
    assert script.run(str(path), ["--at", "0"], debug=True) == 2
    assert "print(1 // at)" in capsys.readouterr().err
    assert script.run(str(path), ["--help"]) == 0


# -------------------------------------------------------------------- one style


@pytest.mark.parametrize(
    "args, words",
    [
        (("frobnicate",), "no such command 'frobnicate'"),
        (("--oops",), "no such option: --oops"),
        (("train",), "missing argument 'config'"),
        (("verify", "--oops"), "what can be given: pgt-fx verify --help"),
        (("verify", "r3d_18", "--debug"), "pgt-fx --debug verify"),
        (("verify", "r3d_18", "--space", "0"), "invalid value for '--space'"),
        (("verify", "r3d_18", "--format", "xml"), "invalid value for '--format'"),
        (("verify", "slow_r50", "--space", "33"), "multiple of 32"),
        (("analyze", "r3d_81"), "did you mean r3d_18"),
        (("bench", "stepp"), "did you mean step"),
        (("zoo", "xyzzy"), "no backbone 'xyzzy'"),
        (("zoo", "--output", "."), "--check"),
        (("demo", "--frames", "many"), "a number from 1 on"),
        (("train", "none.toml"), "no config file"),
        (("fuzz", "--output", "none"), "there is no folder none"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_refusals_have_one_style(args: tuple[str, ...], words: str) -> None:
    said = refused(run(*args))
    assert words in said and AGAIN not in said and "╭" not in said


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.exit_code == 2 and not result.stdout
    assert all(c in result.stderr for c in COMMANDS) and f"{PREFIX}which command" in result.stderr


@pytest.mark.parametrize(
    "args, known",
    [
        (("verify", "r3d_18", "--output", "a.xlm"), (".xml", ".json", ".md", ".txt")),
        (("verify", "r3d_18", "--output", "a.md", "--output", "b"), (".xml", ".txt")),
        (("verify", "r3d_18", "--save", "a.pt"), (".json",)),
        (("verify", "--certificate", "a.json", "--output", "a.yaml"), (".xml", ".json")),
        (("doctor", "r3d_18", "--html", "a.pdf"), (".html",)),
        (("erf", "r3d_18", "--output", "a.bmp"), (".png", ".svg", ".pdf")),
    ],
    ids=lambda x: x[-1],
)
def test_a_suffix_that_says_nothing_is_refused_before_the_work(
    args: tuple[str, ...], known: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("the work has begun")

    for command in ("verify", "doctor", "erf"):
        monkeypatch.setattr(sys.modules[f"pgt_fx.cli.{command}"], "load", load)
    said = refused(run(*args))
    assert args[-1] in said and all(suffix in said for suffix in known)


def test_versions() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert pgt_fx.__version__ in result.stdout and metadata.version("torch") in result.stdout


# --------------------------------------------------------------- width and colours


@pytest.mark.parametrize("args", [("--help",), ("verify", "--help"), ("zoo", "slow"), ("bench",)])
@pytest.mark.parametrize("columns", ["", "60", "0", "140"])
def test_off_a_terminal_it_is_80_columns_or_as_many_as_asked_for(
    args: tuple[str, ...], columns: str
) -> None:
    result = run(*args, COLUMNS=columns)
    assert result.exit_code == 0, result.output
    widest = max(len(line.rstrip()) for line in result.stdout.splitlines())
    assert widest <= (int(columns or 0) or 80)
    if "--help" in args:
        assert widest == (int(columns or 0) or 80)
    assert "…" not in result.stdout


def test_promises_are_whole_on_80_columns() -> None:
    sentence = "no output that is due depends, to the last bit, on frames that come later in time"
    found = Verification("Tiny", "noise", (Check("no-future", sentence, True, "0 bits differ"),))
    for width in (80, 140):
        console = Console(width=width, color_system=None)
        with console.capture() as captured:
            console.print(found)
        lines = captured.get().splitlines()
        assert sentence in " ".join(" ".join(lines).split()) and len(lines) < 12
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize("args", [("--help",), ("zoo", "--help"), ("zoo", "slow"), ("zoo", "--x")])
def test_no_color_leaves_no_escape_code(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer import rich_utils

    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", True)  # as in GitHub's actions
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLORTERM": ""}

    def shown(**more: str) -> str:
        return CliRunner().invoke(app, list(args), env={**env, **more}, color=True).output

    assert "\x1b[" in shown()
    assert "\x1b" not in shown(NO_COLOR="1")
    assert "\x1b[" in shown(NO_COLOR="")  # empty is not set: https://no-color.org


# ------------------------------------------------------- Ctrl-C, pipes, slow imports


@pytest.fixture
def keyboard() -> Iterator[None]:
    """SIGINT as at a keyboard: a job in the background ignores it, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["interrupted", "hides_it"])
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_interrupt_is_no_error(
    here: str, name: str, debug: tuple[str, ...], keyboard: Any
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    result = run(*debug, "verify", f"{here}:{name}")
    assert result.exit_code == 130 and result.stderr.strip() == "pgt-fx: interrupted"
    assert signal.getsignal(signal.SIGINT) is handler


INTERRUPT = """
import os, signal, sys

asked = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

class Interrupt:
    def find_spec(self, name, *rest):
        if name == asked:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from pgt_fx.cli import main
sys.argv[:] = ["pgt-fx", "analyze", "r3d_18"]
main()
"""


@pytest.mark.parametrize("module", ["typer", "rich.progress", "torch", "torch.nn"])
def test_an_interrupt_while_something_is_imported(module: str) -> None:
    done = process("-c", INTERRUPT, module)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr and "KeyboardInterrupt" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    for both in (False, True):
        done = subprocess.run(
            [sys.executable, "-m", "pgt_fx.cli", "--help"],
            stdout=write,
            stderr=write if both else subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 141 and not done.stderr
    os.close(write)


WITHOUT_TORCH = """
import contextlib, io, json, sys
from pgt_fx.cli import app

codes = {}
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(line.split())
        except SystemExit as end:
            codes[line] = end.code
heavy = {"torch", "sympy", "networkx", "numpy", "pgt_fx.zoo"} & set(sys.modules)
print(json.dumps([codes, sorted(heavy)]))
"""


def test_nothing_heavy_is_imported_before_there_is_work() -> None:
    lines = {f"{command} --help": 0 for command in COMMANDS} | {"--help": 0, "--version": 0, "": 2}
    lines |= {f"{command} --oops": 2 for command in COMMANDS if command != "bench"}
    lines |= {"frobnicate": 2, "verify": 2, "verify r3d_18 --output a.b": 2, "bench": 0}
    lines |= {"doctor r3d_18 --html a.b": 2, "erf r3d_18 --output a.b": 2, "zoo --output .": 2}
    done = process("-c", WITHOUT_TORCH, json.dumps(list(lines)))
    codes, heavy = json.loads(done.stdout)
    assert codes == lines and heavy == []


def process(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True)


# ----------------------------------------------------------------- a base install

#: What a base install lacks: the packages of all extras, and what only they bring.
NOT_BASE = (
    *("numpy", "torchvision", "timm", "pytorchvideo", "diffusers", "av", "psutil", "hypothesis"),
    *("matplotlib", "torchmetrics", "skvideo", "PIL", "scipy", "transformers", "lightning"),
)

BASE = """
import contextlib, io, json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        gone = name.partition(".")[0] in sys.argv[1].split(",")
        return None if gone else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from pgt_fx.cli import app

told = []
for line in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(line.split())
        except SystemExit as end:
            told.append([end.code, out.getvalue(), err.getvalue()])
print(json.dumps([told, "numpy" in sys.modules]))
"""


def test_a_base_install_verifies_and_names_the_extra_where_it_can_not(here: str) -> None:
    Path("config.toml").write_text("[data]\ntrain = 'train'\n")
    Path("train/one").mkdir(parents=True)
    Path("a.mp4").write_bytes(b"")
    pair = f"{here}:pair"
    held = {
        f"verify {pair} --chunkings 1 --check reset --save c.json": 0,
        "verify --certificate c.json": 0,
        f"verify {pair} --causal": 1,
        f"analyze {pair}": 0,
        f"doctor {pair} --html a.html": 0,
        "zoo slow_r50": 0,
        "bench": 0,
    }
    lacking = {
        "analyze slow_r50": "pip install 'pgt_fx[zoo]'",
        "verify r3d_18": "pip install 'pgt_fx[zoo]'",
        "doctor wan_encoder": "pip install 'pgt_fx[vae]'",
        f"erf {pair}": "pip install 'pgt_fx[plot]'",
        "demo --model c3d": "pip install 'pgt_fx[video]'",
        "fuzz": "pip install hypothesis",
    }
    done = process("-c", BASE, ",".join(NOT_BASE), json.dumps([*held, *lacking]))
    told, with_numpy = json.loads(done.stdout)
    assert not with_numpy
    for (line, code), (seen, _, error) in zip(held.items(), told, strict=False):
        assert seen == code, (line, error)
        assert "umpy" not in error and "NumPy" not in error, (line, error)
    for (line, command), (seen, _, error) in zip(lacking.items(), told[len(held) :], strict=True):
        assert seen == 2 and command in error, (line, error)
        _, found, message = error.partition(PREFIX)  # the demo has told what it does by then
        assert found and message.count("\n") == 1, error


@pytest.mark.parametrize("make", ["inflate", "frame_wise"])
def test_the_extra_of_timm_is_named(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgt_fx import zoo

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(zoo.MissingPackageError, match=r"pip install 'pgt_fx\[zoo\]'"):
        getattr(zoo, make)("resnet18")


def test_weights_have_the_digest_that_they_had_with_numpy() -> None:
    import hashlib

    from pgt_fx.testing.verify.record import weights

    pytest.importorskip("numpy")
    model = torch.nn.Module()
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.cfloat)
    for number, dtype in enumerate(dtypes):
        model.register_buffer(f"x{number}", torch.randn(3, 2).to(dtype).t())
    model.register_buffer("one", torch.tensor(3.0))
    model.register_buffer("none", torch.empty(0))
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}\n".encode())
        flat = x.contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    assert weights(model) == digest.hexdigest()

"""What the two kinds of install contain, and what Python and a type checker find in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from runpy import run_path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_workflow import run as run_workflow

import pgt_fx

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tests" / "typed"


def python(*args: str, cwd: Path, by: Path | str = sys.executable) -> str:
    """What a process of its own prints; it sees the installed packages and not the checkout."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([by, *args], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, kind: str) -> Path:
    """A wheel ("wheel", "editable") or source distribution ("sdist"), by setuptools alone."""
    out = source.with_name(f"{source.name}-{kind}")
    out.mkdir()
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    python("-c", code, str(out), cwd=source)
    return next(out.iterdir())


def linked(folder: Path) -> None:
    """As git makes it."""


def no_links(folder: Path) -> None:
    """git where it may make no links: a small file with the path in it."""
    (folder / "pgt_fx" / "zoo").unlink()
    (folder / "pgt_fx" / "zoo").write_text("../zoo")


def left_out(folder: Path) -> None:
    """A copy that leaves links out."""
    (folder / "pgt_fx" / "zoo").unlink()


def followed(folder: Path) -> None:
    """A copy that makes two folders of one."""
    (folder / "pgt_fx" / "zoo").unlink()
    shutil.copytree(folder / "zoo", folder / "pgt_fx" / "zoo")


def unpacked(folder: Path) -> None:
    """What a source distribution unpacks to."""
    packed = build(folder, "sdist")
    shutil.rmtree(folder)
    with tarfile.open(packed) as file:
        file.extractall(folder.parent / "sdist", filter="data")
    next((folder.parent / "sdist").iterdir()).rename(folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of this checkout that an install is made of."""
    out = tmp_path / "checkout"
    out.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, out)
    for name in ("pgt_fx", "zoo"):
        left = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, out / name, symlinks=True, ignore=left)
    return out


FORMS = [linked, no_links, left_out, followed, unpacked]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_a_wheel_has_every_file_once(checkout: Path, form: Callable[[Path], None]) -> None:
    """Also from a checkout whose link to the backbones did not come through."""
    form(checkout)
    with zipfile.ZipFile(build(checkout, "wheel")) as file:
        names = file.namelist()
        top = next(n for n in names if n.endswith(".dist-info/top_level.txt"))
        assert file.read(top).split() == [b"pgt_fx"]
    shipped = sorted(n for n in names if ".dist-info/" not in n)
    backbones = [f"pgt_fx/zoo/{p.name}" for p in (ROOT / "zoo").glob("*.py")]
    others = [
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "pgt_fx").rglob("*.py")
        if "zoo" not in p.relative_to(ROOT).parts
    ]
    assert shipped == sorted({*backbones, *others, "pgt_fx/py.typed"})
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_an_editable_install_sees_what_is_changed(
    checkout: Path, tmp_path: Path, form: Callable[[Path], None]
) -> None:
    form(checkout)
    site = tmp_path / "site"
    with zipfile.ZipFile(build(checkout, "editable")) as file:
        file.extractall(site)
    if form in (linked, unpacked):  # a path alone: what a type checker can read
        lines = [p.read_text().splitlines() for p in site.glob("*.pth")]
        assert [[Path(line).resolve() for line in p] for p in lines] == [[checkout.resolve()]]
    folder = checkout / "pgt_fx" / "zoo" if form is unpacked else checkout / "zoo"
    for edited in (
        checkout / "pgt_fx" / "erf" / "__init__.py",
        folder / "__init__.py",
        folder / "added.py",
    ):
        edited.write_text("EDITED = True\n")
    code = (
        f"import site, sys; before = len(sys.path); site.addsitedir({str(site)!r})\n"
        "sys.path[:] = sys.path[before:] + sys.path[:before]\n"  # another install may be there
        "if hasattr(sys.modules.get('pgt_fx'), '__file__'): raise SystemExit('imported already')\n"
        "sys.meta_path.sort(key=lambda f: '__editable__' not in getattr(f, '__module__', ''))\n"
        "import pgt_fx, pgt_fx.zoo.added\n"
        "assert pgt_fx.erf.EDITED and pgt_fx.zoo.EDITED and pgt_fx.zoo.added.EDITED\n"
        "print(pgt_fx.__file__)"
    )
    found = Path(python("-c", code, cwd=tmp_path).strip())
    assert found.resolve() == (checkout / "pgt_fx" / "__init__.py").resolve()


def test_the_name_zoo_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of an editable install leads to that folder, too; a wheel has no such name."""
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ModuleNotFoundError, match=r"the backbones are pgt_fx\.zoo"):
        import_module("zoo")
    assert "zoo" not in sys.modules


def test_what_is_fetched_when_used_has_a_type() -> None:
    """The names that ``pgt_fx`` fetches late are those that it shows to type checkers."""
    text = (ROOT / "pgt_fx" / "__init__.py").read_text()
    shown = re.findall(r"^    from (\S+) import (\w+) as \2$", text, re.MULTILINE)
    late = {(module, name) for name, module in pgt_fx._FROM.items()}
    parts = {(module.rpartition(".")[0], name) for name, module in pgt_fx._PARTS.items()}
    assert set(shown) == late | parts
    at_once = set(re.findall(r"^from pgt_fx\.core import (\w+) as \1$", text, re.MULTILINE))
    assert at_once == {"errors", "hints"}
    assert set(pgt_fx.__all__) <= {name for _, name in shown} | at_once
    for _, name in shown:
        assert getattr(pgt_fx, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'transfrom'"):
        pgt_fx.transfrom  # noqa: B018


def test_the_users_script_runs() -> None:
    """What type checkers are told of is what there is."""
    run_path(str(SCRIPTS / "user_script.py"), run_name="__main__")


def test_an_extra_of_an_installed_one_is_asked_of_no_index(tmp_path: Path) -> None:
    """As error messages about missing packages say it."""
    command = ("-m", "pip", "install", "--dry-run", "--no-index", "--disable-pip-version-check")
    assert "already satisfied: pgt_fx[plot]" in python(*command, "pgt_fx[plot]", cwd=tmp_path)


def in_a_wheel(checkout: Path, tmp_path: Path, others: Sequence[Path] | None = None) -> Path:
    """Python in an environment of its own: this project as a wheel, the others as they are here,
    or those in ``others``."""
    made = tmp_path / "venv"
    venv.create(made, with_pip=False)
    names = {"base": str(made), "platbase": str(made)}
    site = Path(sysconfig.get_path("purelib", vars=names))
    with zipfile.ZipFile(build(checkout, "wheel")) as file:
        file.extractall(site)
    # A folder that a .pth names is not read for .pth files itself: no editable install of this
    # project comes through.
    found = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (site / "others.pth").write_text("\n".join(map(str, others or found)))
    return Path(sysconfig.get_path("scripts", vars=names)) / "python"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch is read once for both installs."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.slow
@pytest.mark.parametrize("install", ["as it is here", "wheel"])
def test_mypy_knows_the_types(checkout: Path, tmp_path: Path, cache: Path, install: str) -> None:
    """A user's script has no error under --strict; in the wrong one each line that should, has."""
    by = sys.executable if install != "wheel" else in_a_wheel(checkout, tmp_path)
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    where = python("-c", "import pgt_fx; print(pgt_fx.__file__)", cwd=scripts, by=by)
    assert ("venv" in Path(where).relative_to(tmp_path).parts) if install == "wheel" else where
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(by)]
    command += ["--cache-dir", str(cache), "--no-error-summary", "--hide-error-context"]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    names = ["user_script.py", "wrong_options.py"]
    done = subprocess.run([*command, *names], cwd=scripts, env=env, capture_output=True, text=True)
    errors = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    expected = []
    for number, line in enumerate((scripts / names[1]).read_text().splitlines(), 1):
        if "# expect: " in line:
            expected.append((names[1], str(number), line.partition("# expect: ")[2]))
    assert expected and errors == expected, done.stdout + done.stderr


def needed(extra: str = "") -> set[str]:
    """Distributions that an install of this project brings, and what these need in turn."""
    found: set[str] = set()
    todo = [("pgt_fx", extra)]
    while todo:
        name, extra = todo.pop()
        for text in metadata.requires(name) or ():
            wanted = Requirement(text)
            kept = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
            key = canonicalize_name(wanted.name)
            if not kept or key in found:
                continue
            try:
                metadata.distribution(key)
            except metadata.PackageNotFoundError:  # of CUDA: not with the build for the CPU
                continue
            found.add(key)
            todo += [(key, "")] + [(key, e) for e in wanted.extras]
    return found


def alone(folder: Path, names: set[str]) -> Path:
    """A folder with links to the files of these distributions, and to nothing else."""
    folder.mkdir()
    for name in names:
        files = metadata.distribution(name).files or ()
        tops = {f.parts[0] for f in files if f.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            at = Path(str(metadata.distribution(name).locate_file(top)))
            if not (folder / top).exists() and not top.endswith(".pth"):
                (folder / top).symlink_to(at)
    return folder


@pytest.mark.slow
def test_the_workflow_runs_on_a_wheel_without_extras(checkout: Path, tmp_path: Path) -> None:
    """torch, networkx, rich and typer are there, with what they need, and nothing else."""
    packages = alone(tmp_path / "packages", needed())
    by = in_a_wheel(checkout, tmp_path, [packages])
    code = (
        "import importlib.util as u\n"
        "print([n for n in ('numpy', 'torchvision', 'pytest', 'av') if u.find_spec(n)])"
    )
    assert python("-c", code, cwd=tmp_path, by=by) == "[]\n"
    script = by.with_name("pgt-fx")
    script.write_text(f"#!{by}\nfrom pgt_fx.cli import main\nmain()\n")
    script.chmod(0o755)
    folder = tmp_path / "project"
    folder.mkdir()
    assert run_workflow(folder, "shop:both_ways", by.parent) == {"verify": 0, "summary": 0}
    for args in (
        ("verify", "--certificate", "certificate.json"),
        ("verify", "shop:causal", "--causal", "--save", "causal.json"),
        ("verify", "--certificate", "causal.json"),
        ("analyze", "shop:both_ways"),
        ("doctor", "shop:both_ways", "--html", "page.html"),
        ("zoo",),
    ):
        python(str(script), *args, cwd=folder, by=by)

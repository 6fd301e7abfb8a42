"""How attributes are replaced for a while: nested, on several threads, and put back always."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.compiler import is_compiling

from pgt_fx.capture.observe.surroundings import surroundings
from pgt_fx.capture.replacing import CodePatch, Patch, Setting, Shadow, caller
from pgt_fx.capture.torch_patches import MODULE_CALLS, PATCHES


class Home:
    """Stands for a module of torch."""

    def asked(self) -> str:
        return "plain"

    @classmethod
    def applied(cls) -> str:
        return f"{cls.__name__} plain"


class Heir(Home):
    pass


def tried() -> bool:
    return True


def kinds() -> list[Patch]:
    return [
        Patch("Home.asked", "", Home, "asked"),
        Patch("Heir.asked", "", Heir, "asked"),
        Patch("Home.applied", "", Home, "applied", of_class=True),
        CodePatch("tried", "", types.SimpleNamespace(tried=tried), "tried"),
    ]


def calls(patch: Patch) -> Any:
    if isinstance(patch, CodePatch):
        return tried()  # by the name that was imported
    return Heir.applied() if patch.of_class else getattr(patch.home(), patch.name)()


@pytest.mark.parametrize("patch", kinds(), ids=lambda patch: patch.where)
def test_patches_are_nested_and_put_back_when_one_raises(patch: Patch) -> None:
    plain, original = calls(patch), patch.now()
    inner: Callable[[Any], Any] = lambda below: lambda *args: ("inner", below(*args))
    outer: Callable[[Any], Any] = lambda below: lambda *args: ("outer", below(*args))
    with pytest.raises(ValueError, match="in between"), patch.replaced(outer):
        assert calls(patch) == ("outer", plain)
        with pytest.raises(KeyError), patch.replaced(inner):
            assert calls(patch) == ("inner", ("outer", plain))
            raise KeyError
        assert calls(patch) == ("outer", plain)
        raise ValueError("in between")
    assert calls(patch) == plain and patch.now() is original


@pytest.mark.parametrize("patch", kinds(), ids=lambda patch: patch.where)
def test_patches_are_each_threads_own_and_go_in_any_order(patch: Patch) -> None:
    """The first thread goes before the second; a third one never sees either."""
    plain, original = calls(patch), patch.now()
    came, went = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    def second() -> None:
        with patch.replaced(lambda below: lambda *args: ("second", below(*args))):
            found["second, with the first"] = calls(patch)
            came.set()
            went.wait(10)
            found["second, alone"] = calls(patch)

    thread = threading.Thread(target=second)
    with patch.replaced(lambda below: lambda *args: ("first", below(*args))):
        thread.start()
        assert came.wait(10)
        assert calls(patch) == ("first", plain)
        third = threading.Thread(target=lambda: found.update(third=calls(patch)))
        third.start()
        third.join(10)
    assert calls(patch) == plain, "not of this thread any more"
    went.set()
    thread.join(10)
    own = ("second", plain)
    assert found == {"second, with the first": own, "second, alone": own, "third": plain}
    assert patch.now() is original


def test_the_surroundings_are_noted_on_two_threads_at_once() -> None:
    """Each notes what its own thread asks, and torch answers both."""
    before = [patch.now() for patch in PATCHES]
    came, went = threading.Event(), threading.Event()
    asked: dict[str, set[str]] = {}

    def second() -> None:
        with surroundings() as around:
            came.set()
            went.wait(10)
            assert not is_compiling()
            torch.get_default_dtype()
        asked["second"] = around.asked

    thread = threading.Thread(target=second)
    with surroundings() as around:
        thread.start()
        assert came.wait(10)
        torch.are_deterministic_algorithms_enabled()
    went.set()
    thread.join(10)
    assert around.asked == {"torch.are_deterministic_algorithms_enabled"}
    assert asked == {"second": {"torch.get_default_dtype"}}
    assert [patch.now() for patch in PATCHES] == before


def test_settings_names_and_hooks_go_in_any_order() -> None:
    level, space, entered = [30], {"print": "own"}, []

    @contextlib.contextmanager
    def silenced() -> Iterator[None]:
        before, level[0] = level[0], 50
        try:
            yield
        finally:
            level[0] = before

    setting = Setting("", "", silenced, lambda: level[0])
    shadow, own = Shadow("", "", "type"), Shadow("", "", "print")
    hooks = MODULE_CALLS
    stacks = contextlib.ExitStack(), contextlib.ExitStack()
    for stack in stacks:
        stack.enter_context(setting.on())
        stack.enter_context(shadow.put(space, "told"))
        stack.enter_context(own.put(space, "told"))
    assert level == [50] and space == {"type": "told", "print": "own"}
    stacks[0].close()
    assert level == [50] and space == {"type": "told", "print": "own"}
    stacks[1].close()
    assert level == [30] and space == {"print": "own"}

    layer, before = nn.Identity(), hooks.now()
    with hooks.on(lambda module, args: entered.append(module), lambda *_: entered.append(None)):
        thread = threading.Thread(target=lambda: layer(1))
        thread.start()
        thread.join(10)
        assert entered == [], "another thread's modules"
        layer(1)
    assert entered == [layer, None] and hooks.now() == before


def test_the_caller_of_a_patched_attribute_is_found_behind_what_calls_the_replacement() -> None:
    patch = CodePatch("tried", "", types.SimpleNamespace(tried=tried), "tried")
    with patch.replaced(lambda below: lambda: caller().f_code.co_name):
        assert calls(patch) == "calls"

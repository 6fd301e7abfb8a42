"""Models by name, as the commands take them."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

import typer

from pgt_fx.core.counts import counted

if TYPE_CHECKING:
    from torch import nn

    from pgt_fx.runtime.progressive import Progressive


def load(
    name: str,
    space: int | None,
    *,
    usual: int | None = None,
    features: bool = False,
    pretrained: bool = False,
) -> tuple[nn.Module, Any]:
    """A model in eval mode and its example (None: to be found).

    Args:
        name: of the zoo, or ``package.module:factory``.
        space: height and width of the example of a model of the zoo, as asked for.
        usual: the same where none was asked for; None: the model's own.
        features: only stem and stages of a model of the zoo.
        pretrained: with the weights that the zoo knows.

    Raises:
        typer.BadParameter: saying what there is instead, or which option is for the zoo alone.
    """
    from torch import nn

    from pgt_fx import zoo

    if ":" not in name:
        if "." in name or "/" in name:
            raise typer.BadParameter(f"{name!r}: expected package.module:factory, with a colon")
        space = space or usual
        model = zoo.build(name, space=space, pretrained=pretrained)
        return zoo.features(name, model) if features else model, zoo.clip(name, space=space)
    if features:
        raise typer.BadParameter("--features is for models of the zoo")
    if space is not None:
        raise typer.BadParameter(
            f"--space is for models of the zoo; how large the frames of a model of your own are is "
            f"said by its example: let {name} give a pair of the model and a clip"
        )
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.endswith(".py") or "/" in module_name:
        raise typer.BadParameter(
            f"{name!r}: expected package.module:factory, as an import has it: dots, and no .py"
        )
    module = _import(module_name)
    target: Any = module
    for part in attribute.split("."):
        if not part or not hasattr(target, part):
            raise typer.BadParameter(_nothing(module_name, part or attribute, target))
        target = getattr(target, part)
    made = target
    if callable(target) and not isinstance(target, nn.Module):
        try:
            made = target()
        except (Exception, SystemExit) as error:  # whatever the user's factory does
            raise typer.BadParameter(
                f"calling {name}() failed: {type(error).__name__}: {error}"
            ) from error
    example = None
    if isinstance(made, (tuple, list)) and len(made) == 2:
        made, example = made
    if not isinstance(made, nn.Module):
        raise typer.BadParameter(
            f"{name} gave {_seen(made)}; expected a torch.nn.Module, or a pair of one and an "
            "example clip"
        )
    return made.eval(), example


def progressive(module: nn.Module, example: Any, time_dim: int | None = None) -> Progressive:
    """What is to be measured: a factory may have transformed its model itself, with options."""
    from pgt_fx.compiler.transform import transform
    from pgt_fx.runtime.progressive import Progressive

    if isinstance(module, Progressive):
        if time_dim is not None:
            raise typer.BadParameter(
                "--time-dim: the factory has transformed its model itself, which says where time is"
            )
        return module
    return transform(module, example, strict=False, time_dim=time_dim, check=False)


def _seen(made: Any) -> str:
    """What a factory gave, in words."""
    if isinstance(made, (tuple, list)):
        inside = ", ".join(type(x).__name__ for x in made)
        return f"a {type(made).__name__} of {counted(len(made), 'element')} ({inside})"
    return f"{'an' if type(made).__name__[:1] in 'aeiou' else 'a'} {type(made).__name__}"


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not (name == missing or name.startswith(f"{missing}.")):
            raise typer.BadParameter(f"{name} imports {missing!r}, which is not there") from error
        near = difflib.get_close_matches(missing.rpartition(".")[2], _siblings(missing), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise typer.BadParameter(
            f"no module {missing!r} here or installed (looked in {here} first){hint}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does while imported
        raise typer.BadParameter(
            f"importing {name} failed: {type(error).__name__}: {error}"
        ) from error


def _siblings(missing: str) -> list[str]:
    """Names of modules beside the one that is missing: here, or in its package."""
    package, _, _ = missing.rpartition(".")
    where = list(sys.modules[package].__path__) if package in sys.modules else [os.getcwd()]
    return [m.name for m in pkgutil.iter_modules(where)]


def _nothing(module: str, name: str, target: Any) -> str:
    own = [n for n in dir(target) if not n.startswith("_")]
    near = difflib.get_close_matches(name, own, 3)
    callables = [n for n in own if callable(getattr(target, n))]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(callables[:8])}"
    return f"{module} has no {name!r}; {hint}"

"""A module that has the parameters, buffers, submodules and mode of the user's model as its own."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from torch import nn

from pgt_fx.core.errors import StateError
from pgt_fx.core.torch_private import state_dict_version
from pgt_fx.runtime.programs import Programs
from pgt_fx.runtime.tracing import refused

#: Dictionaries of ``nn.Module`` that are the model's own: parts, and hooks on their names.
SHARED = (
    *("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


class SharedParameters(nn.Module):
    """A module around the model of ``programs``, whose names of parameters are the user's.

    The model is not registered as a submodule: its own dictionaries are shared instead.
    """

    _programs: Programs

    def __init__(self, programs: Programs) -> None:
        super().__init__()
        self.__dict__["_programs"] = programs
        for name in SHARED:
            self.__dict__[name] = programs.model.__dict__[name]
        self._version = state_dict_version(programs.model)

    @property
    def training(self) -> bool:
        """The model's own mode."""
        return self._programs.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_programs" in self.__dict__:  # nn.Module sets it before there is a model
            self._programs.model.training = mode

    def train(self, mode: bool = True) -> Self:
        """As the model's own: it may keep norms frozen (``norm_eval``)."""
        self._programs.model.train(mode)
        return self

    def _save_to_state_dict(self, *args: Any) -> None:
        self._programs.model._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        # The model may know names of older checkpoints.
        self._programs.model._load_from_state_dict(*args)

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise StateError(
            "nn.DataParallel copies the model for each call, and the state of a step is lost with "
            "the copy; use torch.nn.parallel.DistributedDataParallel"
        )

    def __prepare_scriptable__(self) -> NoReturn:
        # torch.jit.script asks every module, before it looks at its code.
        refused("torch.jit.script")

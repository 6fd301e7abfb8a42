"""Steps under ``torch.compile``: one compiled function for each plan that recurs.

What is due in a step is plain Python on integers, and the same in every steady step; so the
compiled function has it as constants, and takes and gives tensors alone. Nothing in it depends on
how far the video has come: the second steady step, and all later ones, find it compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from pgt_fx.capture.observe.model_lines import at_frame, is_ours
from pgt_fx.core.errors import CompileError, StateError
from pgt_fx.core.torch_private import compile_refusal, compiled_too_often
from pgt_fx.runtime.chunks import CLOCK
from pgt_fx.runtime.markov.step import Step
from pgt_fx.runtime.plan import Plan

#: Plans seen once (a warm-up, a last step) are many in a life of odd chunks, and cheap to forget.
MOST_SEEN = 4096
#: Compiled functions kept, for as many plans and sizes of clips.
MOST_COMPILED = 256
#: Times that a plan is given a new function, of which torch makes eight versions.
MOST_RENEWALS = 32

Result = tuple[list[Any], dict[str, Tensor]]


def run_eagerly(
    module: fx.GraphModule, state: Mapping[str, Tensor], leaves: Sequence[Any], work: Plan
) -> Result:
    """One step: the model's outputs, flat, and the carried tensors."""
    step = Step(state, work.due)
    return list(module(step, *leaves)), step.carried


class CompiledSteps:
    """Runs steps; a plan that comes a second time is compiled.

    Args:
        options: of ``torch.compile``.

    Attributes:
        eager: whether the last step ran as it is, its plan being new.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = {"fullgraph": True, "dynamic": False} | dict(options)
        self._replayed = replayed(options)
        self.eager = self._all_eager = False
        self._asked: dict[int, tuple[Plan, _Asked]] = {}
        self._alike: dict[_Asked, _Asked] = {}
        self._seen: set[Any] = set()
        self._compiled: dict[Any, Callable[[list[Tensor], list[Any]], Result]] = {}
        self._renewals: dict[Any, int] = {}
        self._number = -1

    def run(
        self, module: fx.GraphModule, state: Mapping[str, Tensor], leaves: Sequence[Any], work: Plan
    ) -> Result:
        """As :func:`run_eagerly`.

        Raises:
            CompileError: when torch.compile does not take an operation of the model.
        """
        names = [name for name in state if name not in CLOCK]
        key = (id(module), tuple(names), self._what(work), self._sizes(leaves))
        self.eager = self._all_eager or key not in self._seen
        if self.eager:
            if len(self._seen) > MOST_SEEN:
                self._seen.clear()
            result = run_eagerly(module, state, leaves, work)
            self._seen.add(key)  # not where it raised: an error is no graph
            return result
        if key not in self._compiled:
            if len(self._compiled) >= MOST_COMPILED:
                self._compiled.clear()
            self._compile(key, module, names, work)
        try:
            outputs, carried = self._called(key, module, names, work, state, leaves)
        except Exception as error:
            if (refused := _refused(error)) is None:
                raise
            if StateError.__name__ in str(error):  # the step refuses the state, with a message
                run_eagerly(module, state, leaves, work)
            raise refused from error
        if self._replayed:
            outputs = [_kept(x) for x in outputs]
            carried = {name: _kept(x) for name, x in carried.items()}
        return outputs, carried

    @contextmanager
    def as_before(self, eager: bool) -> Iterator[None]:
        """Run a step again as it ran the first time: what is compiled draws other random numbers.

        Args:
            eager: what :attr:`eager` was then.
        """
        self._all_eager = eager
        try:
            yield
        finally:
            self._all_eager = False

    def _compile(self, key: Any, module: fx.GraphModule, names: Sequence[str], work: Plan) -> None:
        self._number += 1
        kernel = _of_its_own(_kernel(module, names, work), self._number)
        self._compiled[key] = torch.compile(kernel, **self.options)

    def _called(
        self,
        key: Any,
        module: fx.GraphModule,
        names: Sequence[str],
        work: Plan,
        state: Mapping[str, Tensor],
        leaves: Sequence[Any],
    ) -> Result:
        """Torch stops compiling a function again after eight times: a training may thaw its layers
        one after the other, and each time the graph is another."""
        given = [state[name] for name in names]
        try:
            return self._compiled[key](given, list(leaves))
        except Exception as error:
            renewals = self._renewals.get(key, 0)
            if not compiled_too_often(error) or renewals >= MOST_RENEWALS:
                raise
            self._renewals[key] = renewals + 1
            self._compile(key, module, names, work)
            return self._compiled[key](given, list(leaves))

    def _sizes(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Sizes of a clip, where each has code of its own: torch stops compiling a function again
        after eight of them."""
        if self.options["dynamic"] is not False:
            return ()
        return tuple(tuple(x.shape) if isinstance(x, Tensor) else None for x in leaves)

    def _what(self, work: Plan) -> _Asked:
        """What a plan asks for, hashed and compared once: a steady plan comes as the same object
        each time, and plans that ask for the same are given one object here."""
        known = self._asked.get(id(work))
        if known is None or known[0] is not work:
            if len(self._asked) > MOST_SEEN:
                self._asked.clear()
                # Those that steps are found by stay the same objects.
                self._alike = {key[2]: key[2] for key in self._compiled}
            asked = _Asked(tuple(work.due.items()))
            # The plan is kept with it: another one could get its address.
            known = self._asked[id(work)] = work, self._alike.setdefault(asked, asked)
        return known[1]


class _Asked:
    """A tuple that knows its hash: that of what forty operators have to do takes a while."""

    __slots__ = ("_hash", "what")

    def __init__(self, what: tuple[Any, ...]) -> None:
        self.what, self._hash = what, hash(what)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.what == other.what


def _kernel(
    module: fx.GraphModule, names: Sequence[str], work: Plan
) -> Callable[[list[Tensor], list[Any]], Result]:
    due = dict(work.due)

    def kernel(tensors: list[Tensor], leaves: list[Any]) -> Result:
        step = Step(dict(zip(names, tensors, strict=True)), due)
        outputs = list(module(step, *leaves))
        # With its names: what is carried depends on the types, and a graph is made for each.
        return outputs, step.carried

    return kernel


def _of_its_own(kernel: Any, number: int) -> Any:
    """The same function with code of its own: torch counts compilations per code object, and would
    take the plans of a model for recompilations of one function."""
    code = kernel.__code__.replace(co_name=f"step_{number}")
    return FunctionType(code, kernel.__globals__, code.co_name, None, kernel.__closure__)


def replayed(options: Mapping[str, Any]) -> bool:
    """Whether these options of ``torch.compile`` record CUDA graphs.

    A recorded graph writes its results to the same memory each time it is replayed. What a step
    returns is read by the next step, and kept by whoever gathers a video's answers.
    """
    by_mode = options.get("mode") in ("reduce-overhead", "max-autotune")
    by_option = bool((options.get("options") or {}).get("triton.cudagraphs"))
    return by_mode or by_option or options.get("backend") == "cudagraphs"


def _refused(error: Exception) -> CompileError | None:
    """What to say where torch.compile does not take an operation; None for any other error."""
    if compiled_too_often(error):
        why = " ".join(str(error).split())[:400]
        return CompileError(
            f"a step was compiled again and again, since something differs in each: {why}\n"
            "    remedy: keep it the same from step to step, or compile anew: prog.compile()"
        )
    if (frames := compile_refusal(error)) is None:
        return None
    lines = [f for f in frames if not is_ours(f.filename)]
    lines = [f for f in lines if not f.filename.startswith("<")]
    at = at_frame(lines[-1]) if lines else "a step"
    text = str(error)
    reason = text.partition("\n")[0]
    detail = text.partition("Developer debug context:")[2].strip().partition("\n")[0]
    return CompileError(
        f"{at}\n    torch.compile can't take this into its graph: {reason}: {detail}\n"
        "    remedy: write it with tensor operators, put a layer of torch in its place that does "
        "the same, or compile around it: prog.compile(fullgraph=False)"
    )


def _kept(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def plain_numbers(model: nn.Module) -> None:
    """Write NumPy's integers in the settings of layers as Python's, which torch can compile."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, tuple) and any(_numpy(v) for v in value):
                setattr(module, name, tuple(int(v) if _numpy(v) else v for v in value))
            elif _numpy(value):
                setattr(module, name, int(value))


def _numpy(value: Any) -> bool:
    return isinstance(value, Integral) and type(value).__module__ == "numpy"

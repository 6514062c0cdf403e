"""A model's forward pass as steps in a row, so that its first part can be computed apart."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """A part of a model's forward pass: what it does, with which modules and loose parameters."""

    run: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...] = ()
    block: bool = False  # whether it is a transformer block

    @property
    def fixed(self) -> bool:
        """Whether an input always gives the same output in training.

        That is so if nothing in it is trained or random, and all of it is torch's or timm's.
        """
        inside = [module for top in self.modules for module in top.modules()]
        parameters = [*self.parameters, *(p for module in inside for p in module.parameters(False))]
        return not any(p.requires_grad for p in parameters) and all(map(_is_fixed, inside))


def _is_fixed(module: nn.Module) -> bool:
    known = type(module).__module__.split(".")[0] in ("torch", "timm")
    hooked = module._forward_hooks or module._forward_pre_hooks
    random = any(getattr(module, rate, 0) for rate in ("p", "drop_prob", "prob"))
    counts = getattr(module, "track_running_stats", False)  # BatchNorm
    return known and not (hooked or random or counts)


def whole_step(module: nn.Module) -> Step:
    """A module's forward pass as a step."""
    return Step(module, (module,))


def block_step(module: nn.Module) -> Step:
    """A transformer block's forward pass as a step."""
    return Step(module, (module,), block=True)

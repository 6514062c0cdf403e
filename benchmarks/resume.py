"""The state of a run in the middle of its training: what a job that is cut short goes on from.

Trainable tensors and buffers, optimiser, epoch, generators and the curve so far: a resumed run
ends with the same bits as one that was never stopped.
"""

import os
import pickle
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .trainer import Outcome


@dataclass
class Resume:
    """Where and how often the state is saved; `every` is in seconds, an epoch is never split."""

    path: Path
    every: float
    saved: float = field(default_factory=time.monotonic)

    def save(
        self,
        epoch: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: torch.Generator,
        outcome: "Outcome",
        micro_batch: int | None,
    ) -> None:
        """Save after `epoch` epochs, if the last time is long enough ago."""
        if time.monotonic() - self.saved < self.every:
            return
        state = {
            "epoch": epoch,
            "micro_batch": micro_batch,
            "tensors": _changing(model),
            "optimizer": optimizer.state_dict(),
            "order": order.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "outcome": asdict(outcome),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        try:
            torch.save(state, draft)
            os.replace(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        self.saved = time.monotonic()

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: torch.Generator,
        outcome: "Outcome",
        micro_batch: int | None,
    ) -> int:
        """Go back to the saved state; returns the epochs done, 0 where there is none for this run.

        Micro-batches draw other dropout masks, so that a state of another size is not used.
        """
        state, tensors = self._read(), _changing(model)
        if not state or state["micro_batch"] != micro_batch:
            return 0
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state["tensors"][name])
        optimizer.load_state_dict(state["optimizer"])
        order.set_state(state["order"])
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        for name, value in state["outcome"].items():
            setattr(outcome, name, value)
        return state["epoch"]

    def _read(self) -> dict[str, Any] | None:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # damaged: begin anew
            self.path.unlink(missing_ok=True)
            return None


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: trainable parameters, and buffers to be safe."""
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return trained | dict(model.named_buffers())

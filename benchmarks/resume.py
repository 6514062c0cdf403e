"""The saved state of a run in training, from which a later job goes on if the first is cut short.

It holds trainable tensors and buffers, optimiser, epoch, generators and the curve so far, so that a
resumed run ends with the same bits as one that was never stopped.
"""

import pickle
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import replacing
from .outcome import Outcome


@dataclass
class TrainingState:
    """What changes while a run trains. order: draws the order of the images and the crops."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    outcome: Outcome
    micro_batch: int | None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that training changes: trainable parameters, and all buffers to be safe."""
        trained = {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        return trained | dict(self.model.named_buffers())


@dataclass
class Resume:
    """Where and how often the state is saved: every `every` seconds, between two epochs.

    made_from: what a state must have been made from to be gone on with: weights, pixels, code.
    """

    path: Path
    every: float
    made_from: str = ""
    saved: float = field(default_factory=time.monotonic)

    def save(self, epoch: int, state: TrainingState) -> None:
        """Save the state after `epoch` epochs, if the last save was long enough ago.

        A state that cannot be saved costs no run: it is told, and the run goes on.
        """
        if time.monotonic() - self.saved < self.every:
            return
        content = {
            "epoch": epoch,
            "made_from": self.made_from,
            "micro_batch": state.micro_batch,
            "tensors": state.tensors(),
            "optimizer": state.optimizer.state_dict(),
            "order": state.order.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "outcome": asdict(state.outcome),
        }
        try:
            with replacing(self.path) as draft:
                torch.save(content, draft)
        except (OSError, RuntimeError) as error:  # torch's own, where a disk is full
            told = " ".join(str(error).split())[:200]
            print(f"{self.path}: the state cannot be saved ({told}); the run goes on", flush=True)
        self.saved = time.monotonic()

    def restore(self, state: TrainingState) -> int:
        """Go back to the saved state; returns the epochs done, 0 if there is none for this run.

        Another micro-batch size draws other dropout masks, so a state of another size is not used;
        nor is one that was made from other weights, pixels or code.
        """
        saved, tensors = self._saved(), state.tensors()
        if not saved or saved["micro_batch"] != state.micro_batch:
            return 0
        if saved.get("made_from") != self.made_from:
            return 0
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved["tensors"][name])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.order.set_state(saved["order"])
        torch.set_rng_state(saved["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["cuda"])
        for name, value in saved["outcome"].items():
            setattr(state.outcome, name, value)
        return saved["epoch"]

    def _saved(self) -> dict[str, Any] | None:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # damaged: start over
            self.path.unlink(missing_ok=True)
            return None

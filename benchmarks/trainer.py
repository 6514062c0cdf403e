"""The trainer: one function for every method, backbone and task, to be read from top to bottom."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from .. import methods
from ..methods.anatomy import Adapted
from .config import Recipe
from .data import Split
from .devices import in_bf16, upload
from .frozen import FrozenFeed, cut
from .optimization import learning_rate, make_optimizer
from .outcome import EpochDone, OnEpoch, Outcome
from .pixels import Feed, Mixing, Pixels, to_device
from .resume import Resume, TrainingState


class Diverged(RuntimeError):
    """The loss, or a logit in scoring, is NaN or infinite."""


@dataclass(frozen=True)
class Procedure:
    """How a training is carried out. It changes the results by rounding only.

    Attributes:
        eval_every: also score every so many epochs, which gives the curve; 0: only at the end.
        micro_batch: images per forward pass; gradients are accumulated to the recipe's batch.
        on_epoch: called after every epoch.
        resume: go on from the state saved there, and save it there every few minutes.
        plain: take none of the fast paths. They change the results by rounding only: the features
            of a frozen first part are kept, methods use their own products, scoring merges.
    """

    eval_every: int = 0
    micro_batch: int | None = None
    on_epoch: OnEpoch | None = None
    resume: Resume | None = None
    plain: bool = False


def train(
    model: nn.Module,
    data: Split,
    held_out: Split,
    *,
    recipe: Recipe,
    pixels: Pixels,
    seed: int,
    how: Procedure | None = None,
) -> Outcome:
    """Train what requires a gradient on `data`, score on `held_out` after the last epoch.

    Args:
        model: on its device, with its method applied.
        pixels: normalisation, crops and flips.
        seed: of the order of the images, crops, flips and mixing; dropout draws from torch's
            generator.

    Raises:
        Diverged: the loss is not finite (says in which epoch and at which learning rate), or a
            logit in scoring.
    """
    how = how or Procedure()
    device, micro_batch, plain = next(model.parameters()).device, how.micro_batch, how.plain
    outcome = Outcome()
    generator = torch.Generator().manual_seed(seed)
    pictures = Feed(data.images, pixels, device)
    feed: Feed | FrozenFeed = pictures
    forward: Callable[[Tensor], Tensor] = model
    mixing = Mixing(recipe, getattr(model, "num_classes", 0), seed, device)
    labels = torch.from_numpy(data.labels.copy()).to(device)
    optimizer = make_optimizer(model, recipe)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    epochs = recipe.epochs + recipe.cooldown_epochs
    steps = max(1, len(labels) // recipe.batch_size)
    if not recipe.drop_last:
        steps = math.ceil(len(labels) / recipe.batch_size)
    products = [module for module in model.modules() if getattr(module, "fast", None) is not None]
    for module in products:
        module.fast = not plain
    ema = ModelEmaV3(model, recipe.ema) if recipe.ema else None
    frozen, scored = None, model
    if not (plain or mixing.on or pixels.crop != "none"):
        frozen = cut(model, pictures, micro_batch or recipe.batch_size, autocast(recipe, device))
    if frozen:
        feed, forward = frozen, frozen.rest

    both = nn.ModuleList([model, ema.module]) if ema else model
    state = TrainingState(both, optimizer, generator, outcome, micro_batch)
    for epoch in range(how.resume.restore(state) if how.resume else 0, epochs):
        start = time.perf_counter()
        model.train()
        mixing.start(epoch)
        total = torch.zeros((), device=device)
        batches = torch.randperm(len(labels), generator=generator).split(recipe.batch_size)
        for step, batch in enumerate(batches[:steps]):
            rate = learning_rate(recipe, epoch, step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x, y = mixing(feed(batch, generator), labels[upload(batch, device)])
            micro = micro_batch or len(x)
            for part, target in zip(x.split(micro), y.split(micro), strict=True):
                with autocast(recipe, device):
                    logits = forward(part)
                loss = F.cross_entropy(
                    logits.float(), target, label_smoothing=recipe.label_smoothing
                )
                loss = loss * (len(part) / len(x))
                loss.backward()
                total += loss.detach()
            if recipe.clip_grad:
                nn.utils.clip_grad_norm_(trained, recipe.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.update(model)
            outcome.images += len(batch)
        mean_loss = total.item() / steps  # waits for the device, so the clock below is right
        if not math.isfinite(mean_loss):
            raise Diverged(f"loss is {mean_loss} in epoch {epoch + 1} of {epochs} (lr {rate:.3g})")
        outcome.seconds_train += time.perf_counter() - start
        outcome.curve.append({"epoch": epoch + 1, "lr": rate, "loss": mean_loss})

        last = epoch == epochs - 1
        if last or (how.eval_every and (epoch + 1) % how.eval_every == 0):
            start = time.perf_counter()
            scored = ema.module if ema else model
            scored = scored if plain else for_scoring(scored)
            # a scoring batch does not fit where a training batch did not
            part = micro_batch or 256
            outcome.top1 = accuracy(scored, held_out, recipe, pixels, part)
            outcome.curve[-1]["top1"] = outcome.top1
            outcome.seconds_evaluate += time.perf_counter() - start
        if how.resume and not last:
            how.resume.save(epoch + 1, state)
        if how.on_epoch:
            rate = outcome.images / max(outcome.seconds_train, 1e-9)
            top1 = outcome.curve[-1].get("top1")
            how.on_epoch(EpochDone(epoch + 1, epochs, rate, mean_loss, top1))
    if ema:  # what was scored is what is kept
        model.load_state_dict(ema.module.state_dict())
    if not plain:
        taken = {
            "frozen features": frozen,
            "own products": products,
            "merged scoring": not hasattr(scored, "peft"),
        }
        outcome.fast_paths = [name for name, used in taken.items() if used]
    return outcome


@torch.inference_mode()
def accuracy(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    pixels: Pixels,
    batch_size: int = 256,
) -> float:
    """Top-1 accuracy on a split in percent, without flips.

    Raises:
        Diverged: a logit is not finite.
    """
    device = next(model.parameters()).device
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    for start in range(0, len(split.labels), batch_size):
        x = pixels(to_device(split.images[start : start + batch_size], device))
        y = upload(torch.from_numpy(split.labels[start : start + batch_size].copy()), device)
        with autocast(recipe, device):
            logits = model(x)
        finite &= logits.isfinite().all()
        correct += (logits.argmax(dim=1) == y).sum()
    if not finite:  # argmax would call a NaN the first class
        raise Diverged("the logits of images to be scored are not finite")
    return 100.0 * correct.item() / len(split.labels)


def for_scoring(model: nn.Module) -> nn.Module:
    """The merged model, which is faster, if the method adapted layers and can be merged."""
    if not any(isinstance(module, Adapted) for module in model.modules()):
        return model
    try:
        return methods.merge(model)
    except methods.CannotMerge:
        return model


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager:
    """bf16 where the recipe allows and the device computes in it, else plain float32."""
    if in_bf16(recipe.amp, device):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()

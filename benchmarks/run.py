"""One run: backbone + method + task + recipe + seed -> the trainer -> its record."""

import functools
import json
import math
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import methods
from methods.anatomy import Anatomy, set_drop_path, set_dropout

from . import backbones, data, devices, export, tasks, trainer
from .config import RunConfig
from .record import SCHEMA, failed
from .resume import Resume

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NOTHING = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Place:
    """Where a run happens. None of it is part of the run's id."""

    data: Path
    weights: str | None = None  # file or folder; None: timm's hub; "random": smoke runs only
    cache: Path | None = None  # of decoded images; None: DATA/.cache
    device: str | None = None  # None: cuda if there is one
    deltas: Path | None = None  # folder that keeps what was trained; None: nothing is kept
    deltas_mb: float = 64.0  # and larger deltas are not: full fine-tuning's has 340 MB
    resume: Path | None = None  # folder for the state of runs cut short; None: they begin anew
    resume_seconds: float = 180.0  # how often it is saved
    plain: bool = False  # take no fast path


Progress = Callable[[int, int, float], None]


def execute(config: RunConfig, place: Place, on_epoch: Progress | None = None) -> dict[str, Any]:
    """Do the run and return its record; whatever goes wrong in it becomes a failed record."""
    began, clock = datetime.now(UTC), time.perf_counter()
    device = devices.choose(place.device)
    try:
        devices.check(device)
        results = _fitting(config, place, device, on_epoch)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        results = failed(config, f"{type(error).__name__}: {message}")
    return {
        **results,
        "seconds_total": round(time.perf_counter() - clock, 3),
        "started": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(device),
    }


def _fitting(
    config: RunConfig, place: Place, device: torch.device, on_epoch: Progress | None
) -> dict[str, Any]:
    """Do the run in parts of a batch that fit into the GPU's memory, the effective batch as it is.

    Where memory runs out the run begins anew with half the images a forward pass.
    """
    micro: int | None = None
    while True:
        try:
            return _run(config, place, device, on_epoch, micro)
        except RuntimeError as error:
            if micro == 1 or not devices.out_of_memory(error):
                raise
            micro = max(1, (micro or config.recipe.batch_size) // 2)
        torch.cuda.empty_cache()  # here the failed attempt's tensors are gone


def _run(
    config: RunConfig,
    place: Place,
    device: torch.device,
    on_epoch: Progress | None,
    micro_batch: int | None,
) -> dict[str, Any]:
    clock = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    task = tasks.get(config.benchmark, config.task)
    recipe = config.recipe
    torch.manual_seed(config.seed)  # of the head, the method's tensors and dropout
    backbone = backbones.create(config.backbone, task.num_classes, place.weights)
    model = backbone.model
    init_head(Anatomy(model).head.module, recipe.head_init)
    methods.apply(config.method, model, **config.options)
    set_drop_path(model, recipe.drop_path, recipe.drop_path_kind)
    if recipe.dropout:
        set_dropout(model, recipe.dropout)
    model.to(device)
    started = time.perf_counter()

    train_data = read(config, place, backbone, config.train_split)
    held_out = read(config, place, backbone, config.eval_split)
    loaded = time.perf_counter()
    filters = recipe.interpolation
    filters = backbone.interpolation if filters == "backbone" else filters
    mean, std = {
        "backbone": (backbone.mean, backbone.std),
        "half": HALF,
        "imagenet": IMAGENET,
        "none": NOTHING,
    }[recipe.normalisation]
    outcome = trainer.train(
        model,
        train_data,
        held_out,
        recipe,
        trainer.Pixels(mean, std, recipe.hflip, recipe.crop, backbone.input_size, filters),
        config.seed,
        device,
        config.eval_every,
        micro_batch,
        on_epoch,
        Resume(saved_state(config, place), place.resume_seconds) if place.resume else None,
        place.plain,
    )
    if place.deltas:
        export.save_delta(model, config, backbone.fingerprint, place.deltas, place.deltas_mb)
    counts = methods.parameters(model)
    scores = [point["top1"] for point in outcome.curve if "top1" in point]
    on_test = config.eval_split == "test"
    return {
        "schema": SCHEMA,
        "run_id": config.run_id,
        "status": "done",
        "error": None,
        "config": config.to_dict(),
        "top1_last": outcome.top1 if on_test else None,
        "top1_best_test": max(scores) if on_test and config.eval_every else None,
        "top1_val": None if on_test else outcome.top1,
        "curve": outcome.curve,
        "params_peft": counts["peft"],
        "params_head": counts["head"],
        "params_total": counts["total"],
        "seconds_startup": round(started - clock, 3),
        "seconds_data": round(loaded - started, 3),
        "seconds_train": round(outcome.seconds_train, 3),
        "seconds_evaluate": round(outcome.seconds_evaluate, 3),
        "images_per_second": round(outcome.images / outcome.seconds_train, 1),
        "peak_memory_mb": devices.peak_memory_mb(device),
        "gflops_per_image": round(forward_flops(model, backbone.input_size, device) / 1e9, 4),
        "data_fingerprint": f"{train_data.fingerprint}+{held_out.fingerprint}",
        "data_variant": train_data.variant,
        "weights_fingerprint": backbone.fingerprint,
        "weights_source": backbone.source,
        "mean": list(mean),
        "std": list(std),
        "micro_batch": micro_batch or recipe.batch_size,
        "fast_paths": outcome.fast_paths,
        "precision": "bf16" if devices.in_bf16(recipe.amp, device) else "fp32",
    }


def saved_state(config: RunConfig, place: Place) -> Path:
    """Where a run that is cut short leaves its state."""
    return Path(place.resume) / f"{config.run_id}.pt"


def forget(config: RunConfig, place: Place) -> None:
    """Remove the state that a run saved while it was on its way."""
    if place.resume:
        saved_state(config, place).unlink(missing_ok=True)


def prepare(config: RunConfig, place: Place) -> None:
    """Load the run's weights and data once, so that what is wrong with them shows before training.

    Raises:
        InputError: in one line, what is wrong and where.
    """
    task = tasks.get(config.benchmark, config.task)
    backbone = backbones.create(config.backbone, task.num_classes, place.weights)
    for split in (config.train_split, config.eval_split):
        read(config, place, backbone, split)


def read(config: RunConfig, place: Place, backbone: backbones.Backbone, split: str) -> data.Split:
    """A split of the run's task as the recipe shows it to the backbone, for training or a test."""
    task = tasks.get(config.benchmark, config.task)
    recipe, filters = config.recipe, config.recipe.interpolation
    if filters in ("backbone", "random"):  # "random" is drawn for each crop, in training
        filters = backbone.interpolation
    resize, centre = recipe.resize, False
    if split == config.eval_split:
        resize = resize if recipe.resize_test == "same" else recipe.resize_test
        centre = True
    size, cache, smoke = backbone.input_size, place.cache, config.smoke
    return data.load(
        place.data, task, split, size, filters, cache, smoke, resize=resize, centre=centre
    )


def init_head(head: nn.Linear, how: str) -> None:
    """zero (RLRR, ARC), trunc_normal .02 (timm), linear (torch's default), vpt (fan-out, -4.6)."""
    if how == "linear":
        head.reset_parameters()
    elif how == "vpt":
        nn.init.kaiming_normal_(head.weight, a=0, mode="fan_out")
        nn.init.constant_(head.bias, -math.log(99))
    else:
        nn.init.zeros_(head.bias)
        if how == "zero":
            nn.init.zeros_(head.weight)
        else:
            nn.init.trunc_normal_(head.weight, std=0.02)


def forward_flops(model: nn.Module, size: int, device: torch.device) -> int:
    """Floating-point operations of one image's forward pass (a multiply-add counts as two)."""
    model.eval()
    # with gradients: the counter's module hooks fail without them on an input that requires one
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops()


def environment(device: torch.device) -> dict[str, Any]:
    """Where a record comes from: code, versions, device, host, job."""
    return {
        **_code(),
        "device": devices.name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


@functools.cache
def _code() -> dict[str, Any]:
    def git(*words: str) -> str | None:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:  # a sweep's own copy of the code says what it is a copy of
        snapshot = json.loads((Path(__file__).parents[1] / "snapshot.json").read_text())
        commit, dirty = snapshot["git_commit"], snapshot["git_dirty"]
    except FileNotFoundError:
        try:
            commit = git("rev-parse", "HEAD")
            dirty = bool(git("status", "--porcelain", "--untracked-files=no")) if commit else None
        except OSError:  # no git on this machine
            commit = dirty = None
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "torch": version("torch"),
        "timm": version("timm"),
    }

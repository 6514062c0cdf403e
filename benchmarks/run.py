"""One run: backbone + method + task + recipe + seed -> the trainer -> its record."""

import math
import os
import platform
import socket
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .. import methods
from ..methods.anatomy import Anatomy, set_drop_path, set_dropout
from ..methods.errors import InputError
from . import backbones, data, devices, export, provenance, tasks, trainer
from .config import Recipe, RunConfig
from .context import RunContext
from .outcome import OnEpoch
from .pixels import Pixels
from .record import Reason, RunRecord, best_of
from .resume import Resume

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NOTHING = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def execute(config: RunConfig, context: RunContext, on_epoch: OnEpoch | None = None) -> RunRecord:
    """Do the run and return its record; any error in it becomes a failed record."""
    began, clock = datetime.now(UTC), time.perf_counter()
    device = devices.choose(context.device)
    try:
        devices.check(device)
        record = _fitting(config, context, device, on_epoch)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        record = RunRecord.failed(
            config,
            f"{type(error).__name__}: {message}",
            _reason(error),
            traceback=_frames(error, config.method),
        )
    return record.replace(
        method_code=methods.code_hash(config.method),
        seconds_total=round(time.perf_counter() - clock, 3),
        started=began.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(device),
    )


def _reason(error: Exception) -> Reason:
    if isinstance(error, trainer.Diverged):
        return "diverged"
    return "bad_input" if isinstance(error, InputError) else "error"


def _frames(error: Exception, method: str) -> tuple[str, ...]:
    """Where it was raised: up to three frames in the method's file, then the innermost frame."""
    try:
        file = str(methods.file(method))
    except InputError:  # the error is that there is no such method
        file = ""
    frames = traceback.extract_tb(error.__traceback__)
    chosen = [frame for frame in frames[:-1] if frame.filename == file][-3:] + frames[-1:]
    return tuple(f"{f.filename}:{f.lineno} in {f.name}: {f.line}" for f in chosen)


def _fitting(
    config: RunConfig, context: RunContext, device: torch.device, on_epoch: OnEpoch | None
) -> RunRecord:
    """Do the run in parts of a batch that fit into the GPU's memory; the effective batch stays.

    When memory runs out, the run starts over with half the images per forward pass.
    """
    micro: int | None = None
    while True:
        try:
            return _run(config, context, device, on_epoch, micro)
        except RuntimeError as error:
            if micro == 1 or not devices.out_of_memory(error):
                raise
            micro = max(1, (micro or config.recipe.batch_size) // 2)
        torch.cuda.empty_cache()  # only here are the failed attempt's tensors gone


def _run(
    config: RunConfig,
    context: RunContext,
    device: torch.device,
    on_epoch: OnEpoch | None,
    micro_batch: int | None,
) -> RunRecord:
    clock = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    recipe = config.recipe
    if context.weights == "random" and not config.smoke:
        raise InputError("--weights random makes no result; add --smoke")
    backbone = _with_method(config, context)
    model = backbone.model.to(device)
    started = time.perf_counter()

    train_data = split_of(config, context, backbone, config.train_split)
    held_out = split_of(config, context, backbone, config.eval_split)
    loaded = time.perf_counter()
    pixels = _pixels(recipe, backbone)
    saved = context.saved_state(config.run_id)
    inputs = (backbone.fingerprint, train_data.fingerprint, methods.code_hash(config.method))
    made_from = " ".join((config.run_id, *inputs))
    how = trainer.Procedure(
        eval_every=config.eval_every,
        micro_batch=micro_batch,
        on_epoch=on_epoch,
        resume=Resume(saved, context.resume_seconds, made_from) if saved else None,
        plain=context.plain,
    )
    outcome = trainer.train(
        model, train_data, held_out, recipe=recipe, pixels=pixels, seed=config.seed, how=how
    )
    if context.deltas:
        try:
            export.save_delta(
                model, config, backbone.fingerprint, context.deltas, context.deltas_mb
            )
        except (OSError, SafetensorError) as error:  # what is optional costs no result
            print(f"{context.deltas}: {config.name}: not kept: {error}", flush=True)
    counts = methods.parameters(model)
    on_test = config.eval_split == "test"
    return RunRecord(
        run_id=config.run_id,
        status="done",
        config=config,
        top1_last=outcome.top1 if on_test else None,
        top1_best_test=best_of(outcome.curve, 1) if on_test and config.eval_every else None,
        top1_best_10=best_of(outcome.curve, 10) if on_test and config.eval_every else None,
        top1_val=None if on_test else outcome.top1,
        curve=tuple(outcome.curve),
        params_peft=counts["peft"],
        params_head=counts["head"],
        params_total=counts["total"],
        seconds_startup=round(started - clock, 3),
        seconds_data=round(loaded - started, 3),
        seconds_train=round(outcome.seconds_train, 3),
        seconds_evaluate=round(outcome.seconds_evaluate, 3),
        images_per_second=round(outcome.images / outcome.seconds_train, 1),
        peak_memory_mb=devices.peak_memory_mb(device),
        gflops_per_image=round(forward_flops(model, backbone.input_size, device) / 1e9, 4),
        data_fingerprint=f"{train_data.fingerprint}+{held_out.fingerprint}",
        data_variant=train_data.variant,
        weights_fingerprint=backbone.fingerprint,
        weights_source=backbone.source,
        mean=tuple(pixels.mean),
        std=tuple(pixels.std),
        micro_batch=micro_batch or recipe.batch_size,
        fast_paths=tuple(outcome.fast_paths),
        precision="bf16" if devices.in_bf16(recipe.amp, device) else "fp32",
    )


def _with_method(config: RunConfig, context: RunContext) -> backbones.Backbone:
    """The backbone with a head for the task and the method attached, ready to train."""
    task, recipe = tasks.get(config.benchmark, config.task), config.recipe
    torch.manual_seed(config.seed)  # of the head, the method's tensors and dropout
    backbone = backbones.create(config.backbone, task.num_classes, context.weights)
    model = backbone.model
    init_head(Anatomy(model).head.module, recipe.head_init)
    methods.apply(config.method, model, **config.options)
    set_drop_path(model, recipe.drop_path, recipe.drop_path_kind)
    if recipe.dropout:
        set_dropout(model, recipe.dropout)
    return backbone


def _pixels(recipe: Recipe, backbone: backbones.Backbone) -> Pixels:
    """How decoded images become the model's input."""
    filters: str = recipe.interpolation
    filters = backbone.interpolation if filters == "backbone" else filters
    mean, std = {
        "backbone": (backbone.mean, backbone.std),
        "half": HALF,
        "imagenet": IMAGENET,
        "none": NOTHING,
    }[recipe.normalisation]
    return Pixels(mean, std, recipe.hflip, recipe.crop, backbone.input_size, filters)


def forget(config: RunConfig, context: RunContext) -> None:
    """Remove the state that a run saved while it trained."""
    saved = context.saved_state(config.run_id)
    if saved:
        saved.unlink(missing_ok=True)


def prepare(config: RunConfig, context: RunContext) -> None:
    """Load the run's weights and data once, so that what is wrong with them shows before training.

    Raises:
        InputError: in one line, what is wrong and where.
    """
    task = tasks.get(config.benchmark, config.task)
    backbone = backbones.create(config.backbone, task.num_classes, context.weights)
    for split in (config.train_split, config.eval_split):
        split_of(config, context, backbone, split)


def split_of(
    config: RunConfig, context: RunContext, backbone: backbones.Backbone, split: str
) -> data.Split:
    """A split of the run's task, decoded as the recipe wants it for training or for scoring."""
    task = tasks.get(config.benchmark, config.task)
    recipe = config.recipe
    filters: str = recipe.interpolation
    if filters in ("backbone", "random"):  # training draws "random" anew for each crop
        filters = backbone.interpolation
    resize, centre = recipe.resize, False
    if split == config.eval_split:
        resize = resize if recipe.resize_test == "same" else recipe.resize_test
        centre = True
    view = data.View(backbone.input_size, resize, filters, centre)
    return data.open_split(context.data, task, split, view, cache=context.cache, smoke=config.smoke)


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
    """Floating-point operations of one image's forward pass (a multiply-add counts as two).

    The plain attention kernel is used: the counter knows no products of the fused one on a CPU.
    """
    model.eval()
    # with gradients: the counter's module hooks fail without them on an input that requires one
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size, device=device))
    return counter.get_total_flops()


def environment(device: torch.device) -> dict[str, Any]:
    """Where a record comes from: code, versions, device, host, job."""
    return {
        **provenance.at_start().to_dict(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "timm": version("timm"),
        "device": devices.name(device),
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }

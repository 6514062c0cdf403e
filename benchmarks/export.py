"""The trained tensors of runs: kept beside the records, exported as a delta, for timm or for PEFT.

    <results>/deltas/<run_id>.safetensors    methods.delta of the run, with its config as metadata

`rlrr-bench export` calls this.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from .. import methods
from ..methods.errors import InputError, nearest
from . import backbones, tasks
from .config import RunConfig
from .extensions import register_backbone
from .files import replacing, write_text
from .store import Results


class ExportError(InputError):
    """A run that has no trained tensors, or whose method has no such form."""


def save_delta(
    model: nn.Module, config: RunConfig, fingerprint: str, folder: Path, limit_mb: float
) -> Path | None:
    """Keep what the run trained under `folder`; None if it is larger than the limit.

    Args:
        fingerprint: of the frozen weights that the delta belongs to.
    """
    trained = methods.delta(model)
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained.values())
    if size > limit_mb * 1e6:
        return None
    metadata = {
        "run_id": config.run_id,
        "config": json.dumps(config.to_dict(), sort_keys=True),
        "backbone": config.backbone,
        "weights_fingerprint": fingerprint,
        "method": config.method,
        "options": json.dumps(model.peft.options, sort_keys=True),
    }
    return write(Path(folder) / f"{config.run_id}.safetensors", trained, metadata)


def read_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, str], RunConfig]:
    """Tensors, metadata and config of a delta file.

    Raises:
        ExportError: it is damaged, or no delta of a run.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = RunConfig.from_dict(json.loads(metadata["config"]))
    except (safetensors.SafetensorError, ValueError) as error:
        raise ExportError(f"{path}: damaged: {error}") from None
    except KeyError:
        raise ExportError(f"{path}: no config in its metadata; expected a run's delta") from None
    return tensors, metadata, config


def find(run_id: str, folders: Iterable[Path]) -> Path:
    """The delta file of a run in one of the results folders.

    Raises:
        ExportError: there is no such run, it failed, or its tensors were not kept.
    """
    stores = [Results(folder) for folder in folders if Path(folder).is_dir()]
    known = []
    for store in stores:
        path, record = store.folder / "deltas" / f"{run_id}.safetensors", store.read(run_id)
        if record is not None and not record.done:
            raise ExportError(f"run {run_id} failed: {record.error}")
        if path.is_file():
            holds = read_delta(path)[2].run_id
            if holds != run_id:
                raise ExportError(f"{path}: holds the tensors of the run {holds}")
            return path
        if record:
            raise ExportError(
                f"run {run_id}: found no {path}; its tensors were not kept: delete the record "
                f"{store.path(run_id)} and run it again with --save-deltas all"
            )
        known += [path.stem for path in store.runs.glob("*.json")]
    where = ", ".join(str(store.folder) for store in stores) or "results/*"
    hint = nearest(run_id, known) if known else "there are no runs yet"
    raise ExportError(f"unknown run {run_id!r} in {where}; {hint}")


def export_delta(delta: Path, out: Path) -> Path:
    """Write a run's delta, with its metadata, to `out`."""
    tensors, metadata, _ = read_delta(delta)
    return write(out, tensors, metadata)


def export_merged(delta: Path, out: Path, weights: str | None = None) -> Path:
    """Write the plain timm state dict that equals the trained model.

    Args:
        weights: file or folder of the backbone, as in a sweep; None: those of the tag.

    Raises:
        CannotMerge: the method is not linear.
        ExportError: the weights are not those that the run was trained on.
    """
    tensors, metadata, config = read_delta(delta)
    if reason := methods.cannot_merge(_meta(config)):  # before any weights are loaded
        raise methods.CannotMerge(f"{config.method} cannot be merged: {reason}")
    classes = tasks.get(config.benchmark, config.task).num_classes
    backbone = backbones.create(config.backbone, classes, weights)
    if backbone.fingerprint != metadata["weights_fingerprint"]:
        expected, given = metadata["weights_fingerprint"][:12], backbone.fingerprint[:12]
        raise ExportError(
            f"run {config.run_id}: was trained on weights {expected}, found {given} "
            f"({backbone.source}); give the right ones with --weights"
        )
    model = methods.apply(config.method, backbone.model, **config.options)
    plain = methods.merge(methods.load_delta(model, tensors))
    return write(out, plain.state_dict(), metadata)


def export_peft(delta: Path, folder: Path) -> Path:
    """Write a LoRA run as a Hugging Face PEFT adapter for the same timm model.

    timm fuses q, k and v into one layer, and PEFT has one pair of factors per layer. Pairs for q, k
    or v alone are therefore stacked into W + s [B_q; 0; B_v] [A_q; A_v], the same function with the
    sum of their ranks.

    Raises:
        ExportError: the run's method is not lora.
    """
    tensors, _, config = read_delta(delta)
    if config.method != "lora":
        raise ExportError(f"run {config.run_id}: method {config.method}, expected lora for --peft")
    model = _meta(config)
    options, head = model.peft.options, model.peft.head
    out = {f"base_model.model.{n}": t for n, t in tensors.items() if n.startswith(f"{head}.")}
    ranks = {}
    for path, layer in model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        down = [tensors[f"{path}.lora_A.{name}"] for name in layer.rows]
        up = []
        for name, rows in layer.rows.items():
            factor = tensors[f"{path}.lora_B.{name}"]
            up.append(factor.new_zeros(layer.out_features, factor.shape[1]))
            up[-1][rows] = factor
        out[f"base_model.model.{path}.lora_A.weight"] = torch.cat(down)
        out[f"base_model.model.{path}.lora_B.weight"] = torch.cat(up, 1)
        ranks[".".join(path.split(".")[-2:])] = options["rank"] * len(down)
    scale = 1.0 if options["alpha"] is None else options["alpha"] / options["rank"]
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": config.backbone,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "modules_to_save": [head],
        "r": options["rank"],
        "lora_alpha": scale * options["rank"],
        "rank_pattern": {name: r for name, r in ranks.items() if r != options["rank"]},
        "alpha_pattern": {name: scale * r for name, r in ranks.items() if r != options["rank"]},
        "lora_dropout": options["dropout"],
        "bias": "none",
    }
    write(folder / "adapter_model.safetensors", out, {"format": "pt"})
    write_text(folder / "adapter_config.json", json.dumps(settings, indent=2) + "\n")
    return folder


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors so that readers see the whole file or none; makes the folder."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as draft:
        safetensors.torch.save_file(content, draft, metadata)
    return path


def _meta(config: RunConfig) -> nn.Module:
    """The run's model with its method on the meta device: it has names and shapes, no values."""
    classes = tasks.get(config.benchmark, config.task).num_classes
    register_backbone(config.backbone)
    with torch.device("meta"):
        model = timm.create_model(config.backbone, num_classes=classes)
    return methods.apply(config.method, model, **config.options)

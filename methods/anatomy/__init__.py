"""One view of timm's ViT and Swin: every place where a method can attach, by its usual name.

All knowledge of timm's module names lives here and in `adapted`. A place is a `Slot` (which module
of which parent); a method puts its own module there, usually an `Adapted` one that keeps the
pre-trained tensors under timm's names, so that a state dict still shows what is timm's and what is
the method's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from timm.layers import DropPath, Mlp
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from ..errors import MethodError
from .adapted import Adapted, AdaptedBlock

__all__ = [
    "Adapted",
    "AdaptedBlock",
    "Anatomy",
    "Block",
    "Merging",
    "MethodError",
    "Slot",
    "Step",
    "forward_steps",
    "set_drop_path",
    "set_dropout",
]

LINEARS = ("q", "k", "v", "out", "fc1", "fc2")


@dataclass(frozen=True)
class Slot:
    """A place in the model: attribute `name` of `parent`; `path` is its name in the state dict."""

    parent: nn.Module
    name: str
    path: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.parent, self.name)

    def put(self, module: nn.Module) -> None:
        module.train(self.module.training)
        setattr(self.parent, self.name, module)


@dataclass(frozen=True)
class Block:
    """One transformer block: where its parts are, its width D, heads and stage (0 on a ViT).

    grid: (height, width) of its tokens on Swin; None on a ViT, whose tokens are in one row.
    """

    index: int
    stage: int
    width: int
    heads: int
    grid: tuple[int, int] | None
    block: Slot
    norm1: Slot
    attn: Slot
    qkv: Slot
    out: Slot
    norm2: Slot
    mlp: Slot
    fc1: Slot
    fc2: Slot

    def linears(self, wanted: Iterable[str] = LINEARS) -> list[tuple[Slot, dict[str, slice]]]:
        """The linear layers that hold the `wanted` ones of q, k, v, out, fc1, fc2.

        timm fuses q, k and v into one layer: each comes with the rows of its output that it owns.
        Returns (slot, {name: rows}) once for every layer, in the order of the forward pass.
        """
        wanted, d = set(wanted), self.width
        parts = [
            (self.qkv, {n: slice(i * d, (i + 1) * d) for i, n in enumerate("qkv") if n in wanted})
        ]
        for name in ("out", "fc1", "fc2"):
            slot = getattr(self, name)
            rows = slice(0, slot.module.out_features)
            parts.append((slot, {name: rows} if name in wanted else {}))
        return [(slot, rows) for slot, rows in parts if rows]


@dataclass(frozen=True)
class Merging:
    """A Swin patch merging after a `stage`: LayerNorm(4d), then Linear(4d -> 2d) without bias."""

    stage: int
    merging: Slot
    norm: Slot
    reduction: Slot


class Anatomy:
    """Where things are in a timm ViT or Swin.

    Attributes:
        kind: "vit" or "swin".
        width: features that the head sees.
        patch: the patch convolution; patch_norm: the LayerNorm after it (Swin) or None.
        blocks: the transformer blocks, first to last; merges: Swin's patch mergings.
        norm: the final LayerNorm; head: the linear classifier; before_head: the dropout before it.
        prefix: tokens before the patches (a ViT's class token); 0 on Swin.
        pooling: "token" (the class token is classified) or how the tokens are pooled.

    Raises:
        MethodError: the model is neither, or has been changed by a method already.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        if isinstance(model, VisionTransformer):
            self.kind, stages = "vit", [(model.blocks, "blocks")]
            self.head = Slot(model, "head", "head")
            self.before_head = Slot(model, "head_drop", "head_drop")
        elif isinstance(model, SwinTransformer):
            self.kind = "swin"
            stages = [(s.blocks, f"layers.{i}.blocks") for i, s in enumerate(model.layers)]
            self.head = Slot(model.head, "fc", "head.fc")
            self.before_head = Slot(model.head, "drop", "head.drop")
        else:
            raise MethodError(
                f"{type(model).__name__}: methods attach to timm's VisionTransformer and "
                "SwinTransformer"
            )
        self.width: int = model.num_features
        self.prefix: int = getattr(model, "num_prefix_tokens", 0)
        self.pooling: str = model.global_pool
        self.patch = Slot(model.patch_embed, "proj", "patch_embed.proj")
        self.patch_norm = None
        if not isinstance(model.patch_embed.norm, nn.Identity):
            self.patch_norm = Slot(model.patch_embed, "norm", "patch_embed.norm")
        self.norm = Slot(model, "norm", "norm")
        self.blocks: list[Block] = []
        for stage, (blocks, path) in enumerate(stages):
            for name, block in blocks.named_children():
                self.blocks.append(self._block(Slot(blocks, name, f"{path}.{name}"), block, stage))
        self.merges: list[Merging] = []
        for i, stage in enumerate(getattr(model, "layers", [])):
            if hasattr(stage.downsample, "reduction"):
                path = f"layers.{i}.downsample"
                parts = [
                    Slot(stage.downsample, name, f"{path}.{name}") for name in ("norm", "reduction")
                ]
                self.merges.append(Merging(i - 1, Slot(stage, "downsample", path), *parts))

    def _block(self, slot: Slot, block: nn.Module, stage: int) -> Block:
        inside = {
            "norm1": (block, "norm1"),
            "attn": (block, "attn"),
            "qkv": (block.attn, "qkv"),
            "out": (block.attn, "proj"),
            "norm2": (block, "norm2"),
            "mlp": (block, "mlp"),
            "fc1": (block.mlp, "fc1"),
            "fc2": (block.mlp, "fc2"),
        }
        owners = {block: "", block.attn: "attn.", block.mlp: "mlp."}
        slots = {
            part: Slot(owner, name, f"{slot.path}.{owners[owner]}{name}")
            for part, (owner, name) in inside.items()
        }
        width = slots["qkv"].module.in_features
        heads = block.attn.num_heads
        grid = getattr(block, "input_resolution", None)
        return Block(len(self.blocks), stage, width, heads, grid, slot, **slots)

    def share(self, tensors: nn.Module) -> nn.Module:
        """Register what several layers of a method share, once, as `model.shared`; returns it.

        A layer keeps a reference (`adapted.refer`), so that every tensor has one name only.
        """
        self.model.shared = tensors
        return tensors

    def absorb_merging_bias(self) -> None:
        """Move a bias that merging gave a Swin reduction into the norm before it, exactly.

        timm's reduction has none: with the norm's bias beta, W beta + f = W (beta + W^+ f), where
        W^+ is the right inverse of W (2d x 4d).
        """
        for merge in self.merges:
            layer, norm = merge.reduction.module, merge.norm.module
            if layer.bias is not None:
                # on a GPU lstsq has no driver for fewer rows than columns
                weight, bias = layer.weight.detach().double().cpu(), layer.bias.detach().cpu()
                step = torch.linalg.lstsq(weight, bias[:, None].double(), driver="gelsd").solution
                absorbed = norm.bias.double() + step[:, 0].to(norm.bias.device)
                absorbed = absorbed.to(norm.bias.dtype)
                norm.bias = nn.Parameter(absorbed, requires_grad=False)
                layer.bias = None

    def layers(self, spec: str) -> list[Block]:
        """Blocks by a spec: "all", "none", "first:3", "last:3", or indices from 0 such as "0-2,5".

        Raises:
            MethodError: not a spec, or a block that the model does not have.
        """
        depth = len(self.blocks)
        how, _, number = spec.partition(":")
        try:
            if spec in ("all", "none"):
                chosen = range(depth) if spec == "all" else range(0)
            elif how in ("first", "last"):
                k = int(number)
                chosen = range(k) if how == "first" else range(depth - k, depth)
            else:
                chosen = []
                for part in spec.split(","):
                    start, _, end = part.partition("-")
                    chosen.extend(range(int(start), int(end or start) + 1))
        except ValueError:
            raise MethodError(
                f"layers {spec!r}: expected all, none, first:K, last:K or indices like 0-2,5"
            ) from None
        if any(not 0 <= i < depth for i in chosen):
            raise MethodError(f"layers {spec!r}: the model has blocks 0 to {depth - 1}")
        return [self.blocks[i] for i in sorted(set(chosen))]


@dataclass(frozen=True)
class Step:
    """A part of a model's forward pass: what it does, with which modules and loose parameters."""

    run: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...] = ()

    @property
    def block(self) -> bool:
        """Whether it is a transformer block."""
        return any(hasattr(module, "attn") for module in self.modules)

    @property
    def fixed(self) -> bool:
        """Whether an input always gives the same output in training: nothing in it is trained or
        random, and all of it is torch's or timm's own.
        """
        inside = [module for top in self.modules for module in top.modules()]
        parameters = [*self.parameters, *(p for module in inside for p in module.parameters(False))]
        return not any(p.requires_grad for p in parameters) and all(map(_is_fixed, inside))


def _is_fixed(module: nn.Module) -> bool:
    own = type(module).__module__.split(".")[0] in ("torch", "timm")
    hooked = module._forward_hooks or module._forward_pre_hooks
    random = any(getattr(module, rate, 0) for rate in ("p", "drop_prob", "prob"))
    counts = getattr(module, "track_running_stats", False)  # BatchNorm
    return own and not (hooked or random or counts)


def forward_steps(model: nn.Module) -> list[Step]:
    """The forward pass of a timm ViT or Swin, with a method or without, as steps in a row.

    Images (B, 3, H, W) go into the first, logits (B, classes) come out of the last. Any other model
    is one step.
    """

    def step(module: nn.Module) -> Step:
        return Step(module, (module,))

    if isinstance(model, VisionTransformer):
        loose = (model.cls_token, model.reg_token, model.pos_embed)
        loose = tuple(tensor for tensor in loose if tensor is not None)
        attention_pool = () if model.attn_pool is None else (model.attn_pool,)
        return [
            step(model.patch_embed),
            Step(model._pos_embed, (model.pos_drop,), loose),
            *map(step, (model.patch_drop, model.norm_pre, *model.blocks, model.norm)),
            Step(model.pool, attention_pool),
            *map(step, (model.fc_norm, model.head_drop, model.head)),
        ]
    if not isinstance(model, SwinTransformer):
        return [step(model)]
    stages = [module for stage in model.layers for module in (stage.downsample, *stage.blocks)]
    head = (model.head.global_pool, model.head.drop, model.head.fc, model.head.flatten)
    return [step(module) for module in (model.patch_embed, *stages, model.norm, *head)]


def set_drop_path(model: nn.Module, rate: float, kind: str = "path") -> None:
    """Drop out residual branches: probability 0 in the first block, rising linearly to `rate`.

    Both branches of every block, ViT and Swin, whether a method has been attached or not: a method
    that takes over a block keeps the two places where timm does this. Replaces what was there, so
    rate 0 turns off what timm's Swin has by default (0.1).

    Args:
        kind: "path" drops a sample's whole branch (timm's stochastic depth); "element" is plain
            dropout on the branch's output, which is what the RLRR code does on a ViT.
    """
    makers = {"path": DropPath, "element": nn.Dropout}
    if kind not in makers:
        raise MethodError(f"drop path kind: found {kind!r}, expected path or element")
    if not 0 <= rate < 1:
        raise MethodError(f"drop path rate: found {rate!r}, expected 0 <= rate < 1")
    blocks = [module for module in model.modules() if hasattr(module, "drop_path2")]
    for index, block in enumerate(blocks):
        p = rate * index / max(len(blocks) - 1, 1)
        for name in ("drop_path1", "drop_path2"):
            drop = makers[kind](p) if p > 0 else nn.Identity()
            setattr(block, name, drop.train(block.training))


def set_dropout(model: nn.Module, rate: float) -> None:
    """Dropout of a ViT's embedding (after the position table) and MLPs (after GELU and fc2).

    These are the places of VPT's ViT, which uses 0.1 in full fine-tuning; its attention weights and
    projections have none. Works before or after a method is attached.

    Raises:
        MethodError: the model is not a ViT, or the rate is not in [0, 1).
    """
    if not isinstance(model, VisionTransformer):
        raise MethodError(f"{type(model).__name__}: set_dropout is for a VisionTransformer")
    if not 0 <= rate < 1:
        raise MethodError(f"dropout rate: found {rate!r}, expected 0 <= rate < 1")
    model.pos_drop.p = rate
    for module in model.modules():
        if isinstance(module, Mlp):
            module.drop1.p = module.drop2.p = rate

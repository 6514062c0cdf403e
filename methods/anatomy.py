"""One view of timm's ViT and Swin: every place where a method can attach, by its usual name.

All knowledge of timm's module names lives here. A place is a `Slot` (which module of which parent);
a method puts its own module there, usually an `Adapted` one that keeps the pre-trained tensors
under timm's names, so that a state dict still shows what is timm's and what is the method's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from timm.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from .registry import MethodError

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
    """One transformer block: where its parts are, its width D, heads and stage (0 on a ViT)."""

    index: int
    stage: int
    width: int
    heads: int
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
    """A Swin patch merging: LayerNorm(4d), then Linear(4d -> 2d) without bias."""

    norm: Slot
    reduction: Slot


class Anatomy:
    """Where things are in a timm ViT or Swin.

    Attributes:
        kind: "vit" or "swin".
        width: features that the head sees.
        patch: the patch convolution; patch_norm: the LayerNorm after it (Swin) or None.
        blocks: the transformer blocks, first to last; merges: Swin's patch mergings.
        norm: the final LayerNorm; head: the linear classifier.

    Raises:
        MethodError: the model is neither, or has been changed by a method already.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        if isinstance(model, VisionTransformer):
            self.kind, stages = "vit", [(model.blocks, "blocks")]
            self.head = Slot(model, "head", "head")
        elif isinstance(model, SwinTransformer):
            self.kind = "swin"
            stages = [(s.blocks, f"layers.{i}.blocks") for i, s in enumerate(model.layers)]
            self.head = Slot(model.head, "fc", "head.fc")
        else:
            raise MethodError(
                f"{type(model).__name__}: methods attach to timm's VisionTransformer and "
                "SwinTransformer"
            )
        self.width: int = model.num_features
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
                parts = [
                    Slot(stage.downsample, name, f"layers.{i}.downsample.{name}")
                    for name in ("norm", "reduction")
                ]
                self.merges.append(Merging(*parts))

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
        return Block(len(self.blocks), stage, width, heads, slot, **slots)

    def absorb_merging_bias(self) -> None:
        """Move a bias that merging gave a Swin reduction into the norm before it, exactly.

        timm's reduction has none: with the norm's bias beta, W beta + f = W (beta + W^+ f), where
        W^+ is the right inverse of W (2d x 4d).
        """
        for merge in self.merges:
            layer, norm = merge.reduction.module, merge.norm.module
            if layer.bias is not None:
                weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
                step = torch.linalg.lstsq(weight, bias[:, None], driver="gelsd").solution[:, 0]
                absorbed = (norm.bias.double() + step).to(norm.bias.dtype)
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


class Adapted(nn.Module):
    """A module that takes over a timm module's tensors, under their names, and adds its own.

    Subclass it together with the module's type, `class Scaled(Adapted, nn.Linear)`, create
    parameters with `new`, override `forward`, and give `folded` if the result can be written as
    the plain module with other weights.
    """

    def __init__(self, base: nn.Module):
        nn.Module.__init__(self)
        self.__dict__.update({key: _copied(value) for key, value in base.__dict__.items()})
        self.base_type, self.base_attributes = type(base), tuple(base.__dict__)

    def new(self, *shape: int, init: Callable[[Tensor], Tensor]) -> nn.Parameter:
        """A trainable parameter on the module's device: float32, or float64 if the module is."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return nn.Parameter(init(torch.empty(shape, device=self.weight.device, dtype=dtype)))

    def folded(self) -> dict[str, Tensor]:
        """The plain module's tensors that give the same function, such as weight and bias."""
        raise NotImplementedError

    def merged(self) -> nn.Module:
        """The plain module, of the type that was there before, with the folded tensors."""
        plain = self.base_type.__new__(self.base_type)
        nn.Module.__init__(plain)
        for key in self.base_attributes:
            plain.__dict__[key] = _copied(self.__dict__[key])
        plain._parameters = {name: self._parameters[name] for name in ("weight", "bias")}
        plain._buffers, plain._modules = {}, {}
        for name, value in self.folded().items():
            value = value.detach().to(self.weight.dtype)
            plain._parameters[name] = nn.Parameter(value, requires_grad=False)
        return plain


def _copied(value):
    """Tables (dict, set) are copied so that additions do not reach the original; the rest is not."""
    return value.copy() if isinstance(value, dict | set) else value

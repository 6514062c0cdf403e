"""The parts of a backbone by their usual names, the same in every family.

A `Slot` says which module of which parent. A method puts its own module there, usually an `Adapted`
one that keeps the pre-trained tensors under timm's names, so that a state dict still shows what is
timm's and what is the method's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

LINEARS = ("q", "k", "v", "out", "fc1", "fc2")


@dataclass(frozen=True)
class Slot:
    """Attribute `name` of `parent`, and what is there; `path` is its name in the state dict."""

    parent: nn.Module
    name: str
    path: str

    @property
    def module(self) -> nn.Module:
        return getattr(self.parent, self.name)

    def put(self, module: nn.Module) -> None:
        module.train(self.module.training)
        setattr(self.parent, self.name, module)

    def inside(self, name: str) -> "Slot":
        """The slot of a child of the module that is here."""
        return Slot(self.module, name, f"{self.path}.{name}")


@dataclass(frozen=True)
class Block:
    """One transformer block: where its parts are, its width D, heads and stage.

    stage: 0 for every block of a family without stages.
    grid: (height, width) of its tokens if they lie in a plane (Swin); None if in a row (ViT).
    window: (height, width) of an attention window (Swin); None if attention is global (ViT).
    """

    index: int
    stage: int
    width: int
    heads: int
    grid: tuple[int, int] | None
    window: tuple[int, int] | None
    block: Slot
    norm1: Slot
    attn: Slot
    qkv: Slot
    out: Slot
    norm2: Slot
    mlp: Slot
    fc1: Slot
    fc2: Slot

    @property
    def position_table(self) -> int:
        """Entries of the attention's relative-position table; 0 if it has none (ViT)."""
        if self.window is None:
            return 0
        height, width = self.window
        return (2 * height - 1) * (2 * width - 1) * self.heads

    def linears(self, wanted: Iterable[str] = LINEARS) -> list[tuple[Slot, dict[str, slice]]]:
        """The linear layers that hold the `wanted` ones of q, k, v, out, fc1, fc2.

        timm fuses q, k and v into one layer, so each comes with its rows of the layer's output.
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

    def absorb_bias(self) -> None:
        """Move a bias that merging a method gave the reduction into the norm before it, exactly.

        timm's reduction has none: with the norm's bias beta, W beta + f = W (beta + W^+ f), where
        W^+ is the right inverse of W (2d x 4d).
        """
        layer, norm = self.reduction.module, self.norm.module
        if layer.bias is None:
            return
        # on a GPU lstsq has no driver for fewer rows than columns
        weight, bias = layer.weight.detach().double().cpu(), layer.bias.detach().cpu()
        step = torch.linalg.lstsq(weight, bias[:, None].double(), driver="gelsd").solution
        absorbed = norm.bias.double() + step[:, 0].to(norm.bias.device)
        norm.bias = nn.Parameter(absorbed.to(norm.bias.dtype), requires_grad=False)
        layer.bias = None


@dataclass(frozen=True, eq=False, repr=False)
class Layout:
    """What is where in one model.

    Attributes:
        width: features that the head sees.
        prefix: tokens before the patches (a ViT's class token).
        pooling: "token" (the class token is classified) or how the tokens are pooled.
        patch: the patch convolution; patch_norm: the LayerNorm after it, None without one.
        blocks: the transformer blocks, first to last; merges: the patch mergings between stages.
        norm: the final LayerNorm; before_head: the dropout before the head.
        head: the linear classifier.
    """

    width: int
    prefix: int
    pooling: str
    patch: Slot
    patch_norm: Slot | None
    blocks: list[Block]
    merges: list[Merging]
    norm: Slot
    before_head: Slot
    head: Slot


def patch_slots(model: nn.Module) -> tuple[Slot, Slot | None]:
    """`Layout.patch` and `Layout.patch_norm` of a model with timm's PatchEmbed."""
    embedding = Slot(model, "patch_embed", "patch_embed")
    has_norm = not isinstance(embedding.module.norm, nn.Identity)
    return embedding.inside("proj"), embedding.inside("norm") if has_norm else None


def block_slots(
    slot: Slot,
    index: int,
    stage: int = 0,
    grid: tuple[int, int] | None = None,
    window: tuple[int, int] | None = None,
) -> Block:
    """The block in `slot`, whose parts have the names that most of timm's families use."""
    attn, mlp = slot.inside("attn"), slot.inside("mlp")
    qkv = attn.inside("qkv")
    return Block(
        index=index,
        stage=stage,
        width=qkv.module.in_features,
        heads=attn.module.num_heads,
        grid=grid,
        window=window,
        block=slot,
        norm1=slot.inside("norm1"),
        attn=attn,
        qkv=qkv,
        out=attn.inside("proj"),
        norm2=slot.inside("norm2"),
        mlp=mlp,
        fc1=mlp.inside("fc1"),
        fc2=mlp.inside("fc2"),
    )

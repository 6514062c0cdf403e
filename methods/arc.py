"""ARC: a low-rank symmetric map on the input of attention and MLP, its basis shared.

Dong et al., "Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing", NeurIPS
2023.

    X' = X M + a,  M = I + U diag(c) U^T,    U: D x r  for all blocks,  c: r,  a: D  for each

Sites: the normalised input of q, k, v and that of fc1 (`sites="attention"`: the first only), each
with its own U. Dropout on the r-wide code X U diag(c). Swin has a U for every stage and site, and
there, as in the authors' code, the MLP site acts on the residual stream before the norm.

U starts Xavier-uniform, a at zero, c at zero in the attention site but Xavier-uniform as a 1 x r
tensor in the MLP site: not the pre-trained function (about 9 % of the MLP's input at D = 768).

Parameters: sites (sum of D r over the stages + L r + SD); ViT: sites (D r + L (r + D)).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .anatomy import Adapted, AdaptedBlock, Anatomy
from .anatomy.adapted import fresh, refer


@dataclass(frozen=True)
class Options:
    rank: int = 50
    sites: Literal["both", "attention"] = "both"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"option rank: found {self.rank}, expected 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


class Rescale(nn.Module):
    """X' = X M + a for one block, with the U that `shared` holds under `key`."""

    def __init__(self, shared: nn.ParameterDict, key: str, site: str, dropout: float):
        super().__init__()
        refer(self, shared)
        self.key, self.dropout = key, nn.Dropout(dropout)
        width, r = shared[key].shape
        start = nn.init.zeros_ if site == "attention" else nn.init.xavier_uniform_
        self.c = fresh(shared[key], r, init=lambda t: start(t[None])[0])
        self.a = fresh(shared[key], width, init=nn.init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        u = self.shared[self.key]
        return x + self.dropout((x @ u) * self.c) @ u.T + self.a

    def matrix(self) -> Tensor:
        """M (D x D), symmetric."""
        u = self.shared[self.key]
        return torch.eye(len(u), dtype=u.dtype, device=u.device) + (u * self.c) @ u.T


class ARCLinear(Adapted, nn.Linear):
    """A linear layer on the mapped input."""

    def __init__(self, base: nn.Linear, rescale: Rescale):
        super().__init__(base)
        self.arc = rescale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.arc(x))

    def folded(self) -> dict[str, Tensor]:
        return {
            "weight": self.weight @ self.arc.matrix(),
            "bias": self.bias + self.weight @ self.arc.a,
        }


class ARCBlock(AdaptedBlock):
    """A block whose residual stream is mapped between its attention and its MLP."""

    CANNOT_MERGE = "on Swin the MLP site changes the residual stream, not the input of a layer"

    def __init__(self, base: nn.Module, rescale: Rescale):
        super().__init__(base)
        self.arc = rescale

    def forward(self, x: Tensor) -> Tensor:
        x = self.arc(x + self.attention_branch(x))
        return x + self.mlp_branch(x)


def attach(anatomy: Anatomy, options: Options) -> None:
    shared = anatomy.share(nn.ParameterDict())
    sites = ("attention", "mlp") if options.sites == "both" else ("attention",)

    def rescale(site: str, stage: int) -> Rescale:
        return Rescale(shared, f"{site}_{stage}", site, options.dropout)

    for block in anatomy.blocks:
        like, stage = block.fc1.module.weight, block.stage
        for site in sites:
            if f"{site}_{stage}" not in shared:
                u = fresh(like, block.width, options.rank, init=nn.init.xavier_uniform_)
                shared[f"{site}_{stage}"] = u
        block.qkv.put(ARCLinear(block.qkv.module, rescale("attention", stage)))
        if "mlp" in sites and anatomy.kind == "vit":
            block.fc1.put(ARCLinear(block.fc1.module, rescale("mlp", stage)))
        elif "mlp" in sites:
            block.block.put(ARCBlock(block.block.module, rescale("mlp", stage)))


def count(anatomy: Anatomy, options: Options) -> int:
    sites, r = 2 if options.sites == "both" else 1, options.rank
    stages = {block.stage: block.width for block in anatomy.blocks}
    blocks = sum(r + block.width for block in anatomy.blocks)
    return sites * (sum(width * r for width in stages.values()) + blocks)

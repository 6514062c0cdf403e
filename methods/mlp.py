"""MLP-k: hidden layers before the classifier, on the frozen backbone's features.

    h <- Dropout(BatchNorm(ReLU(h W + c))),  k - 1 times;  W: D x D,  c: D;  then the classifier

A baseline of Jia et al., "Visual Prompt Tuning", ECCV 2022. As in their code, normalisation comes
after the ReLU and MLP-4 means three hidden layers and the classifier. Weights start Kaiming-normal
with fan-out; the classifier is the model's own head. BatchNorm needs two samples in a batch.

Parameters: (k - 1) (D^2 + 3 D).
"""

from dataclasses import dataclass

from torch import nn

from .anatomy import Anatomy

CANNOT_MERGE = "the hidden layers before the classifier are not linear"


@dataclass(frozen=True)
class Options:
    layers: int = 4  # with the classifier: 4 has 3 hidden ones
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"option layers: found {self.layers}, expected 2 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"option dropout: found {self.dropout}, expected 0 <= p < 1")


def attach(anatomy: Anatomy, options: Options) -> None:
    weight, width = anatomy.head.module.weight, anatomy.width
    hidden: list[nn.Module] = [anatomy.before_head.module]
    for _ in range(options.layers - 1):
        layer = nn.Linear(width, width)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        hidden += [layer, nn.ReLU(), nn.BatchNorm1d(width), nn.Dropout(options.dropout)]
    anatomy.before_head.put(nn.Sequential(*hidden).to(weight))


def count(anatomy: Anatomy, options: Options) -> int:
    return (options.layers - 1) * (anatomy.width**2 + 3 * anatomy.width)

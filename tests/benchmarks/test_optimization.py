"""AdamW as early Hugging Face transformers and VPT have it, against a plain one by the formula."""

import copy

import published
import pytest
import torch
from torch import nn

from rlrr_bench.benchmarks import optimization


@pytest.mark.parametrize("scale", [1e-6, 1.0])
def test_the_early_adamw_step_by_step(scale):
    """In float64, with gradients around epsilon, where the two kinds of epsilon differ."""
    torch.manual_seed(0)
    start = [torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    gradients = [[scale * torch.randn_like(t) for t in start] for _ in range(8)]
    ends = []
    for kind in (published.EarlyAdamW, optimization.TransformersAdamW, torch.optim.AdamW):
        tensors = [nn.Parameter(t.clone()) for t in start]
        groups = [
            {"params": tensors[:1], "weight_decay": 0.01},
            {"params": tensors[1:], "weight_decay": 0.0},
        ]
        more = {} if kind is published.EarlyAdamW else {"eps": 1e-6}
        optimizer = kind(groups, lr=0.1, **more)
        for i, step in enumerate(gradients):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + i)
            for tensor, gradient in zip(tensors, step, strict=True):
                tensor.grad = gradient.clone()
            optimizer.step()
        ends.append(torch.cat([t.detach().flatten() for t in tensors]))
    theirs, ours, torchs = ends
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    assert (torchs - theirs).abs().max() > 1e-3 * (scale < 1e-3) + 1e-6


def test_the_early_adamw_by_tensor_copied_and_saved():
    """A tensor without a gradient waits, with its own count of steps; copies go on as it would."""
    torch.manual_seed(0)
    gradients = torch.randn(9, 2, 4)

    def step(optimizer: torch.optim.Optimizer, rows: torch.Tensor, first: int) -> None:
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        for number, row in enumerate(rows, start=first):
            tensors[0].grad = row[0].clone()
            tensors[1].grad = row[1].clone() if number >= 3 else None
            optimizer.step()

    def make(start: list[torch.Tensor]) -> torch.optim.Optimizer:
        tensors = [nn.Parameter(t.clone()) for t in start]
        return optimization.TransformersAdamW(tensors, lr=0.1, eps=1e-6, weight_decay=0.01)

    def values(optimizer: torch.optim.Optimizer) -> torch.Tensor:
        return torch.cat([p.detach() for g in optimizer.param_groups for p in g["params"]])

    whole = make([torch.ones(4), torch.ones(4)])
    step(whole, gradients, 0)
    groups = [{"params": [nn.Parameter(torch.ones(4))], "weight_decay": 0.01} for _ in range(2)]
    alone = [published.EarlyAdamW([group], 0.1) for group in groups]
    for i, (optimizer, first) in enumerate(zip(alone, (0, 3), strict=True)):
        (parameter,) = optimizer.param_groups[0]["params"]
        for row in gradients[first:]:
            parameter.grad = row[i].clone()
            optimizer.step()
    assert torch.allclose(values(whole), torch.cat([values(o) for o in alone]), rtol=1e-5)

    half = make([torch.ones(4), torch.ones(4)])
    step(half, gradients[:5], 0)
    copied = copy.deepcopy(half)
    loaded = make([p.detach() for p in half.param_groups[0]["params"]])
    loaded.load_state_dict(copy.deepcopy(half.state_dict()))
    for optimizer in (half, copied, loaded):
        step(optimizer, gradients[5:], 5)
        assert torch.equal(values(optimizer), values(whole))

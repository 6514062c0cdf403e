"""Products with their own backward pass against plain autograd; what RLRR's does not keep."""

import pytest
import torch
from small_models import SUPPORTED, backbone, perturb

from rlrr_bench import methods
from rlrr_bench.methods.products import rescaled
from rlrr_bench.methods.rlrr import RLRRLinear

RLRR = [
    {"left": left, "right": right, "residual": residual}
    for left, right in ((True, True), (True, False), (False, True))
    for residual in (True, False)
] + [{"qkv": "fused"}, {"shift": False}, {"left": False, "right": False}]


def has_own(kind: str, name: str, options: dict) -> bool:
    model = methods.apply(name, backbone(kind), **options)
    return any(getattr(module, "fast", None) is not None for module in model.modules())


CASES = [case.values for case in SUPPORTED if has_own(*case.values)]
CASES += [(kind, "rlrr", options) for kind in ("vit", "swin") for options in RLRR]


def results(
    kind: str,
    name: str,
    options: dict,
    fast: bool,
    dtype: torch.dtype = torch.float64,
    autocast: bool = False,
):
    torch.manual_seed(0)
    model = perturb(methods.apply(name, backbone(kind, dtype), **options)).train()
    for module in model.modules():
        if getattr(module, "fast", None) is not None:
            module.fast = fast
    x = torch.randn(3, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x.requires_grad_(True)
    torch.manual_seed(2)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(x)
    logits.float().square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return logits.detach(), x.grad, grads


def test_these_have_their_own():
    assert {name for _, name, _ in CASES} >= {"rlrr", "lora", "fact"}
    assert not {name for _, name, _ in CASES} & {"full", "linear", "bias", "ssf", "arc", "vpt"}


@pytest.mark.parametrize("size", [2**17, 100, None], ids=["whole", "parts", "as on a GPU"])
@pytest.mark.parametrize(("kind", "name", "options"), CASES, ids=str)
def test_gradients_are_those_of_autograd(kind, name, options, size, monkeypatch):
    if size is None:
        monkeypatch.setattr(rescaled, "reduce_in_parts", rescaled.reduce_at_once)
    else:
        monkeypatch.setattr(rescaled, "CACHED", size)
    fast, plain = (results(kind, name, options, fast) for fast in (True, False))
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-9, atol=1e-11)
    assert fast[2].keys() == plain[2].keys()
    for key, gradient in plain[2].items():
        torch.testing.assert_close(fast[2][key], gradient, rtol=1e-9, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["rlrr", "lora", "fact"])
def test_under_autocast_it_is_as_near_to_float32_as_autograd(name):
    exact = results("vit", name, {}, False, torch.float32)
    errors = []
    for fast in (True, False):
        gradients = results("vit", name, {}, fast, torch.float32, autocast=True)[2]
        assert all(g.dtype == torch.float32 for g in gradients.values())
        off = sum((gradients[n] - g).square().sum() for n, g in exact[2].items())
        errors.append((off / sum(g.square().sum() for g in exact[2].values())).sqrt().item())
    assert errors[0] < 0.05 and errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("name", ["rlrr", "lora", "fact"])
def test_a_weight_that_is_trained_is_refused(name):
    model = methods.apply(name, backbone("vit"))
    model.blocks[0].attn.qkv.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match="must be frozen"):
        model(torch.randn(2, 3, 32, 32))


def test_the_rescaled_weight_is_not_kept():
    kept = []
    torch.manual_seed(0)
    model = methods.apply("rlrr", backbone("vit"))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(torch.randn(2, 3, 32, 32))
    parameters = {p.data_ptr() for p in model.parameters()}
    squares = {tuple(m.weight.shape) for m in model.modules() if isinstance(m, RLRRLinear)}
    assert not [t for t in kept if tuple(t.shape) in squares and t.data_ptr() not in parameters]

"""The published training loops in small: what they do, driven in their order of calls.

Written from reading and running the authors' public code (VPT, NOAH, SSF, FacT, ARC, RLRR); no line
is copied. Nothing here knows of our recipes: a loop gets a nominal rate and weight decay, makes the
scheduler and the optimizer that the published code makes, names tensors as the published model
does, and says what comes of it.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import timm
import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Named = list[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Loop:
    """One published loop.

    Attributes:
        rates: (optimizer, steps an epoch) -> yields the rate of every step, in order; a caller that
            trains takes its step between two of them, as the loop does.
        optimizer: trained tensors by published name, lr, weight decay -> groups with their decay.
        rename: our name of a tensor -> the published one.
        batch_size, drop_last: of the training loader.
        clip: largest global norm of the gradients; 0: not clipped.
        smoothing, mixup, cutmix, erasing, ema: as called there.
        amp: whether the loop uses autocast; mixed_by: images of a GPU, if there are several.
        mean, std: of the input.
        train, test: torchvision's steps before the conversion to a tensor.
        pool: which of FGVC's lists is trained on.
    """

    rates: Callable[[torch.optim.Optimizer, int], Iterator[float]]
    optimizer: Callable[[Named, float, float], torch.optim.Optimizer]
    rename: Callable[[str], str]
    batch_size: int
    drop_last: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: tuple[nn.Module, ...]
    test: tuple[nn.Module, ...]
    clip: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    ema: float = 0.0
    amp: bool = False
    mixed_by: int = 0
    pool: str = "trainval"

    def steps(self, images: int) -> int:
        """Steps an epoch, as torch's loader counts them."""
        loader = DataLoader(_Numbers(images), self.batch_size, True, drop_last=self.drop_last)
        return len(loader)


class _Numbers(TorchDataset):
    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count


# --- schedules ------------------------------------------------------------------------------------


def _now(optimizer: torch.optim.Optimizer) -> float:
    (rate,) = {group["lr"] for group in optimizer.param_groups}
    return rate


def timm_cosine(
    epochs: int, run: int, warmup: int, warmup_lr: float, min_lr: float, ahead: bool
) -> Callable[[torch.optim.Optimizer, int], Iterator[float]]:
    """timm's scheduler by epochs, `run` of them. ahead: stepped with the number of the epoch to
    come (SSF), else with that of the epoch that is over (RLRR, FacT, NOAH)."""

    def rates(optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
        scheduler = CosineLRScheduler(
            optimizer,
            t_initial=epochs,
            lr_min=min_lr,
            warmup_t=warmup,
            warmup_lr_init=warmup_lr,
            cycle_limit=1,
        )
        for epoch in range(run):
            for _ in range(steps):
                yield _now(optimizer)
            scheduler.step(epoch + 1 if ahead else epoch)

    return rates


def restarts(
    first: int, factor: int, run: int
) -> Callable[[torch.optim.Optimizer, int], Iterator[float]]:
    """RLRR on CUB and Dogs, and with augmentation: torch's restarts put over timm's scheduler,
    stepped with the number of the epoch that is over."""

    def rates(optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
        CosineLRScheduler(optimizer, t_initial=run - 10, warmup_t=10, warmup_lr_init=1e-7)
        scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=factor, eta_min=0)
        for epoch in range(run):
            for _ in range(steps):
                yield _now(optimizer)
            scheduler.step(epoch)

    return rates


def warmup_then_cosine(
    epochs: int, warmup: int, by_step: bool, floor: float = 0.0
) -> Callable[[torch.optim.Optimizer, int], Iterator[float]]:
    """VPT (by epochs) and ARC (by steps): a factor that rises to 1, then a cosine over the rest."""

    def rates(optimizer: torch.optim.Optimizer, steps: int) -> Iterator[float]:
        unit = steps if by_step else 1
        warm, total = warmup * unit, epochs * unit

        def factor(t: int) -> float:
            if t < warm:
                return t / warm
            angle = math.pi * (t - warm) / (total - warm)
            return max(floor, (1 + math.cos(angle)) / 2)

        scheduler = LambdaLR(optimizer, factor)
        for _ in range(epochs):
            for _ in range(steps):
                yield _now(optimizer)
                if by_step:
                    scheduler.step()
            if not by_step:
                scheduler.step()

    return rates


# --- optimizers -----------------------------------------------------------------------------------


def adamw_for_all(named: Named, lr: float, decay: float) -> torch.optim.Optimizer:
    """ARC, FacT: every tensor decays."""
    return torch.optim.AdamW([p for _, p in named], lr=lr, weight_decay=decay)


def adamw_bias_norm(named: Named, lr: float, decay: float) -> torch.optim.Optimizer:
    """RLRR: names with 'bias' or 'norm' are spared."""
    spared = [p for name, p in named if "bias" in name or "norm" in name]
    rest = [p for name, p in named if "bias" not in name and "norm" not in name]
    groups = [{"params": rest, "weight_decay": decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def adamw_timm(named: Named, lr: float, decay: float) -> torch.optim.Optimizer:
    """SSF, NOAH: timm's own groups, which spare vectors."""
    holder = nn.Module()
    for i, (_, parameter) in enumerate(named):
        holder.register_parameter(f"p{i}", parameter)
    return torch.optim.AdamW(param_groups_weight_decay(holder, decay), lr=lr)


class EarlyAdamW(torch.optim.Optimizer):
    """VPT's: the AdamW of early Hugging Face transformers, tensor by tensor.

    The corrections of both moments are in the step's length, epsilon (1e-6) is beside the root of
    the uncorrected second moment, and the decay comes after the step.
    """

    def __init__(self, groups: Iterable[dict], lr: float):
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-6})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            one, two = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["t"] += 1
                state["m"] = one * state["m"] + (1 - one) * p.grad
                state["v"] = two * state["v"] + (1 - two) * p.grad**2
                length = group["lr"] * math.sqrt(1 - two ** state["t"]) / (1 - one ** state["t"])
                p -= length * state["m"] / (state["v"].sqrt() + group["eps"])
                p -= group["lr"] * group["weight_decay"] * p


def vpt_adamw(named: Named, lr: float, decay: float) -> torch.optim.Optimizer:
    """Whatever the decay, if it is not zero, 0.01; with names with 'bias' spared."""
    words = ("bias", "LayerNorm.bias", "LayerNorm.weight")
    spared = [p for name, p in named if any(word in name for word in words)]
    rest = [p for name, p in named if not any(word in name for word in words)]
    groups = [{"params": rest, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    return EarlyAdamW([g for g in groups if g["params"]], lr)


def vpt_sgd(named: Named, lr: float, decay: float) -> torch.optim.Optimizer:
    """A group a tensor; the bias of the last layer is spared."""
    groups = [
        {"params": [p], "weight_decay": 0.0 if "last_layer.bias" in name else decay}
        for name, p in named
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


# --- names ----------------------------------------------------------------------------------------


def _renamer(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def rename(name: str) -> str:
        for pattern, new in pairs:
            name = re.sub(pattern, new, name)
        return name

    return rename


same = _renamer()
rlrr_names = _renamer(
    (r"^patch_embed\.proj\.(scale|shift)$", r"transformer.embeddings.ssf_\1_patch"),
    (r"^norm\.(scale|shift)$", r"transformer.encoder.ssf_\1_enc_norm"),
    (r"^blocks\.(\d+)\.norm1\.(\w+)$", r"transformer.encoder.layer.\1.ssf_\2_attn_norm"),
    (r"^blocks\.(\d+)\.norm2\.(\w+)$", r"transformer.encoder.layer.\1.ssf_\2_ffn_norm"),
    (r"\.left$", ".scale_col"),
    (r"\.right$", ".scale_line"),
    (r"attn\.proj\.", "attn.out."),
    (r"mlp\.(fc\d)\.", r"ffn.\1."),
    (r"^head\.fc\.", "head."),
)
vpt_names = _renamer(
    (r"^blocks\.(\d+)\.prompts$", r"enc.transformer.deep_prompt_embeddings.\1"),
    (r"^prompts$", "enc.transformer.prompt_embeddings"),
    (r"^blocks\.(\d+)\.norm1\.", r"enc.transformer.encoder.layer.\1.attention_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"enc.transformer.encoder.layer.\1.ffn_norm."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"enc.transformer.encoder.layer.\1.attn.out."),
    (r"^blocks\.(\d+)\.mlp_adapter\.0\.", r"enc.transformer.layer.\1.adapter_downsample."),
    (r"^blocks\.(\d+)\.mlp_adapter\.\d\.", r"enc.transformer.layer.\1.adapter_upsample."),
    (r"^norm\.", "enc.transformer.encoder.encoder_norm."),
    (r"^patch_embed\.proj\.", "enc.transformer.embeddings.patch_embeddings."),
    (r"^head_drop\.", "head.projection."),  # MLP-k on a ViT
    (r"^head\.drop\.", "head.projection."),  # and on Swin
    (r"^head\.(fc\.)?(weight|bias)$", r"head.last_layer.\2"),
)


# --- images ---------------------------------------------------------------------------------------

BICUBIC = v2.InterpolationMode.BICUBIC
squash = (v2.Resize((224, 224), interpolation=BICUBIC),)
squash_256 = v2.Resize((256, 256))  # bilinear, torchvision's default
short_256 = v2.Resize(256)
random_crop = (v2.RandomCrop(224), v2.RandomHorizontalFlip())
centre = v2.CenterCrop(224)
flip = v2.RandomHorizontalFlip()
VTAB = {"train": squash, "test": squash}  # but VPT, whose VTAB came through TensorFlow
SHORT_SIDE = {"train": (short_256, *random_crop), "test": (short_256, centre)}
RLRR_FLIPS = {
    *("dtd", "oxford_iiit_pet", "patch_camelyon", "eurosat", "diabetic_retinopathy"),
    *("clevr_count", "clevr_dist", "dmlab", "kitti", "smallnorb_ele"),
}

# --- the loops ------------------------------------------------------------------------------------

RESTARTING = ("CUB_200_2011", "StanfordDogs")
PUBLISHED = {  # our recipe -> whose loop
    **dict.fromkeys(("vpt", "vpt_shallow", "vpt_deep", "vpt_swin", "vpt_deep_swin"), "vpt"),
    **dict.fromkeys(("fact", "fact_tk", "fact_tt"), "fact"),
    **{"noah": "noah", "ssf": "ssf", "arc": "arc", "arc_swin": "arc"},
    **{"rlrr": "rlrr", "rlrr_aug": "rlrr_aug"},
}


def loop_of(recipe: str, benchmark: str, task: str, method: str, swin: bool = False) -> Loop | None:
    """The loop behind a recipe; None where the source has none for that benchmark."""
    source = PUBLISHED[recipe]
    fgvc = benchmark == "fgvc"
    if source == "vpt":
        sgd = method in ("linear", "mlp", "vpt")
        return Loop(
            rates=warmup_then_cosine(100, 10 if sgd else 5, by_step=False),
            optimizer=vpt_sgd if sgd else vpt_adamw,
            rename=vpt_names,
            batch_size=128 if (recipe, task) == ("vpt_deep", "sun397") else 64,
            drop_last=False,
            mean=IMAGENET[0],
            std=IMAGENET[1],
            pool="train" if fgvc else "trainval",
            **(SHORT_SIDE if fgvc else VTAB),
        )
    if source in ("fact", "noah"):
        if fgvc:
            return None
        return Loop(
            rates=timm_cosine(100, 100, 10, 1e-6, 1e-5, ahead=False),
            optimizer=adamw_for_all if source == "fact" else adamw_timm,
            rename=same,
            batch_size=64,
            drop_last=True,
            mean=IMAGENET[0],
            std=IMAGENET[1],
            **VTAB,
        )
    if source == "ssf":
        more = {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erasing": 0.25, "mixed_by": 32}
        ema = 0.999 if task == "OxfordFlowers" else 0.9998
        crops = (v2.RandomResizedCrop(224), flip)
        short_248 = (v2.Resize(248, interpolation=BICUBIC), centre)
        return Loop(
            rates=timm_cosine(100, 110, 10, 1e-7, 1e-8, ahead=True),
            optimizer=adamw_timm,
            rename=same,
            batch_size=64,
            drop_last=True,
            mean=HALF[0],
            std=HALF[1],
            amp=True,
            **(more | {"ema": ema, "train": crops, "test": short_248} if fgvc else VTAB),
        )
    if source == "arc":
        return Loop(
            rates=warmup_then_cosine(100, 10, by_step=True, floor=1e-6),
            optimizer=adamw_for_all,
            rename=same,
            batch_size=32,
            drop_last=False,
            mean=IMAGENET[0],
            std=IMAGENET[1],
            clip=1.0,
            pool="train" if fgvc else "trainval",
            **(SHORT_SIDE if fgvc else VTAB),
        )
    if swin:
        return None  # its model is published, but no script
    augmented = source == "rlrr_aug" and fgvc
    if augmented:
        rates = restarts(10, 2, 110)
    elif fgvc:
        timms = timm_cosine(50, 60, 10, 1e-7, 1e-8, ahead=False)
        rates = restarts(5, 1, 60) if task in RESTARTING else timms
    else:
        rates = timm_cosine(100, 110, 10, 1e-7, 1e-8, ahead=False)
    more = {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9998} if augmented else {}
    flipped = {"train": (*squash, flip), "test": squash} if task in RLRR_FLIPS else VTAB
    windows = {"train": (squash_256, *random_crop), "test": (squash_256, centre)}
    return Loop(
        rates=rates,
        optimizer=adamw_bias_norm,
        rename=rlrr_names,
        batch_size=32,
        drop_last=augmented and task == "NABirds",
        mean=HALF[0],
        std=HALF[1],
        amp=True,
        **(windows if fgvc else flipped),
        **more,
    )


def drop_rates(tag: str, rate: float) -> list[float]:
    """The rate of stochastic depth of every block, as timm gives it to a model built with it."""
    model = timm.create_model(tag, drop_path_rate=rate)
    blocks = [m for m in model.modules() if hasattr(m, "drop_path1") or hasattr(m, "drop_path")]
    paths = [getattr(block, "drop_path1", getattr(block, "drop_path", None)) for block in blocks]
    return [float(getattr(path, "drop_prob", 0.0) or 0.0) for path in paths]


def to_tensor(image: object, steps: Iterable[nn.Module], loop: Loop) -> Tensor:
    """torchvision's pipeline on a Pillow image, with the loop's normalisation."""
    convert = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True))
    return v2.Compose([*steps, *convert, v2.Normalize(loop.mean, loop.std)])(image)

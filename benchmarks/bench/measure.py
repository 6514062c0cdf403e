"""Clocks, ratios, and the lines of the report."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch


@dataclass(frozen=True)
class Setup:
    """What to measure. rounds: how often the compared runs take turns; methods: which ones."""

    backbone: str
    batch: int
    rounds: int
    methods: tuple[str, ...]
    device: torch.device

    @property
    def pixels(self) -> int:
        """The side of the backbone's input."""
        return timm.get_pretrained_cfg(self.backbone).input_size[-1]


@dataclass
class Measurement:
    """A measured value; `target` is the most it may be (the least, with `at_least`), if any.

    seconds: of the measured thing itself, 0 where that has no meaning.
    """

    what: str
    over: str
    value: float
    target: float | None = None
    at_least: bool = False
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.at_least:
            return "met" if self.value >= self.target else "missed"
        return "met" if self.value <= self.target + 0.005 else "missed"

    @property
    def aim(self) -> str:
        if self.target is None:
            return ""
        return f"{'>=' if self.at_least else '<='} {self.target:g}"


def seconds(run: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(
    runs: dict[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every function in every round, the functions taking turns; one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            passed = seconds(run, device)
            if number:
                times[name].append(passed)
    return times


def ratio(times: dict[str, list[float]], name: str, over: str) -> float:
    """The median over the rounds of the ratio of two times in a round."""
    return statistics.median(a / b for a, b in zip(times[name], times[over], strict=True))

"""Benchmarks with images and backbones of their own: each is a folder here with an `extension.py`.

    BENCHMARK = "shapes"                     its name in the task table
    BACKBONES = ("vit_tiny_shapes.mine",)    timm tags that it defines
    WEIGHTS = Path(...)                      the folder of their checkpoints
    register_backbones()                     make timm know them (imports torch)
    write_data(root)                         put its images below root, unless they are there

The rest of the project knows no such benchmark by name. Nothing here needs torch.
"""

import importlib
from functools import cache
from pathlib import Path
from typing import Protocol


class Extension(Protocol):
    """What an `extension.py` defines."""

    BENCHMARK: str
    BACKBONES: tuple[str, ...]
    WEIGHTS: Path

    def register_backbones(self) -> None: ...

    def write_data(self, root: Path) -> bool: ...


@cache
def extensions() -> dict[str, Extension]:
    """The extensions by the benchmark's name."""
    modules: dict[str, Extension] = {}
    for path in sorted(Path(__file__).parent.glob("*/extension.py")):
        extension = importlib.import_module(f".{path.parent.name}.extension", __package__)
        modules[extension.BENCHMARK] = extension
    return modules


def register_backbone(tag: str) -> bool:
    """Make timm know a backbone that an extension brings; False for all others."""
    for extension in extensions().values():
        if tag.partition(".")[0] in {known.partition(".")[0] for known in extension.BACKBONES}:
            extension.register_backbones()
            return True
    return False

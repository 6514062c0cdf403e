"""How the demo registers itself; see benchmarks/extensions.py."""

from pathlib import Path

BENCHMARK = "demo"
WEIGHTS = Path(__file__).with_name("weights")
BACKBONES = ("vit_demo_patch8_32.shapes", "swin_demo_patch4_window4_32.shapes")


def register_backbones() -> None:
    """Make timm know the two demo backbones; importing their module does it."""
    from . import models  # noqa: F401


def write_data(root: Path) -> bool:
    """Draw the six tasks below root/demo unless they are there; says whether it drew."""
    from .tasks import write_tasks

    return write_tasks(root)

"""Where and how a run happens: everything a run needs that is not part of its id."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunContext:
    """The surroundings of a run: paths, the device, what to keep. None of it is in the run's id.

    Attributes:
        data: holds vtab-1k/<task>/..., and so on.
        weights: a file or folder; None: timm's hub; "random": for smoke runs only.
        cache: of decoded images; None: DATA/.cache.
        device: as torch names it; None: a GPU if there is one.
        deltas: folder that keeps what was trained; None: nothing is kept.
        deltas_mb: larger deltas are not kept (full fine-tuning's has 340 MB).
        resume: folder for the state of runs that are cut short; None: such runs start over.
        resume_seconds: how often that state is saved.
        plain: take no fast path; this changes results by rounding only.
        plugins: method files that lie outside the package.
    """

    data: Path = Path("data")
    weights: str | None = None
    cache: Path | None = None
    device: str | None = None
    deltas: Path | None = None
    deltas_mb: float = 64.0
    resume: Path | None = None
    resume_seconds: float = 180.0
    plain: bool = False
    plugins: tuple[Path, ...] = ()

    def saved_state(self, run_id: str) -> Path | None:
        """Where a run saves its state while it trains; None if it keeps none."""
        return None if self.resume is None else self.resume / f"{run_id}.pt"

"""Which weights are where, without loading them: a stamp of the files, and what it stood for.

A fingerprint of weights takes torch and seconds. It is noted beside the stamp (names, sizes, times)
of the files that it was made of, in <results>/fingerprints.json, which may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
from functools import cache
from pathlib import Path

from .extensions import extensions
from .files import write_text


class Memory:
    """The fingerprints that are known in a results folder, by stamp."""

    def __init__(self, results: Path):
        self.path = results / "fingerprints.json"

    def known(self) -> dict[str, str]:
        """Fingerprints by stamp; empty where the file is missing or damaged."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def learn(self, stamp: str | None, fingerprint: str | None) -> None:
        """Note a fingerprint; a folder that cannot be written costs nothing."""
        known = self.known()
        if stamp and fingerprint and known.get(stamp) != fingerprint:
            with contextlib.suppress(OSError):
                content = known | {stamp: fingerprint}
                write_text(self.path, json.dumps(content, indent=1) + "\n")


@cache
def stamp_at_first(tag: str, weights: str | None) -> str | None:
    """`weights_stamp` as it was when this process first asked: what it loads is not read again."""
    return weights_stamp(tag, weights)


def weights_stamp(tag: str, weights: str | None) -> str | None:
    """Stands for the files that a backbone is loaded from; None: they are not on this machine.

    Args:
        tag, weights: as for `backbones.create`.
    """
    if weights is None or weights == "hub":
        path = _downloaded(tag)
        for extension in extensions().values():
            if weights is None and tag in extension.BACKBONES:
                path = extension.WEIGHTS
    else:
        path = Path(weights)
    if path is None or not path.exists():
        return None
    lines = [tag]
    for file in sorted(path.iterdir()) if path.is_dir() else [path.resolve()]:
        stat = os.stat(file)
        lines.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{tag} {digest[:16]}"


def _downloaded(tag: str) -> Path | None:
    """The checkpoint of a tag in the hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(f"timm/{tag}", "model.safetensors")
    return Path(path) if isinstance(path, str) else None

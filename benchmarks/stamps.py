"""Which weights are where, without loading them: a stamp of the files, and what it stood for.

A fingerprint of weights takes torch and seconds. It is noted beside the stamp (names, sizes, times)
of the files that it was made of, in <results>/fingerprints.json, which may be deleted at any time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from .extensions import extensions
from .files import read_bytes, write_text


class Memory:
    """The fingerprints that are known in a results folder, by stamp."""

    def __init__(self, results: Path):
        self.path = results / "fingerprints.json"

    def known(self) -> dict[str, str]:
        """Fingerprints by stamp; empty where the file is missing or damaged."""
        try:
            content = json.loads(read_bytes(self.path, 2**24))
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
    for extension in extensions().values():
        if weights is None and tag in extension.BACKBONES:  # wherever the package lies: its content
            shipped = sorted(extension.WEIGHTS.iterdir())
            return _stamp(tag, [file.read_bytes() for file in shipped])
    path = _downloaded(tag) if weights in (None, "hub") else Path(str(weights))
    if path is None or not path.exists():
        return None
    parts = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path.resolve()]:
        stat = os.stat(file)
        parts.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}\n".encode())
    return _stamp(tag, parts)


def _stamp(tag: str, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"{tag} {digest.hexdigest()[:16]}"


def _downloaded(tag: str) -> Path | None:
    """The checkpoint of a tag in the hub's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(f"timm/{tag}", "model.safetensors")
    return Path(path) if isinstance(path, str) else None

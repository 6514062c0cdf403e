"""The code of a sweep: a copy of the packages as they are at submission, so that editing goes on.

    <results>/code/<key>/rlrr_bench/{methods,benchmarks,...}/   as an installation has it
    <results>/code/<key>/plugins/, snapshot.json

The key is a hash of the content and of where it comes from: sweeps of the same code share a copy,
but what was copied with uncommitted changes keeps saying so when it is committed later. Jobs import
from their copy alone.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ...benchmarks import provenance
from ...methods import registry


@dataclass(frozen=True)
class Snapshot:
    """A copy: its folder, the plug-in files in it, and a line on where it comes from."""

    folder: Path
    plugins: tuple[Path, ...]
    origin: str


def take(results: Path) -> Snapshot:
    """Copy the code and this process's plug-ins below `results`, or find the copy that is there."""
    sources = {f"rlrr_bench/{name}": path for name, path in provenance.source_files().items()}
    content = {name: path.read_bytes() for name, path in sources.items()}
    plugins = {name: registry.source(name) for name in registry.plugins()}
    content |= {f"plugins/{name}.py": raw for name, raw in plugins.items()}
    code = provenance.current()
    origin = json.dumps({"git_commit": code.commit, "git_dirty": code.dirty}) + "\n"
    digest = hashlib.sha256(origin.encode())
    for name, raw in sorted(content.items()):
        digest.update(f"{name} {len(raw)}\n".encode() + raw)
    key = digest.hexdigest()[:12]
    home = results.resolve() / "code"
    folder = home / key
    if not folder.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".copying-", dir=home))
        try:
            for name, raw in content.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(raw)
            (draft / provenance.SNAPSHOT).write_text(origin)
            draft.chmod(0o755)
            os.rename(draft, folder)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if not folder.is_dir():  # else another process was faster
                raise
    size = sum(map(len, content.values())) / 1e6
    copies = tuple(folder / "plugins" / f"{name}.py" for name in plugins)
    text = f"code {key} ({code.describe()}; {len(content)} files, {size:.1f} MB)"
    return Snapshot(folder, copies, text)


def prune(results: Path, used: Collection[str]) -> None:
    """Remove copies that no unfinished job uses, and what runs under them left half-done."""
    for kind in ("code", "resume"):
        for folder in (results / kind).glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)

"""What a process says of its code: in checkouts, snapshots and installations, edited or not."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import NORMS

from rlrr_bench.benchmarks import provenance
from rlrr_bench.methods import registry

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
SERVE = """
import json, sys
from pathlib import Path
from rlrr_bench.benchmarks import provenance
from rlrr_bench.methods import registry

def origin():
    code = provenance.current()
    return [code.commit, code.dirty]

for line in sys.stdin:
    try:
        answer = eval(line)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str), flush=True)
"""


class Process:
    """A process that imports the packages from a folder and answers questions about its code."""

    def __init__(self, folder: Path):
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, question: str) -> Any:
        """The value of an expression, as JSON has it; an exception as text."""
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Callable[[Path], Process]]:
    """Starts processes, and ends them after the test."""
    processes = []

    def begin(folder: Path) -> Process:
        processes.append(Process(folder))
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a commit")
    return git(folder, "rev-parse", "HEAD")


def append(path: Path, text: str = "\n# edited\n") -> bytes:
    """Append to a file; returns what it held before."""
    before = path.read_bytes()
    path.write_bytes(before + text.encode())
    return before


def copy_packages(folder: Path) -> Path:
    """The packages' files as an installation has them: all inside of rlrr_bench."""
    for name, path in provenance.source_files().items():
        target = folder / "rlrr_bench" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def copy_checkout(folder: Path) -> Path:
    """The packages' files as a checkout has them: side by side."""
    for name, path in provenance.source_files().items():
        target = folder / name if "/" in name else folder / "rlrr_bench" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(provenance.ROOT / name, folder)
    (folder / "README.md").write_text("A checkout.\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with the packages in its only commit."""
    folder = copy_checkout(tmp_path / "checkout")
    git(folder, "init", "-q")
    commit(folder)
    return folder


# --- what counts as uncommitted -------------------------------------------------------------------


def test_only_changes_inside_the_packages_count_as_uncommitted(checkout, start):
    ask = start(checkout)
    first = git(checkout, "rev-parse", "HEAD")
    assert ask("provenance.ROOT") == str(checkout)
    assert ask("origin()") == [first, False]

    append(checkout / "README.md")
    (checkout / "notes.txt").write_text("mine")
    (checkout / "results" / "demo").mkdir(parents=True)
    (checkout / "results" / "demo" / "table2.csv").write_text("")
    (checkout / "paper_tables" / "out").mkdir()
    (checkout / "paper_tables" / "out" / "table2.tex").write_text("")
    (checkout / "methods" / "__pycache__").mkdir()
    (checkout / "methods" / "__pycache__" / "lora.pyc").write_text("")
    assert ask("origin()") == [first, False]

    before = append(checkout / "benchmarks" / "recipes" / "rlrr.yaml")
    assert ask("origin()") == [first, True]
    (checkout / "benchmarks" / "recipes" / "rlrr.yaml").write_bytes(before)
    assert ask("origin()") == [first, False]

    mine = checkout / "methods" / "mine.py"
    mine.write_text(NORMS)
    assert ask("origin()") == [first, True]
    git(checkout, "add", "methods/mine.py")  # staged is not committed
    assert ask("origin()") == [first, True]
    second = commit(checkout)
    assert ask("origin()") == [second, False]

    mine.unlink()
    assert ask("origin()") == [second, True]


@pytest.mark.parametrize("name", ["launch/worker.py", "rlrr_bench/__init__.py"])
def test_an_edited_file_of_any_package_counts(checkout, start, name):
    append(checkout / name)
    assert start(checkout)("origin()") == [git(checkout, "rev-parse", "HEAD"), True]


def test_a_plug_in_counts_unless_a_commit_of_its_repository_holds_it(checkout, start, tmp_path):
    plugin = tmp_path / "plugins" / "norms.py"
    plugin.parent.mkdir()
    plugin.write_text(NORMS)
    first, ask = git(checkout, "rev-parse", "HEAD"), start(checkout)
    assert ask("origin()") == [first, False]
    assert ask(f"registry.add_plugin({str(plugin)!r})") == "norms"
    assert ask("origin()") == [first, True]  # it is in no repository

    git(plugin.parent, "init", "-q")
    assert ask("origin()") == [first, True]
    commit(plugin.parent)
    assert ask("origin()") == [first, False]
    assert ask("provenance.current().plugins") == {"norms": ask("registry.code_hash('norms')")}

    append(plugin)
    assert ask("origin()") == [first, True]
    commit(plugin.parent)
    assert ask("origin()") == [first, False]
    append(checkout / "methods" / "lora.py")
    assert ask("origin()") == [first, True]


def test_without_git_nothing_is_known(tmp_path, start):
    ask = start(copy_checkout(tmp_path / "unpacked"))
    assert ask("provenance.ROOT") == str(tmp_path / "unpacked")
    assert ask("origin()") == [None, None]
    git(tmp_path / "unpacked", "init", "-q")
    assert ask("origin()") == [None, None]  # there is no commit


# --- the digest -----------------------------------------------------------------------------------


def digest(root: Path) -> str:
    return provenance.digest_of(provenance.source_files(root))


def test_the_digest_is_of_names_and_content_of_package_files_alone(tmp_path):
    root = copy_checkout(tmp_path)
    first = digest(root)
    assert first == digest(provenance.ROOT) and len(first) == 12

    git(root, "init", "-q")
    commit(root)
    append(root / "README.md")
    append(root / "pyproject.toml")
    (root / "tests").mkdir()
    (root / "tests" / "test_all.py").write_text("")
    (root / "methods" / "__pycache__").mkdir()
    (root / "methods" / "__pycache__" / "lora.pyc").write_text("x")
    (root / "paper_tables" / "out").mkdir()
    (root / "paper_tables" / "out" / "table2.tex").write_text("x")
    os.utime(root / "methods" / "lora.py", (1, 1))
    assert digest(root) == first

    seen = {first}
    inside = ("methods/lora.py", "benchmarks/tasks.csv", "launch/slurm/settings.yaml")
    for name in (*inside, "rlrr_bench/__init__.py"):
        before = append(root / name, " ")
        seen.add(digest(root))
        (root / name).write_bytes(before)
        assert digest(root) == first
    (root / "methods" / "empty.py").write_text("")
    seen.add(digest(root))
    (root / "methods" / "empty.py").rename(root / "methods" / "blank.py")
    seen.add(digest(root))
    (root / "methods" / "blank.py").rename(root / "benchmarks" / "blank.py")
    seen.add(digest(root))
    (root / "benchmarks" / "blank.py").unlink()
    assert digest(root) == first
    (root / "methods" / "bias.py").unlink()
    seen.add(digest(root))
    assert len(seen) == 9


def test_the_digest_tells_where_one_file_ends_and_the_next_begins(tmp_path):
    files = {name: tmp_path / name for name in ("a.py", "b.py")}
    seen = set()
    for first, second in (("xy", "z"), ("x", "yz"), ("", "xyz")):
        files["a.py"].write_text(first)
        files["b.py"].write_text(second)
        seen.add(provenance.digest_of(files))
    assert len(seen) == 3


# --- what a process says while its files change ---------------------------------------------------


def test_a_process_keeps_what_it_was_at_its_start(checkout, start, tmp_path):
    plugin = tmp_path / "norms.py"
    plugin.write_text(NORMS)
    first, ask = git(checkout, "rev-parse", "HEAD"), start(checkout)
    append(checkout / "methods" / "lora.py")
    ask(f"registry.add_plugin({str(plugin)!r})")
    begun = ask("provenance.at_start().to_dict()")
    assert (begun["git_commit"], begun["git_dirty"]) == (first, True)
    assert begun["code"] == digest(checkout) and list(begun["plugins"]) == ["norms"]

    append(checkout / "methods" / "lora.py")
    append(plugin)
    second = commit(checkout)
    assert ask("provenance.at_start().to_dict()") == begun
    now = ask("provenance.current().to_dict()")
    assert now["git_commit"] == second != first and now["code"] == digest(checkout)
    assert now["code"] != begun["code"]
    assert now["plugins"] == begun["plugins"]  # what was registered is what runs
    assert ask("provenance.at_start().describe()") == f"commit {first[:10]}, uncommitted changes"


def test_an_edit_after_the_start_is_refused(checkout, start):
    ask = start(checkout)
    ask("provenance.at_start()")
    assert ask("provenance.confirm()") is None
    append(checkout / "README.md")
    assert ask("provenance.confirm()") is None
    before = append(checkout / "benchmarks" / "trainer.py")
    refused = f"CodeChanged: {checkout}: the code was edited while a process started; try again"
    assert ask("provenance.confirm()") == refused
    commit(checkout)
    assert ask("provenance.confirm()") == refused
    (checkout / "benchmarks" / "trainer.py").write_bytes(before)
    assert ask("provenance.confirm()") is None


# --- snapshots and installations ------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["in the checkout", "elsewhere"])
def test_a_snapshot_answers_what_it_is_a_copy_of(checkout, start, tmp_path, inside):
    """Also where the results folder lies in a checkout, whose git says something else."""
    home = checkout / "results" / "demo" if inside else tmp_path / "results"
    key = copy_packages(home / "code" / "0123456789ab")
    plugin = key / "plugins" / "norms.py"
    plugin.parent.mkdir()
    plugin.write_text(NORMS)
    (key / "snapshot.json").write_text('{"git_commit": "abcd", "git_dirty": false}\n')
    ask = start(key)
    assert ask("provenance.ROOT") == str(key / "rlrr_bench")
    assert ask("provenance.current().digest") == digest(checkout)
    ask(f"registry.add_plugin({str(plugin)!r})")  # a copy too, of which the note speaks
    for answer in (["abcd", False], ["abcd", True], [None, None]):
        note = dict(zip(("git_commit", "git_dirty"), answer, strict=True))
        (key / "snapshot.json").write_text(json.dumps(note) + "\n")
        assert ask("origin()") == answer


def test_an_installation_is_what_was_released_until_it_is_edited(tmp_path, start):
    """Files and hashes as pip writes them down in RECORD."""
    site = copy_packages(tmp_path / "site")
    info = site / "rlrr_bench-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rlrr-bench\nVersion: 9.9\n")
    lines = [f"{info.name}/RECORD,,"]
    for path in sorted((site / "rlrr_bench").rglob("*")):
        if path.is_file():
            raw = hashlib.sha256(path.read_bytes()).digest()
            code = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
            lines.append(f"{path.relative_to(site)},sha256={code},{path.stat().st_size}")
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    ask = start(site)
    assert ask("origin()") == [None, False]
    assert ask("provenance.current().version") == "9.9"
    assert ask("provenance.current().digest") == digest(provenance.ROOT)
    assert ask("provenance.current().describe()") == "version 9.9"
    before = append(site / "rlrr_bench" / "methods" / "lora.py")
    assert ask("origin()") == [None, None]
    (site / "rlrr_bench" / "methods" / "lora.py").write_bytes(before)
    assert ask("origin()") == [None, False]
    (site / "rlrr_bench" / "methods" / "mine.py").write_text(NORMS)
    assert ask("origin()") == [None, None]


# --- a method's code ------------------------------------------------------------------------------


def test_a_plug_in_is_the_text_that_was_registered(tmp_path, no_plugins):
    plugin = tmp_path / "norms.py"
    plugin.write_text(NORMS)
    registry.add_plugin(plugin)
    first = registry.code_hash("norms")
    assert registry.code_files("norms") == [plugin] and len(first) == 12
    plugin.write_text(NORMS.replace("norm1", "norm2"))
    assert registry.code_hash("norms") == first
    assert registry.source("norms") == NORMS.encode()
    assert "norm1" in registry.module("norms").attach.__code__.co_names
    registry.add_plugin(plugin)
    second = registry.code_hash("norms")
    assert second != first
    assert "norm2" in registry.module("norms").attach.__code__.co_names
    plugin.write_text(NORMS)
    registry.add_plugin(plugin)
    assert registry.code_hash("norms") == first


def test_a_plug_in_that_uses_files_of_the_package_has_them_in_its_code(tmp_path, no_plugins):
    plugin = tmp_path / "norms.py"
    plugin.write_text("from rlrr_bench.methods.products.lowrank import LowRank\n" + NORMS)
    registry.add_plugin(plugin)
    names = [path.name for path in registry.code_files("norms")]
    assert names == ["norms.py", "lowrank.py"]


def test_a_methods_code_is_its_file_and_those_it_imports():
    names = [registry.display(path) for path in registry.code_files("rlrr")]
    assert names[0] == "methods/rlrr.py"
    assert set(names) == {"methods/rlrr.py", "methods/products/rescaled.py", "methods/ssf.py"}
    assert [path.name for path in registry.code_files("linear")] == ["linear.py"]
    hashes = {registry.code_hash(name) for name in registry.built_in()}
    assert len(hashes) == len(registry.built_in())


def test_a_methods_hash_follows_its_own_files_alone(checkout, start):
    ask = start(checkout)

    def code(method: str) -> str:
        ask("registry._forget()")
        return ask(f"registry.code_hash({method!r})")

    rlrr, ssf, lora = code("rlrr"), code("ssf"), code("lora")
    assert rlrr == registry.code_hash("rlrr")
    for name in ("benchmarks/trainer.py", "methods/registry.py", "methods/anatomy/__init__.py"):
        append(checkout / name)
    append(checkout / "methods" / "bias.py")
    assert (code("rlrr"), code("ssf"), code("lora")) == (rlrr, ssf, lora)
    before = append(checkout / "methods" / "products" / "rescaled.py")
    assert code("rlrr") != rlrr and (code("ssf"), code("lora")) == (ssf, lora)
    (checkout / "methods" / "products" / "rescaled.py").write_bytes(before)
    assert code("rlrr") == rlrr
    append(checkout / "methods" / "ssf.py")
    assert code("rlrr") != rlrr and code("ssf") != ssf and code("lora") == lora

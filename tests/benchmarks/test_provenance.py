"""What a process says of its code: in checkouts, snapshots and installations, edited or not."""

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from checkout import append, commit, copy_checkout, copy_packages, git
from samples import NORMS

from rlrr_bench.benchmarks import provenance

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

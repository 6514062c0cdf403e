"""A number cannot lie about what made it: code, plug-ins, weights and pixels that change later."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from checkout import Checkout
from PIL import Image
from safetensors.torch import load_file, save_file
from samples import NORMS, SMALL, write_task

from rlrr_bench.benchmarks import provenance
from rlrr_bench.benchmarks.demo.extension import WEIGHTS
from rlrr_bench.launch import cli

TAG = "vit_demo_patch8_32.shapes"


def main(words: list[str]) -> int:
    """Type a command, in this process as if it were a new one."""
    provenance.at_start.cache_clear()
    return cli.main(words)


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    """One demo task of 16 images, in-process runs of one epoch, folders of its own."""
    write_task(tmp_path / "data", "demo", "digits", SMALL)
    return [
        *("sweep", "--table", "2", "--profile", "demo", "--smoke", "--epochs", "1"),
        *("--tasks", "digits", "--data", str(tmp_path / "data"), "--cluster", "debug"),
        *("--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")),
    ]


def records(folder: Path) -> dict[str, dict]:
    files = (folder / "results" / "runs").glob("*.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


def table(folder: Path) -> str:
    (path,) = (folder / "out").glob("*.md")
    return path.read_text()


def test_an_edited_plug_in_is_told_marked_and_run_again_on_request(demo, tmp_path, capsys):
    plugin = tmp_path / "norms.py"
    plugin.write_text(NORMS)
    words = [*demo, "--rows", "norms", "--plugin", str(plugin)]
    assert main(words) == 0
    (first,) = records(tmp_path).values()
    assert "¶" not in table(tmp_path)
    assert "another" not in capsys.readouterr().out

    plugin.write_text(NORMS.replace("norm1", "norm2"))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "nothing to run" in said
    assert f"1 record of norms was made with another {plugin}" in said.replace("\n", "")
    assert "--rerun makes them anew" in said
    assert "¶" in table(tmp_path) and "have changed (norms)" in table(tmp_path)
    assert list(records(tmp_path).values()) == [first]
    assert main([*words, "--status"]) == 0
    assert "1 record of norms was made with another" in capsys.readouterr().out
    assert main([*words, "--rerun", "--dry-run"]) == 0
    assert "0 done, 1 to do" in capsys.readouterr().out

    assert main([*words, "--rerun"]) == 0
    (second,) = records(tmp_path).values()
    assert second["run_id"] == first["run_id"] and second["method_code"] != first["method_code"]
    assert second["plugins"]["norms"] == second["method_code"]
    (aside,) = (tmp_path / "results" / "aside").iterdir()
    assert json.loads(aside.read_text()) == first
    assert "¶" not in table(tmp_path)
    capsys.readouterr()
    assert main([*words, "--rerun"]) == 0  # nothing is outdated any more
    assert "nothing to run" in capsys.readouterr().out


def test_other_weights_are_told(demo, tmp_path, capsys):
    state = load_file(WEIGHTS / f"{TAG}.safetensors")
    (tmp_path / "same").mkdir()
    (tmp_path / "other").mkdir()
    save_file(state, tmp_path / "same" / "vit.safetensors")
    changed = {**state, "norm.bias": state["norm.bias"] + 1e-3}
    save_file(changed, tmp_path / "other" / "vit.safetensors")
    words = [*demo, "--rows", "linear"]
    assert main([*words, "--weights", str(tmp_path / "same")]) == 0
    capsys.readouterr()
    assert main([*words, "--weights", str(tmp_path / "same" / "vit.safetensors")]) == 0
    assert "other weights" not in capsys.readouterr().out
    assert main([*words, "--weights", str(tmp_path / "other")]) == 0
    said = capsys.readouterr().out
    assert "1 record of Linear probing was made with other weights than these" in said
    assert "¶" in table(tmp_path)
    assert main([*words, "--weights", str(tmp_path / "other"), "--rerun"]) == 0
    assert "¶" not in table(tmp_path)
    (record,) = records(tmp_path).values()
    (aside,) = (tmp_path / "results" / "aside").iterdir()
    assert record["weights_fingerprint"] != json.loads(aside.read_text())["weights_fingerprint"]


def test_other_pixels_are_told(demo, tmp_path, capsys):
    words = [*demo, "--rows", "linear"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "other pixels" not in capsys.readouterr().out
    image = tmp_path / "data" / "demo" / "digits" / "images" / "test" / "000000.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 record of Linear probing was made with other pixels than these" in said
    assert "¶" in table(tmp_path)
    assert main([*words, "--rerun"]) == 0 and "¶" not in table(tmp_path)


def test_nothing_is_put_aside_before_all_is_known_to_be_well(demo, tmp_path, capsys):
    words = [*demo, "--rows", "linear", "--cluster", "local", "--workers", "1"]
    assert main(words) == 0
    before = records(tmp_path)
    folder = tmp_path / "data" / "demo" / "digits" / "images" / "train800val200"
    (folder / "000000.png").write_text("garbage")
    assert main([*words, "--rerun"]) == 2
    assert "cannot be decoded" in capsys.readouterr().err
    assert records(tmp_path) == before and not (tmp_path / "results" / "aside").exists()


def test_a_failed_cell_is_a_failed_command_until_it_is_mended(demo, tmp_path, capsys):
    plugin = tmp_path / "shaky.py"
    helper = "def trouble():\n    raise RuntimeError('no way')\n\n\ndef attach"
    text = NORMS.replace("    for", "    trouble()\n    for", 1)
    plugin.write_text(text.replace("def attach", helper))
    words = [*demo, "--rows", "shaky,linear", "--plugin", str(plugin)]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "RuntimeError: no way" in said and f"{plugin}:" in said.replace("\n", "")
    failed = next(r for r in records(tmp_path).values() if r["status"] == "failed")
    assert failed["reason"] == "error"
    assert [re.search(r":\d+ in (\w+): (.*)", f).groups() for f in failed["traceback"]] == [
        ("attach", "trouble()"),
        ("trouble", "raise RuntimeError('no way')"),
    ]
    assert main(words) == 1  # typed again: nothing to run, and still not well
    assert "nothing to run" in capsys.readouterr().out
    assert main([*words, "--rows", "linear"]) == 0  # of what was asked nothing failed
    plugin.write_text(NORMS)
    assert main([*words, "--retry-failed"]) == 0


@pytest.mark.slow
def test_records_say_which_code_made_them(tmp_path):
    """In a checkout of its own: clean, edited, untracked, committed during a sweep."""
    here = Checkout(tmp_path / "checkout")
    first = here.git("rev-parse", "HEAD")
    write_task(tmp_path / "data", "demo", "digits", SMALL)
    words = [
        *("sweep", "--table", "2", "--profile", "demo", "--smoke", "--epochs", "1"),
        *("--tasks", "digits", "--data", str(tmp_path / "data"), "--cluster", "debug"),
        *("--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")),
    ]

    def made(*more: str) -> dict:
        before = set(records(tmp_path))
        done = here.run(*words, *more)
        assert done.returncode == 0, done.stderr
        new = records(tmp_path)
        return next(new[run_id] for run_id in new if run_id not in before)

    here.edit("README.md")
    record = made("--rows", "linear")
    assert (record["git_commit"], record["git_dirty"]) == (first, False)
    here.edit("methods/linear.py")
    (here.folder / "methods" / "mine.py").write_text(NORMS)  # no commit holds it
    done = here.run(*words, "--rows", "linear,mine")
    assert "1 record of Linear probing was made with another methods/linear.py" in done.stdout
    mine = next(r for r in records(tmp_path).values() if r["config"]["method"] == "mine")
    assert (mine["git_commit"], mine["git_dirty"]) == (first, True)

    # committed while a sweep runs: its records are of code that was not, when it began
    slow = [*words, "--rows", "lora,ssf,rlrr", "--epochs", "60"]
    process = subprocess.Popen(
        here.command(*slow), cwd=tmp_path, env=here.environment, stdout=subprocess.PIPE, text=True
    )
    known, give_up = set(records(tmp_path)), time.monotonic() + 120
    while len(records(tmp_path)) < len(known) + 1:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    second = here.commit()
    process.communicate(timeout=200)
    during = [record for run_id, record in records(tmp_path).items() if run_id not in known]
    assert len(during) == 3 and second != first
    assert {(r["git_commit"], r["git_dirty"]) for r in during} == {(first, True)}


SNAPSHOT = """
import sys
from pathlib import Path
from rlrr_bench.launch.slurm import snapshot
taken = snapshot.take(Path(sys.argv[1]))
print(taken.folder.name, (taken.folder / "snapshot.json").read_text().strip())
"""


def test_a_snapshot_keeps_its_origin(tmp_path):
    """Taken with uncommitted changes, then committed, then taken again: two snapshots."""
    here = Checkout(tmp_path / "checkout")
    clean = here.ask(SNAPSHOT, str(tmp_path / "results"))
    assert json.loads(clean.partition(" ")[2])["git_dirty"] is False
    assert here.ask(SNAPSHOT, str(tmp_path / "results")) == clean  # shared
    here.edit("methods/lora.py")
    dirty = here.ask(SNAPSHOT, str(tmp_path / "results"))
    commit = here.commit()
    committed = here.ask(SNAPSHOT, str(tmp_path / "results"))
    assert len({text.partition(" ")[0] for text in (clean, dirty, committed)}) == 3
    assert json.loads(dirty.partition(" ")[2])["git_dirty"] is True
    assert json.loads(committed.partition(" ")[2]) == {"git_commit": commit, "git_dirty": False}


STALE = """
import os, sys
sys.dont_write_bytecode = False
from rlrr_bench.benchmarks import provenance
from rlrr_bench.methods import registry
provenance.at_start()
registry.module("bias")
try:
    provenance.confirm()
    print("well")
except provenance.CodeChanged as error:
    print(error)
"""


def test_a_compiled_file_of_other_code_is_not_believed(tmp_path):
    """Edited to the same size, with the same time: Python would run the old code."""
    here = Checkout(tmp_path / "checkout")
    assert here.ask(STALE) == "well"
    path = here.folder / "methods" / "bias.py"
    stat, text = path.stat(), path.read_text()
    path.write_text(text.replace("requires_grad_(True)", "requires_grad_(1==1)"[:20], 1))
    assert path.stat().st_size == stat.st_size and path.read_text() != text
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "methods/bias.py: its compiled file was of other code; removed" in here.ask(STALE)
    assert here.ask(STALE) == "well"


def test_what_git_does_not_look_at_is_not_committed(tmp_path):
    here = Checkout(tmp_path / "checkout")
    dirty = "from rlrr_bench.benchmarks import provenance; print(provenance.current().dirty)"
    assert here.ask(dirty) == "False"
    (here.folder / ".git" / "info" / "exclude").write_text("methods/mine.py\n")
    (here.folder / "methods" / "mine.py").write_text(NORMS)
    assert here.ask(dirty) == "True"  # ignored, and a method all the same
    (here.folder / "methods" / "mine.py").unlink()
    here.git("update-index", "--assume-unchanged", "methods/bias.py")
    here.edit("methods/bias.py")
    assert here.ask(dirty) == "True"

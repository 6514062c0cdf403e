"""The command a user types, from the outside: plans, runs, goes on after kill -9, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SWEEP, sweep, typed
from samples import NORMS, SMALL, write_task

pytestmark = pytest.mark.slow  # worker processes


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> list[str]:
    """The demo profile on two tasks of 16 images, with folders of its own."""
    root = tmp_path_factory.mktemp("demo")
    for name in ("digits", "cells"):
        write_task(root / "data", "demo", name, SMALL)
    return [
        *("--table", "2", "--profile", "demo", "--smoke", "--epochs", "1"),
        *("--tasks", "digits,cells", "--data", str(root / "data"), "--workers", "1"),
    ]


def folders(path: Path) -> list[str]:
    return ["--results", str(path / "results"), "--out", str(path / "out")]


def records(path: Path, killed: bool = False) -> dict[str, dict]:
    """The records by id, and nothing else beside them but what a killed writer may leave."""
    files = sorted((path / "results" / "runs").glob("*"))
    drafts = [file for file in files if file.name.startswith(".")]
    assert killed or not drafts
    files = [file for file in files if file not in drafts]
    assert all(file.suffix == ".json" for file in files)
    return {file.stem: json.loads(file.read_text()) for file in files}


def test_dry_run_lists_the_whole_table_at_once_and_without_torch(tmp_path):
    code = (
        "import sys, time; began = time.perf_counter()\n"
        "from rlrr_bench.launch.cli import main; main(['sweep', *sys.argv[1:]])\n"
        "assert 'torch' not in sys.modules; print('seconds', time.perf_counter() - began)"
    )
    command = [sys.executable, "-c", code, "--table", "2", "--dry-run", *folders(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if re.search(r" 19 x 3 +0 +57 +\d", line)]
    assert len(rows) == 14
    assert "798 cells, 798 runs; 0 done, 798 to do" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_status_and_help_need_no_torch(tmp_path):
    for words in (["--help"], ["--table", "2", "--status", *folders(tmp_path)]):
        code = (
            "import sys\ntry:\n    from rlrr_bench.launch.cli import main\n"
            "    main(['sweep', *sys.argv[1:]])\n"
            "except SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, cwd=ROOT)
        assert done.returncode == 0


def test_a_sweep_runs_builds_the_table_and_is_not_run_again(demo, tmp_path):
    words = [*demo, "--rows", "linear,lora", *folders(tmp_path)]
    first = sweep(*words)
    assert first.returncode == 0, first.stderr
    assert "4 runs to do, 0 done before" in first.stdout
    assert "4/4" in first.stdout and "table2-linear" in first.stdout
    made = records(tmp_path)
    assert len(made) == 4 and {r["status"] for r in made.values()} == {"done"}
    assert "a part of table2, so its files are called table2-linear" in first.stdout
    (stem,) = {f.stem for f in (tmp_path / "out").glob("*.md")}
    assert (tmp_path / "out" / f"{stem}.csv").is_file() and stem != "table2"
    lines = (tmp_path / "results" / f"{stem}.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("table,row,run_id,benchmark,task,")
    again = typed(*words)
    assert again.returncode == 0 and "nothing to run: 4 of 4 runs have a record" in again.stdout
    assert records(tmp_path) == made
    status = typed(*words, "--status").stdout
    assert re.search(r"LoRA +2", status) and re.search(r"all +4 +0 +0 +0 +0\n", status)


def test_kill_9_in_the_middle_loses_nothing_and_runs_nothing_twice(demo, tmp_path):
    words = [*demo, "--rows", "full,bias,lora,rlrr,ssf", *folders(tmp_path)]
    process = subprocess.Popen(
        [*SWEEP, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    for line in process.stdout:
        if re.match(r"3/10 ", line):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = records(tmp_path, killed=True)
    assert 3 <= len(before) < 10
    assert sweep(*words).returncode == 0
    after = records(tmp_path, killed=True)
    assert len(after) == 10
    assert all(after[run_id] == record for run_id, record in before.items())
    claims = (tmp_path / "results" / "claims").iterdir()
    assert [file for file in claims if not file.name.startswith(".claim-")] == []  # but drafts


def test_a_killed_sweep_takes_its_workers_along(demo, tmp_path):
    words = [*demo, "--rows", "full,rlrr", "--epochs", "400", *folders(tmp_path)]
    process = subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    claims = tmp_path / "results" / "claims"
    give_up = time.monotonic() + 150
    while not list(claims.glob("*.json")):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    owner = json.loads(next(claims.glob("*.json")).read_text())["pid"]
    process.kill()
    process.wait()
    while Path(f"/proc/{owner}").exists():
        assert time.monotonic() < give_up
        time.sleep(0.1)
    assert re.search(r"all +0 +0 +0 +0 +4\n", typed(*words, "--status").stdout)


def test_ctrl_c_stops_in_one_line_and_can_be_continued(demo, tmp_path):
    words = [*demo, "--rows", "full,bias,lora", "--epochs", "100", *folders(tmp_path)]
    process = subprocess.Popen(  # as from a terminal: a shell's background jobs ignore Ctrl-C
        ["env", "--default-signal=INT", *SWEEP, *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    for line in process.stdout:
        if re.match(r"1/6 ", line):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "stopped; the same command goes on from here"
    assert sweep(*words).returncode == 0 and len(records(tmp_path)) == 6


def test_a_worker_that_dies_costs_one_run(demo, tmp_path):
    words = [*demo, "--rows", "linear,full,bias", "--epochs", "60", *folders(tmp_path)]
    process = subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    claims = tmp_path / "results" / "claims"
    give_up = time.monotonic() + 150
    while not list(claims.glob("*.json")):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    victim = next(claims.glob("*.json"))
    os.kill(json.loads(victim.read_text())["pid"], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == 1
    made = records(tmp_path)
    assert len(made) == 6
    lost = victim.name.split(".")[0]
    assert [r["run_id"] for r in made.values() if r["status"] == "failed"] == [lost]
    assert made[lost]["error"] == "the worker process died (signal 9)"
    again = typed(*words)  # a failure is not tried again by itself, and stays a failure
    assert "nothing to run" in again.stdout and again.returncode == 1
    assert typed(*words, "--retry-failed").returncode == 0
    assert {r["status"] for r in records(tmp_path).values()} == {"done"}


def test_two_sweeps_at_once_share_the_work(demo, tmp_path):
    words = [*demo, "--rows", "full,bias,lora", *folders(tmp_path)]
    both = [subprocess.Popen([*SWEEP, *words], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(records(tmp_path)) == 6
    assert all("6/6" in text for text in said)


def test_a_method_of_ones_own_becomes_a_row(demo, tmp_path):
    plugin = tmp_path / "norms.py"
    plugin.write_text(NORMS)
    done = typed(*demo, "--rows", "norms", "--plugin", str(plugin), *folders(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^norms +\d", done.stdout, re.MULTILINE)
    assert {r["status"] for r in records(tmp_path).values()} == {"done"}


BAD = {
    "row": (["--rows", "lorra"], "unknown row 'lorra' of table2; did you mean lora"),
    "task": (["--tasks", "digit"], "unknown task 'digit' of demo; did you mean digits"),
    "table": (["--table", "7"], "unknown table '7'"),
    "profile": (["--profile", "dmo"], "unknown profile 'dmo'; did you mean demo"),
    "seeds": (["--seeds", "one"], "--seeds: found 'one', expected integers"),
    "plugin": (["--plugin", "none.py"], "none.py: no such plug-in file"),
    "data": (["--data", "/nowhere"], "/nowhere: no such folder"),
    "weights": (["--weights", "{notes}"], "notes.npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_words_are_one_line_and_exit_2(case, demo, tmp_path):
    words, message = BAD[case]
    (tmp_path / "notes.npz").write_text("not weights")
    words = [word.replace("{notes}", str(tmp_path / "notes.npz")) for word in words]
    command = sweep if case in ("row", "weights") else typed  # weights are read by a worker
    done = command(*demo, *words, *folders(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results" / "runs").exists() and not (tmp_path / "out").exists()


def test_a_gpu_that_does_not_work_is_one_line_and_exit_2(demo, tmp_path):
    words = [*SWEEP, *demo, "--rows", "linear", *folders(tmp_path)]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "99"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: device cuda:0 cannot be used: ")
    assert not (tmp_path / "results" / "runs").exists()


def test_a_run_that_breaks_its_gpu_costs_one_run(demo, tmp_path):
    """The plug-in has the device of its process refuse to work from then on."""
    plugin = tmp_path / "shaky.py"
    breaks = """    from rlrr_bench.benchmarks import devices
    def refuse(device):
        raise devices.DeviceError("device cuda cannot be used: illegal access")
    devices.check = refuse
    raise RuntimeError("CUDA error: illegal access")
    for"""
    plugin.write_text(NORMS.replace("    for", breaks, 1))
    words = [*demo, "--rows", "shaky,linear", "--plugin", str(plugin), "--workers", "1"]
    assert sweep(*words, *folders(tmp_path)).returncode == 1
    found = {(r["config"]["method"], r["error"]) for r in records(tmp_path).values()}
    assert found == {("linear", None), ("shaky", "RuntimeError: CUDA error: illegal access")}


@pytest.mark.parametrize("fault", ["label", "missing", "escape", "truncated"])
def test_bad_data_is_one_line_and_exit_2(fault, demo, tmp_path):
    source = Path(demo[demo.index("--data") + 1])
    shutil.copytree(source, tmp_path / "data")
    file = tmp_path / "data" / "demo" / "cells" / "train800val200.txt"
    image = file.parent / "images" / "train800val200" / "000003.png"
    if fault == "missing":
        image.unlink()
    elif fault == "truncated":
        image.write_bytes(image.read_bytes()[:100])
    else:
        lines = file.read_text().splitlines()
        lines[3] = "../x.png 0" if fault == "escape" else "images/train800val200/000003.png 5"
        file.write_text("\n".join(lines))
    words = [*demo, "--rows", "linear", "--data", str(tmp_path / "data"), *folders(tmp_path)]
    command = sweep if fault == "truncated" else typed  # images are read by a worker
    done = command(*words)
    assert done.returncode == 2, done.stderr
    expected = {
        "label": "train800val200.txt:4: found label 5, expected 0 to 4",
        "missing": f"train800val200.txt:4: no such file {image}",
        "escape": "train800val200.txt:4: path '../x.png' leaves the folder",
        "truncated": f"{image}: cannot be decoded",
    }[fault]
    assert expected in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "results" / "runs").exists()

"""A run belongs to one process at a time."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlrr_bench.benchmarks.store import Results
from rlrr_bench.launch.claims import Claims


def test_a_claim_is_taken_once(tmp_path):
    claims = Claims(tmp_path)
    assert claims.take("a") and not claims.take("a") and claims.take("b")
    assert set(claims.holders()) == {"a", "b"}
    claims.release("a")
    assert set(claims.holders()) == {"b"} and claims.take("a")


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    code = "import sys; from rlrr_bench.launch.claims import Claims; Claims(sys.argv[1]).take('a')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    claims = Claims(tmp_path)
    assert list(claims.folder.glob("a.*.json")) and claims.holders() == {}
    assert claims.take("a") and set(claims.holders()) == {"a"}
    assert len(list(claims.folder.iterdir())) == 1


def test_a_reused_pid_is_not_the_owner(tmp_path):
    claims = Claims(tmp_path)
    claims.take("a")
    path, holder = next(claims.folder.iterdir()), claims.holders()["a"].to_dict()
    path.write_text(json.dumps(holder | {"born": "1"}))
    assert claims.holders() == {} and claims.take("a")


def test_a_claim_on_another_host_stands(tmp_path):
    claims = Claims(tmp_path)
    claims.take("a")
    path, holder = next(claims.folder.iterdir()), claims.holders()["a"].to_dict()
    path.write_text(json.dumps(holder | {"host": "elsewhere", "pid": 2**22}))
    assert set(claims.holders()) == {"a"} and not claims.take("a")


def test_a_damaged_claim_is_replaced(tmp_path):
    claims = Claims(tmp_path)
    claims.take("a")
    next(claims.folder.iterdir()).write_text("{")
    assert claims.holders() == {} and claims.take("a")


def test_clean_removes_what_the_dead_left(tmp_path):
    claims = Claims(tmp_path)
    claims.take("mine")
    code = "import sys; from rlrr_bench.launch.claims import Claims; "
    code += "Claims(sys.argv[1]).take('theirs')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    drafts(claims.folder, "claim")
    claims.clean()
    assert {p.name for p in claims.folder.iterdir()} == {"mine.1.json", ".claim-new"}


def test_drafts_of_records_are_removed_when_nobody_can_be_writing_them(tmp_path):
    results = Results(tmp_path)
    results.clean()  # nothing there yet
    results.runs.mkdir()
    results.path("a").write_text("{}")
    drafts(results.runs, "b.json")
    results.clean()
    assert {p.name for p in results.runs.iterdir()} == {"a.json", ".b.json-new"}


def drafts(folder: Path, name: str) -> None:
    """What a killed writer left long ago, and what one is writing now."""
    for age, when in (("old", time.time() - 4000), ("new", time.time())):
        draft = folder / f".{name}-{age}"
        draft.write_text("")
        os.utime(draft, (when, when))


RACE = """
import sys, time
from pathlib import Path
from rlrr_bench.launch.claims import Claims
claims = Claims(sys.argv[1])
while not Path(sys.argv[1], "go").exists():
    pass
print(sum(claims.take(str(i)) for i in range(200)), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("dead", [False, True])
def test_of_four_racing_processes_each_claim_has_one_winner(dead, tmp_path):
    folder = Claims(tmp_path).folder
    folder.mkdir()
    for i in range(200 if dead else 0):
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "born": "1"}
        (folder / f"{i}.1.json").write_text(json.dumps(holder))
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    time.sleep(0.5)
    (tmp_path / "go").write_text("")
    won = [int(racer.stdout.readline()) for racer in racers]
    for racer in racers:
        racer.kill()
        racer.communicate()
    assert sum(won) == 200

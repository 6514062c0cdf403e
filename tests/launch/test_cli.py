"""The command line: help without torch, one line for what is wrong, a single run, options."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from samples import SMALL, write_task

from rlrr_bench.launch import cli
from rlrr_bench.launch.cli import flags

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_task(tmp_path / "data", "demo", "digits", SMALL)
    return tmp_path / "data"


def typed(*words: str) -> int:
    """The exit code of a command, also where the parser itself ends it."""
    try:
        return cli.main(list(words))
    except SystemExit as end:
        return int(end.code or 0)


def test_every_verb_has_help_without_torch():
    code = (
        "import contextlib, io, sys\n"
        "from rlrr_bench.launch import cli\n"
        "verbs = [[verb] for verb in cli.VERBS]\n"
        "for words in [[], *verbs, ['data', 'check'], ['methods', 'show']]:\n"
        "    text = io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(text): cli.main([*words, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0 and 'usage: rlrr-bench' in text.getvalue(), words\n"
        "for heavy in ('torch', 'timm', 'pandas', 'matplotlib'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_console_command_and_the_module_are_the_same():
    command = Path(sys.executable).with_name("rlrr-bench")
    module = [sys.executable, "-m", "rlrr_bench"]
    texts = [
        subprocess.run([*words, "--help"], capture_output=True, text=True, check=True).stdout
        for words in ([str(command)], module)
    ]
    assert texts[0] == texts[1] and "sweep" in texts[0]


def test_a_reader_that_leaves_early_is_no_error():
    words = [sys.executable, "-m", "rlrr_bench", "methods", "show", "rlrr"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


BAD = {
    "verb": (("swep",), "invalid choice: 'swep'"),
    "no table": (("sweep",), "the following arguments are required: --table"),
    "table": (("sweep", "--table", "7"), "unknown table '7'"),
    "flag": (("sweep", "--table", "2", "--rows", "x", "--nope"), "unrecognized arguments: --nope"),
    "random weights": (
        ("sweep", "--table", "2", "--weights", "random"),
        "--weights random makes no result; add --smoke",
    ),
    "set an option": (
        ("sweep", "--table", "2", "--set", "rank=4"),
        "--set: 'rank' is an option of arc, fact, lora; use --option lora.rank=...",
    ),
    "set a flag": (
        ("sweep", "--table", "2", "--set", "seed=4"),
        "--set: 'seed' is no recipe key; use --seeds ...",
    ),
    "set nonsense": (("sweep", "--table", "2", "--set", "lrr=4"), "unknown recipe key 'lrr'"),
    "option a key": (
        ("sweep", "--table", "2", "--option", "lora.lr=4"),
        "--option: 'lr' is a recipe key; change it with --set lr=4",
    ),
    "option of none": (("sweep", "--table", "2", "--option", "dora.rank=4"), "no row 'dora'"),
    "option of which": (("sweep", "--table", "2", "--option", "rank=4"), "rank of which row?"),
    "option value": (
        ("sweep", "--table", "2", "--option", "lora.rank=many"),
        "--option: method lora: option rank: found 'many', expected int",
    ),
    "why": (("tables", "--why", "4", "RLRR", "DTD"), "4 is table4a and table4b; name one of them"),
    "method": (("run", "--method", "lorra", "--task", "cifar"), "did you mean lora"),
    "task": (("run", "--method", "lora", "--task", "cifra"), "unknown task 'cifra'"),
    "workers": (("sweep", "--table", "2", "--workers", "-1"), "invalid integer of 1 or more"),
    "seed": (("sweep", "--table", "2", "--seeds", "-1"), "--seeds: found '-1'"),
    "date": (("sweep", "--table", "2", "--set", "lr=2026-13-45"), "lr: found '2026-13-45'"),
    "run": (("export", "000000000000", "--out", "x"), "unknown run '000000000000'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line_and_exit_code_2(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, message = BAD[case]
    more = ("--dry-run",) if words[0] == "sweep" else ()
    assert typed(*words, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelling", ["2", "table2", "Table2"])
def test_a_table_may_be_spelled_as_one_likes(spelling, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert typed("sweep", "--table", spelling, "--dry-run") == 0
    assert "798 cells, 798 runs" in capsys.readouterr().out
    assert typed("tables", "--why", spelling, "RLRR", "CIFAR-100") == 0
    assert "rlrr" in capsys.readouterr().out
    assert flags.canonical(spelling) == "2"


def test_an_option_makes_rows_and_names_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("sweep", "--table", "2", "--rows", "lora,rlrr", "--tasks", "cifar", "--dry-run")
    assert typed(*words, "--option", "lora.rank=2,4") == 0
    said = capsys.readouterr().out
    assert re.search(r"^LoRA, rank 2 +vit_.+ noah", said, re.MULTILINE)
    assert re.search(r"^LoRA, rank 4 +vit_.+ noah", said, re.MULTILINE)
    assert re.search(r"^RLRR +vit_.+ rlrr", said, re.MULTILINE) and "9 cells, 9 runs" in said


def test_a_single_run_in_the_terminal(data, tmp_path, capsys):
    words = (
        *("run", "--method", "lora", "--task", "digits", "--profile", "demo", "--smoke"),
        *("--epochs", "3", "--option", "rank=2", "--curve", "--data", str(data)),
        *("--results", str(tmp_path / "results")),
    )
    assert typed(*words) == 0
    said = capsys.readouterr().out
    assert re.search(r"epoch 3/3  loss \d\.\d{4}  top-1 \d+\.\d", said)
    for curve in ("loss ", "top-1"):
        assert re.search(rf"^{curve} +\d+\.\d+  [▁▂▃▄▅▆▇█]{{3}}  \d+\.\d+$", said, re.MULTILINE)
    (path,) = (tmp_path / "results" / "runs").iterdir()
    record = json.loads(path.read_text())
    assert record["config"]["options"] == {"rank": 2} and record["status"] == "done"
    top1 = re.search(r"lora digits seed 0  top-1 (\d+\.\d)", said)[1]
    assert float(top1) == pytest.approx(record["top1_last"], abs=0.051)
    assert "has a record already" not in said

    assert typed(*words) == 0
    assert "has a record already" in capsys.readouterr().out
    assert typed(*words, "--rerun") == 0
    assert len(list((tmp_path / "results" / "aside").iterdir())) == 1


def test_the_same_run_in_a_sweep_is_found(data, tmp_path, capsys):
    """`run` and `sweep` share ids: nothing is done twice."""
    common = (
        *("--profile", "demo", "--smoke", "--epochs", "1", "--data", str(data)),
        *("--results", str(tmp_path / "results")),
    )
    assert typed("run", "--method", "bias", "--task", "digits", *common) == 0
    words = ("sweep", "--table", "2", "--rows", "bias", "--tasks", "digits", *common)
    assert typed(*words, "--out", str(tmp_path / "out")) == 0
    assert "nothing to run: 1 of 1" in capsys.readouterr().out


def test_a_part_never_writes_over_the_whole(data, tmp_path, capsys):
    """Whatever is asked for beside the whole table is written under a name of its own."""
    results, out = tmp_path / "results", tmp_path / "out"
    folders = ("--results", str(results), "--out", str(out))
    assert typed("tables", "--table", "2", "--profile", "demo", *folders) == 0
    whole = {
        path: path.read_bytes() for folder in (results, out) for path in folder.glob("table2*")
    }
    assert {"table2.csv", "table2.md", "table2.tex"} <= {path.name for path in whole}
    words = ("sweep", "--table", "2", "--profile", "demo", "--smoke", "--epochs", "1", *folders)
    words = (*words, "--data", str(data), "--cluster", "debug", "--tasks", "digits")
    assert typed(*words, "--rows", "linear") == 0
    assert typed(*words, "--rows", "linear", "--seeds", "1") == 0
    assert typed("tables", "--table", "2", "--profile", "demo", "--protocol", "val", *folders) == 0
    assert {path: path.read_bytes() for path in whole} == whole
    stems = {path.stem for path in out.glob("table2*.md")}
    assert len(stems) == 4 and {"table2", "table2-val"} <= stems
    assert "a part of table2, so its files are called" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["sweep", "status", "run", "cancel"])
def test_a_file_in_the_place_of_a_folder(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    what = ("--method", "lora", "--task", "digits") if verb == "run" else ("--table", "2")
    words = (verb, *what, "--profile", "demo", "--results", "file")
    assert typed(*words) == 2
    assert capsys.readouterr().err == "error: --results: file: found a file, expected a folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_completion_and_settings(capsys):
    assert typed("completion", "bash") == 0
    assert "complete " in capsys.readouterr().out
    assert typed("settings") == 0
    text = capsys.readouterr().out
    assert text.startswith("# How jobs are asked for") and "pack_minutes:" in text


def test_the_shell_completes_verbs_flags_and_profiles():
    """As bash asks through argcomplete: the line so far in, the candidates out on descriptor 8."""

    def candidates(line: str) -> set[str]:
        program = (
            "import os, sys; os.dup2(1, 8); os.dup2(1, 9)\n"
            "from rlrr_bench.launch.cli import main; main()"
        )
        environment = {
            **{"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))},
            **{"_ARGCOMPLETE_IFS": "\n", "PYTHONPATH": str(ROOT), "PATH": ""},
        }
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        return {word.strip() for word in done.stdout.split("\n")}

    assert {"sweep", "status"} == {w for w in candidates("rlrr-bench s") if w != "settings"} - {""}
    assert "--protocol" in candidates("rlrr-bench sweep --pro")
    assert candidates("rlrr-bench sweep --profile d") - {""} == {"demo"}


def test_a_table_may_lie_outside_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "paper_tables" / "specs" / "table6.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text)
    assert typed("sweep", "--table", "mine.yaml", "--dry-run") == 0
    assert "90 cells, 90 runs" in capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(text.replace("label:", "lable:", 1))
    assert typed("sweep", "--table", "mine.yaml", "--dry-run") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: mine.yaml: row left: unknown key 'lable'; did you mean label")

"""Parts of tables: which rows, tasks and seeds, options from the command line, names of files."""

import re
from dataclasses import replace

import printed_records
import pytest

from rlrr_bench.launch.cli import main
from rlrr_bench.methods.errors import ConfigError
from rlrr_bench.paper_tables import specs
from rlrr_bench.paper_tables.plan import (
    PROTOCOLS,
    OptionChange,
    TableRequest,
    chosen_rows,
    plan,
)
from rlrr_bench.paper_tables.records import scan
from rlrr_bench.paper_tables.table import build

FEW = {"tasks": ("cifar", "dtd"), "seeds": (0,)}


def request(*options: str, name: str = "table2", **more) -> TableRequest:
    changes = tuple(OptionChange.parse(text) for text in options)
    return printed_records.request(name, **(FEW | more), options=changes)


def rows(asked: TableRequest) -> dict[str, str]:
    """The labels by key, in order."""
    return {cell.row.key: cell.row.label for cell in plan(asked)}


def ids(asked: TableRequest, row: str) -> list[str]:
    return [run.run_id for cell in plan(asked) if cell.row.key == row for run in cell.runs]


@pytest.mark.parametrize(
    ("text", "row", "option", "values"),
    [
        ("lora.rank=4", "lora", "rank", (4,)),
        ("rank=4", None, "rank", (4,)),
        ("lora.rank=2,4,8", "lora", "rank", (2, 4, 8)),
        ("lora.rank=2, 4", "lora", "rank", (2, 4)),
        ("lora.rank=2;4", "lora", "rank", (2, 4)),
        ("lora.alpha=null", "lora", "alpha", (None,)),
        ("lora.dropout=0.1,5e-2", "lora", "dropout", (0.1, 0.05)),  # YAML reads 5e-2 as text
        ("adapter.init=zero", "adapter", "init", ("zero",)),
        ("lora.targets=q,v", "lora", "targets", ("q,v",)),
        ("lora.targets=q,v;q,k,v", "lora", "targets", ("q,v", "q,k,v")),
        ("FacT-TK≤32.scale=1", "FacT-TK≤32", "scale", (1,)),
    ],
)
def test_an_option_as_it_is_typed(text, row, option, values):
    assert OptionChange.parse(text) == OptionChange(row, option, values)


@pytest.mark.parametrize("word", ["lora", "LoRA", "LORA"])
def test_an_option_makes_a_row_that_says_so(word):
    asked = request(f"{word}.rank=4", rows=("linear", "lora"))
    assert rows(asked) == {"linear": "Linear probing", "lora[rank=4]": "LoRA, rank 4"}
    assert rows(request("rank=4", rows=("lora",))) == {"lora[rank=4]": "LoRA, rank 4"}
    labels = {cell.config.options["rank"] for cell in plan(request("rank=4", rows=("lora",)))}
    assert labels == {4}


def test_several_values_make_a_row_each():
    asked = request("lora.rank=2,4,8", rows=("lora", "linear"))
    assert rows(asked) == {
        "linear": "Linear probing",
        "lora[rank=2]": "LoRA, rank 2",
        "lora[rank=4]": "LoRA, rank 4",
        "lora[rank=8]": "LoRA, rank 8",
    }
    asked = request("lora.rank=2,4", "lora.dropout=0,0.5", rows=("lora",))
    assert list(rows(asked).values()) == [
        "LoRA, rank 2, dropout 0.0",
        "LoRA, rank 2, dropout 0.5",
        "LoRA, rank 4, dropout 0.0",
        "LoRA, rank 4, dropout 0.5",
    ]
    assert len({cell.config.run_id for cell in plan(asked)}) == len(plan(asked)) == 8


def test_a_list_is_one_value():
    asked = request("lora.targets=q,v;q,k,v", rows=("lora",))
    assert rows(asked) == {
        "lora[targets=q+v]": "LoRA, targets q+v",
        "lora[targets=q+k+v]": "LoRA, targets q+k+v",
    }
    chosen = {tuple(cell.config.options["targets"]) for cell in plan(asked)}
    assert chosen == {("q", "v"), ("q", "k", "v")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("row", "option", "key", "options"),
    [
        ("lora", "lora.rank=4", "lora[rank=4]", {"rank": 4}),
        ("lora", "lora.rank=8", "lora[rank=8]", {}),  # its default is in no id
        ("lora", "lora.targets=q,v", "lora[targets=q+v]", {"targets": ["q", "v"]}),
        ("adapter", "adapter.bottleneck=8", "adapter[bottleneck=8]", {"bottleneck": 8}),
        ("fact", "fact.rank=4", "fact[rank=4]", {"rank": 4}),
    ],
)
def test_run_ids_are_those_of_a_row_of_a_spec(row, option, key, options, protocol):
    """So runs are shared between the command line and a table of one's own."""
    spec = specs.spec("table2")
    changed = replace(spec.rows[row], options=spec.rows[row].options | options)
    own = replace(spec, rows=spec.rows | {row: changed})
    profile = specs.profile("paper")
    expected = ids(TableRequest(own, profile, **FEW, rows=(row,), protocol=protocol), row)
    asked = request(option, rows=(row,), protocol=protocol)
    assert ids(asked, key) == expected and expected
    whole = ids(replace(asked, options=()), row)
    assert (expected == whole) == (options == {})


def test_equal_values_and_words_are_one():
    assert list(rows(request("rank=4,4,4.0", rows=("lora",)))) == ["lora[rank=4]"]
    once = plan(request(rows=("lora",)))
    assert plan(request(rows=("lora", "LoRA"))) == once
    assert plan(request(rows=("lora",), seeds=(0, 0))) == once
    assert plan(request(rows=("lora",), tasks=("cifar", "dtd", "CIFAR-100"))) == once


BAD = [
    (["--option", "lora.rnk=4"], "--option: method lora: unknown option 'rnk'; did you mean rank"),
    (["--option", "lora.rank=x"], "--option: method lora: option rank: found 'x', expected int"),
    (["--option", "lora.rank=0"], "option rank: found 0, expected 1 or more"),
    (["--option", "lora.targets=q,up"], "option targets: found 'up', expected one of qkv, q"),
    (["--option", "lroa.rank=4"], "--option: no row 'lroa' is asked for; did you mean lora"),
    (["--option", "lora.rank=4", "--rows", "linear"], "--option: no row 'lora' is asked for"),
    (["--option", "rank=4"], "--option: rank of which row? Say ROW.rank=..., or --rows"),
    (["--option", "linear.rank=4"], "--option: method linear: unknown option 'rank'; it has none"),
    (["--option", "lora.lr=0.1"], "'lr' is a recipe key; change it with --set lr=0.1"),
    (["--option", "lora.rank"], "--option: found 'lora.rank', expected ROW.OPTION=VALUE"),
    (["--option", "lora.rank="], "--option: found 'lora.rank=', expected ROW.OPTION=VALUE"),
    (["--option", "lora.rank=2,,4"], "--option: found 'lora.rank=2,,4', expected ROW.OPTION"),
    (["--option", "=4"], "--option: found '=4', expected ROW.OPTION=VALUE"),
    (
        ["--option", "lora.rank=4", "--option", "LoRA.rank=8"],
        "--option: rank of lora twice; write lora.rank=VALUE,VALUE",
    ),
    (["--set", "rank=4"], "--set: 'rank' is an option of"),
    (["--rows", "lroa"], "unknown row 'lroa' of table2; did you mean lora"),
    (["--rows", ","], "--rows: no row of table2 is asked for"),
    (["--tasks", ","], "--tasks: no task of table2 is asked for"),
    (["--seeds", "0,x"], "--seeds: found '0,x', expected integers like 0,1,2"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_a_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = ["sweep", "--table", "2", "--profile", "demo", "--cluster", "local", "--dry-run"]
    assert main([*sweep, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


PARTS = [
    {"rows": ("lora",)},
    {"rows": ("linear",)},
    {"rows": ("lora", "linear")},
    {"rows": tuple(specs.spec("table2").rows)},
    {"rows": tuple(specs.spec("table2").rows)[1:]},
    {"tasks": ("cifar",)},
    {"tasks": ("cifar", "dtd")},
    {"tasks": ("cifar", "caltech101", "dtd", "svhn", "sun397")},
    {"tasks": ("cifar", "caltech101", "dtd", "svhn", "dmlab")},
    {"seeds": (0,)},
    {"seeds": (1,)},
    {"seeds": (0, 1, 2)},
    {"seeds": (3, 4, 5)},
    {"recipe": {"epochs": 1}},
    {"recipe": {"epochs": 2}},
    {"recipe": {"lr": 0.1}},
    {"recipe": {"epochs": 1, "lr": 0.1}},
    {"options": (OptionChange("lora", "rank", (4,)),)},
    {"options": (OptionChange("lora", "rank", (4, 8)),)},
    {"options": (OptionChange("fact", "rank", (4,)),)},
    {"options": (OptionChange("lora", "alpha", (4,)),)},
    {"smoke": True},
    {"rows": ("lora",), "smoke": True},
    {"rows": ("lora",), "seeds": (0,)},
    {"protocol": "val"},
    {"protocol": "best_test"},
    {"protocol": "val", "rows": ("lora",)},
    {"protocol": "best_test", "rows": ("lora",)},
]
LONG = {"rows": ("lora", "linear"), "recipe": {"weight_decay": 0.00012345, "label_smoothing": 0.1}}
PARTS += [LONG, LONG | {"smoke": True}, LONG | {"protocol": "val"}, LONG | {"seeds": (0,)}]
PARTS += [LONG | {"recipe": {"weight_decay": 0.00012345, "label_smoothing": 0.2}}]


def test_a_part_has_files_of_its_own():
    names = [printed_records.request("table2", **part).name for part in PARTS]
    assert len({name.lower() for name in names}) == len(PARTS)  # on any file system
    for name in names:
        assert re.fullmatch(r"table2-[A-Za-z0-9.+_-]{1,63}", name)
    assert [printed_records.request("table2", **part).name for part in PARTS] == names


@pytest.mark.parametrize("name", specs.every())
def test_the_whole_table_is_called_as_its_spec(name):
    assert printed_records.request(name).name == name
    assert printed_records.request(name, protocol="recipe").name == name
    assert printed_records.request(name, protocol="val").name == f"{name}-val"
    assert printed_records.request(name, protocol="best_test").name == f"{name}-best_test"


def test_a_part_names_what_it_is_of():
    assert "lora+linear" in printed_records.request("table2", rows=("lora", "linear")).name
    assert "epochs-1" in printed_records.request("table2", recipe={"epochs": 1}).name
    assert "rank-2+4" in request("lora.rank=2,4").name
    few = printed_records.request("table2", seeds=(0, 1))
    assert "2-seeds" in few.name


def test_a_changed_recipe_is_named_below_the_table(tmp_path):
    asked = request(rows=("linear",), recipe={"epochs": 1, "lr": 0.1}, smoke=True)
    notes = build(asked, scan(tmp_path)).notes
    assert notes[-1].endswith("one seed, changed on the command line: epochs=1 lr=0.1 smoke.")


@pytest.mark.parametrize("word", ["2", "table2", "Table2", "TABLE2"])
def test_a_table_has_many_spellings(word):
    assert specs.named(word) == ("table2",)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("4", ("table4a", "table4b")),
        ("table4", ("table4a", "table4b")),
        ("4a", ("table4a",)),
        ("4A", ("table4a",)),
        ("table4b", ("table4b",)),
        ("fig2", ("fig2",)),
        ("Fig2", ("fig2",)),
        ("mine/own.yaml", ("mine/own.yaml",)),
    ],
)
def test_a_word_may_be_a_figure_half_a_table_or_a_file(word, names):
    assert specs.named(word) == names


@pytest.mark.parametrize(
    ("word", "hint"), [("tabel2", "table2"), ("table4c", "table4"), ("figg2", "fig2")]
)
def test_an_unknown_table_names_the_nearest(word, hint):
    with pytest.raises(ConfigError, match=rf"unknown table '{word}'; did you mean {hint}"):
        specs.named(word)


def test_a_row_is_meant_before_the_others_of_its_method():
    """Table 2 has two RLRR rows and two ARC rows: a key or a label means one, a method all."""

    def changed(text: str) -> list[str]:
        spec, profile = specs.spec("table2"), specs.profile("paper")
        asked = TableRequest(spec, profile, options=(OptionChange.parse(text),))
        return [row.label for row in chosen_rows(asked) if "," in row.label]

    assert changed("rlrr.init=identity") == ["RLRR, init identity"]
    assert changed("RLRR*.init=identity") == ["RLRR*, init identity"]
    assert changed("vpt.dropout=0.2") == ["VPT-Shallow, dropout 0.2", "VPT-Deep, dropout 0.2"]

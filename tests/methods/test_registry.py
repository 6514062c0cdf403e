"""Finding methods, their options and their command line."""

import runpy
import subprocess
import sys

import pytest

from rlrr_bench import methods
from rlrr_bench.launch.cli import main
from rlrr_bench.methods import catalogue, registry

PLUGIN = '''"""Norm bias only: nothing else is trained.

Parameters: D.
"""
from dataclasses import dataclass

@dataclass(frozen=True)
class Options:
    speed: float = 1.0

def attach(anatomy, options):
    anatomy.norm.module.bias.requires_grad_(True)

def count(anatomy, options):
    return anatomy.width
'''


@pytest.fixture
def plugin(tmp_path, no_plugins):
    path = tmp_path / "norm_bias.py"
    path.write_text(PLUGIN)
    return path


@pytest.mark.parametrize("name", ["lora", "LoRA", "RLRR"])
def test_a_plug_in_called_like_a_method_is_refused(name, tmp_path, no_plugins):
    path = tmp_path / f"{name}.py"
    path.write_text(PLUGIN)
    with pytest.raises(
        methods.MethodError, match=f"there is a method '{name.lower()}' already; rename"
    ):
        methods.add_plugin(path)


def test_names():
    names = methods.names()
    assert names == sorted(names)
    assert {"rlrr", "full", "vpt", "adapter", "fact", "arc"} <= set(names)
    assert not {"anatomy", "adapted", "lifecycle", "registry", "catalogue"} & set(names)


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("rlr", {}, "rlrr"),
        ("lora2", {}, "lora"),
        ("zzz", {}, "lora"),  # nothing is near: all names, or the first fifteen
        ("lora", {"rnk": 4}, "rank"),
        ("lora", {"rank": "four"}, "int"),
        ("lora", {"rank": 2.5}, "int"),
        ("lora", {"rank": True}, "int"),
        ("lora", {"rank": 0}, "1 or more"),
        ("lora", {"dropout": "much"}, "float"),
        ("lora", {"targets": ["qkv", "w"]}, "fc1"),
        ("lora", {"targets": ["qkv", "q"]}, "apart"),
        ("vpt", {"mode": "shalow"}, "shallow"),
        ("vpt", {"dropout": 1.0}, "0 <= p < 1"),
        ("vpt", {"prompts": 0}, "1 or more"),
        ("adapter", {"bottleneck": 8, "reduction": 64}, "one of them"),
        ("adapter", {"bottleneck": 0}, "1 or more"),
        ("mlp", {"layers": 1}, "2 or more"),
        ("partial", {"blocks": 0}, "1 or more"),
        ("fact", {"slices": "both"}, "paper, code"),
        ("linear", {"rank": 1}, "none"),
        ("rlrr", {"left": "yes"}, "bool"),
    ],
)
def test_mistakes_are_one_line_and_name_what_is_near(name, options, expected):
    with pytest.raises(methods.MethodError) as error:
        registry.options(name, options)
    message = str(error.value)
    assert expected in message and "\n" not in message and len(message) < 200


def test_options_are_typed():
    chosen = registry.options("lora", {"targets": "q,v", "alpha": 16})
    assert chosen.targets == ("q", "v") and chosen.alpha == 16.0
    assert isinstance(chosen.alpha, float) and chosen.rank == 8
    assert registry.options("vpt", {"dropout": None}).dropout is None


def test_plugin_from_a_file(plugin):
    import timm

    assert methods.add_plugin(plugin) == "norm_bias"
    assert methods.add_plugin(plugin) == "norm_bias"  # twice is once
    assert "norm_bias" in methods.names()
    assert methods.describe("norm_bias").startswith("Norm bias only")
    assert methods.options("norm_bias", {"speed": 2}).speed == 2.0
    model = timm.models.VisionTransformer(img_size=32, embed_dim=32, depth=1, num_heads=2)
    assert methods.parameters(methods.apply("norm_bias", model))["peft"] == 32
    assert model.peft.options == {"speed": 1.0}


def test_plugin_files_that_do_not_fit(tmp_path, plugin):
    for name, text, expected in (
        ("nothing.py", None, "no such"),
        ("broken.py", "def attach(:", "not Python"),
        ("empty.py", "x = 1", "attach"),
        ("lora.py", PLUGIN, "already"),
    ):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        with pytest.raises(methods.MethodError, match=expected):
            methods.add_plugin(path)


def test_planning_needs_no_torch():
    code = (
        "import sys\n"
        "from rlrr_bench import methods\n"
        "assert len(methods.names()) > 10\n"
        "for name in methods.names():\n"
        "    methods.options(name), methods.describe(name)\n"
        "bad = {'torch', 'timm', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_first_lines_of_docstrings_are_short():
    for name in methods.names():
        first, *rest = methods.describe(name).split("\n")
        assert 10 < len(first) < 100, name
        assert "Parameters:" in "\n".join(rest), name


def test_command_line(capsys):
    assert main(["methods"]) == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in methods.names())
    assert "288,768" in listing
    assert main(["methods", "show", "vpt", "--backbone", catalogue.SWIN_B]) == 0
    shown = capsys.readouterr().out
    assert "prompts: int = 10" in shown and "120,320" in shown


@pytest.mark.parametrize("first", ["--plugin", "show"])
def test_command_line_with_a_plugin(capsys, plugin, first):
    given = ["--plugin", str(plugin)]
    words = [*given, "show"] if first == "--plugin" else ["show", *given]
    assert main(["methods", *words, "norm_bias"]) == 0
    assert "peft 768" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, near",
    [
        (["show", "lorra"], "lora"),
        (["show", "lora", "--backbone", "vit_base_patch16"], "vit_base_patch16_224"),
    ],
)
def test_command_line_mistakes(arguments, near, capsys):
    assert main(["methods", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and near in message and message.count("\n") == 1


@pytest.mark.parametrize("name, code", [("lora", 0), ("no-such-method", 2)])
def test_module_entry_point(name, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlrr_bench", "methods", "show", name])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("rlrr_bench", run_name="__main__")
    assert stopped.value.code == code
    assert ("294,912" in capsys.readouterr().out) == (code == 0)


def test_module_entry_point_in_a_process_of_its_own():
    """The one test here that starts the command line as people do."""
    command = [sys.executable, "-m", "rlrr_bench", "methods", "show", "no-such-method"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: unknown method")

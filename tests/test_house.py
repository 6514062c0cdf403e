"""The architecture as a test: which way imports go, what planning may load, what a wheel holds."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from rlrr_bench.benchmarks import provenance

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("methods", "benchmarks", "paper_tables", "launch", "rlrr_bench")
FILES = {
    ("rlrr_bench." if "/" in name else "rlrr_bench.rlrr_bench.")
    + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): path
    for name, path in provenance.source_files().items()
    if name.endswith(".py")
}


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that a file imports anywhere in it, also inside functions."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    targets: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                home = importlib.util.resolve_name("." * node.level + home, package)
            for alias in node.names:
                inside = f"{home}.{alias.name}"
                targets.add(inside if inside in FILES else home)
    return frozenset(target for target in targets if target in FILES and target != module)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The nodes of a circle, in order; empty if there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(arrows.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((c for node in sorted(arrows) if (c := visit(node, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []
    assert "rlrr_bench.benchmarks.config" in imports("rlrr_bench.benchmarks.recipes")


def test_no_two_files_import_each_other_in_a_circle():
    arrows = {module: set(imports(module)) for module in FILES}
    # a package's face hands on what its files define; what they take from each other they take
    # from the files themselves
    assert circle(arrows) == []


def test_rooms_inside_a_package_make_no_circle():
    """A folder in a package is one node beside the package's own files."""

    def room(module: str) -> str:
        parts = module.split(".")
        inside = len(parts) > 3 or FILES[module].name == "__init__.py"
        return ".".join(parts[:3]) if inside and len(parts) >= 3 else module

    arrows: dict[str, set[str]] = {}
    for module in FILES:
        arrows.setdefault(room(module), set()).update(map(room, imports(module)))
    arrows = {node: targets - {node} for node, targets in arrows.items()}
    assert circle(arrows) == []


@pytest.mark.parametrize("package", FLOORS[:-1])
def test_no_arrow_goes_up(package):
    above = FLOORS[FLOORS.index(package) + 1 :]
    for module in FILES:
        if module.split(".")[1] == package:
            for target in imports(module):
                assert target.split(".")[1] not in above, f"{module} imports {target}"


def test_only_the_command_line_knows_argparse():
    users = [
        module
        for module, path in FILES.items()
        if "import argparse" in path.read_text() or "Namespace" in path.read_text()
    ]
    assert users and all(module.startswith("rlrr_bench.launch.cli") for module in users)


def test_core_code_does_not_know_the_demo_by_name():
    for module in FILES:
        core = module.startswith("rlrr_bench.benchmarks.") and not module.startswith(
            ("rlrr_bench.benchmarks.demo", "rlrr_bench.benchmarks.bench")
        )
        if core or module.startswith("rlrr_bench.methods"):
            names = {t for t in imports(module) if t.startswith("rlrr_bench.benchmarks.demo")}
            assert not names, f"{module} imports {names}"


def test_planning_loads_neither_torch_nor_pandas():
    code = (
        "import sys\n"
        "from rlrr_bench.launch import cli, grid, request\n"
        "from rlrr_bench.paper_tables import plan, specs\n"
        "cli.parser()\n"
        "cells = plan.plan(plan.TableRequest(specs.spec('table2'), specs.profile('paper')))\n"
        "assert len(cells) == 798\n"
        "for heavy in ('torch', 'timm', 'pandas', 'numpy'):\n"
        "    assert heavy not in sys.modules, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_wheel_lists_every_package_and_every_data_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {
        ".".join(("rlrr_bench", *path.parent.relative_to(ROOT).parts))
        for name in FLOORS[:-1]
        for path in (ROOT / name).rglob("__init__.py")
    }
    assert set(project["packages"]) == packages | {"rlrr_bench"}
    globs = project["package-data"]
    for name, path in provenance.source_files().items():
        if path.suffix == ".py":
            continue
        parts = ("rlrr_bench", *name.split("/"))
        owners = [
            ".".join(parts[:i]) for i in range(1, len(parts)) if ".".join(parts[:i]) in packages
        ]
        rest = "/".join(parts[owners[-1].count(".") + 1 :])
        assert any(Path(rest).match(glob) for glob in globs[owners[-1]]), name


@pytest.mark.parametrize("name", FLOORS[:-1])
def test_a_folder_is_not_a_package_of_its_own(name):
    """Imported from the checkout under its bare name it would be a second copy of everything."""
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"this folder is rlrr_bench.{name}" in done.stderr

"""Installed from a wheel, used from a folder that has its own `methods/` and `benchmarks/`."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheel and, beside it, this one's libraries; its bin folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = ("methods", "benchmarks", "paper_tables", "launch", "rlrr_bench")
    for name in kept:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    home = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    # a plain line: the libraries, but not the checkout that may be installed beside them
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return home / "bin"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's own project."""
    for name in ("methods", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OURS = True\n")
    return tmp_path


def typed(installed: Path, project: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words[:1] and [str(installed / words[0]), *words[1:]],
        cwd=project,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_packages_live_side_by_side(installed, project):
    code = (
        "import methods, benchmarks, rlrr_bench, rlrr_bench.methods as theirs\n"
        "assert methods.OURS and benchmarks.OURS and 'lora' in theirs.names()\n"
        "print(rlrr_bench.__file__)"
    )
    place = typed(installed, project, "python", "-c", code)
    assert "site-packages" in place and str(installed.parent) in place


def test_methods_a_demo_sweep_and_its_tables(installed, project):
    assert "rlrr" in typed(installed, project, "rlrr-bench", "methods", "show", "rlrr")
    words = ("sweep", "--table", "2", "--profile", "demo", "--rows", "linear,bias")
    words = (*words, "--tasks", "digits,cells", "--epochs", "2", "--workers", "1")
    said = typed(installed, project, "rlrr-bench", *words)
    assert "4 runs to do" in said and "†" not in said
    typed(installed, project, "rlrr-bench", "tables", "--profile", "demo", "--table", "2")
    assert (project / "paper_tables" / "out" / "demo" / "table2.tex").is_file()
    records = [json.loads(p.read_text()) for p in project.glob("results/demo/runs/*.json")]
    assert len(records) == 4
    # as released: no commit, but nobody has touched the files either
    assert {(r["git_commit"], r["git_dirty"]) for r in records} == {(None, False)}
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    assert not list(packages.glob("**/results")) and not list(packages.glob("**/out"))


def test_an_edited_installation_is_told(installed, project):
    (file,) = installed.parent.glob("lib/python*/site-packages/rlrr_bench/methods/bias.py")
    whole = file.read_text()
    code = "from rlrr_bench.benchmarks import provenance; print(provenance.current().dirty)"
    try:
        assert typed(installed, project, "python", "-c", code).strip() == "False"
        file.write_text(whole + "# edited\n")
        assert typed(installed, project, "python", "-c", code).strip() == "None"
    finally:
        file.write_text(whole)


def test_the_audit_from_the_wheel(installed, project):
    assert "61 rows: 41 equal" in typed(installed, project, "rlrr-bench", "audit")

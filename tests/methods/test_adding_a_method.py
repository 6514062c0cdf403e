"""docs/adding_a_method.md, followed to the letter: its code, as a plug-in and as a package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from rlrr_bench.methods import registry
from samples import SMALL, write_task
from small_models import adapted, images, perturb

from rlrr_bench import methods

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "adding_a_method.md"


@pytest.fixture
def file(tmp_path) -> Path:
    """The page's code block in a file of its name."""
    found = re.search(r"<!-- (\w+\.py): .+? -->\n```python\n(.+?)```", DOC.read_text(), re.DOTALL)
    path = tmp_path / found[1]
    path.write_text(found[2])
    return path


@pytest.fixture
def plugin(file):
    yield methods.add_plugin(file)
    registry._plugins.clear()
    for cached in (registry._files, registry.load, registry._options_class, registry._tree):
        cached.cache_clear()


def sweep(tmp_path: Path, *words: str, **environment: str) -> pd.DataFrame:
    """One epoch of linear probing and the page's method on one task; the table of its runs."""
    write_task(tmp_path / "data", "demo", "digits", SMALL)
    command = [sys.executable, str(ROOT / "launch" / "sweep.py"), "--table", "2"]
    command += ["--profile", "demo", "--rows", "linear,ia3", "--tasks", "digits", "--epochs", "1"]
    command += ["--smoke", "--data", str(tmp_path / "data"), *words]
    command += ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ia3 +\d", done.stdout, re.MULTILINE), done.stdout
    assert "| ia3 " in (tmp_path / "out" / "table2.md").read_text()
    runs = pd.read_csv(tmp_path / "results" / "table2.csv").set_index("row")
    assert 0 <= runs.loc["ia3", "top1_last"] <= 100
    return runs


def test_as_a_plugin(file, tmp_path):
    runs = sweep(tmp_path, "--plugin", str(file))
    assert runs.loc["ia3", "params_peft"] == 4 * 6 * 64  # blocks x 6 D
    run_id = runs.loc["ia3", "run_id"]
    assert (tmp_path / "results" / "deltas" / f"{run_id}.safetensors").is_file()
    command = [sys.executable, "-m", "methods", "--plugin", str(file), "export", run_id]
    command += ["--merged", "--results", str(tmp_path / "results")]
    command += ["--out", str(tmp_path / "merged.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_as_an_installed_package(file, tmp_path):
    package = tmp_path / "site" / "mypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    file.rename(package / "ia3.py")
    entry = re.search(r'\[project\.entry-points\."(.+?)"\]\n +(.+)\n', DOC.read_text())
    about = tmp_path / "site" / "mypackage-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{entry[1]}]\n{entry[2].replace(chr(34), '')}\n")
    sweep(tmp_path, PYTHONPATH=str(tmp_path / "site"))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_pages_method_is_what_it_says(plugin, kind):
    model = perturb(adapted(kind, plugin, {}, torch.float64))
    x = images(dtype=torch.float64)
    with torch.no_grad():
        merged = methods.merge(model)(x)
        assert torch.allclose(merged, model(x), rtol=1e-9)
        assert not torch.allclose(adapted(kind, plugin, {}, torch.float64)(x), merged)
    anatomy = sum(6 * b.attn.qkv.in_features for b in model.modules() if hasattr(b, "attn"))
    assert methods.parameters(model)["peft"] == anatomy
    model = adapted(kind, plugin, {"mlp": False})
    assert methods.parameters(model)["peft"] == anatomy // 3


def test_counts_on_the_page(plugin):
    from rlrr_bench.methods.__main__ import VIT_B, count

    assert f"{count(plugin, VIT_B)['peft']:,} parameters on ViT-B/16" in DOC.read_text()

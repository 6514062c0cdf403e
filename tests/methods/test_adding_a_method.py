"""docs/adding_a_method.md, followed to the letter: its methods, as plug-ins and as a package.

Here they are called page_ia3 and page_sidecar, so that these tests also pass in a checkout where
someone has followed the page and has methods/ia3.py.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import test_every_method
import torch
import torch.nn.functional as F
from samples import SMALL, write_task
from small_models import SUPPORTED, X, adapted, backbone, cases, close, images, perturb, perturbed

from rlrr_bench import methods
from rlrr_bench.launch.cli import main
from rlrr_bench.methods import catalogue, registry
from rlrr_bench.methods.anatomy import Anatomy

DOC = (Path(__file__).resolve().parents[2] / "docs" / "adding_a_method.md").read_text()
BLOCKS = dict(
    re.findall(r"<!-- (\w+)\.py: a test runs this block -->\n```python\n(.+?)```", DOC, re.DOTALL)
)
IA3, SIDECAR = "page_ia3", "page_sidecar"
REASON = re.search(r'^CANNOT_MERGE = "(.+)"$', BLOCKS["sidecar"], re.MULTILINE)[1]
CHECKS = [  # what tests/methods asks of every method on every backbone
    check
    for name, check in vars(test_every_method).items()
    if name.startswith("test_") and "options" in inspect.signature(check).parameters
]


@pytest.fixture
def files(tmp_path, no_plugins) -> Iterator[dict[str, Path]]:
    """The page's code blocks, each in a file; what was registered is forgotten afterwards."""
    (tmp_path / "page").mkdir()
    written = {f"page_{name}": tmp_path / "page" / f"page_{name}.py" for name in BLOCKS}
    for name, code in BLOCKS.items():
        written[f"page_{name}"].write_text(code)
    yield written
    sys.modules.pop("mypackage", None)


@pytest.fixture
def plugins(files) -> list[str]:
    """The names of the page's methods, registered."""
    return [methods.add_plugin(path) for path in files.values()]


def sweep(tmp_path: Path, capsys, *words: str) -> pd.DataFrame:
    """One epoch of linear probing and the page's methods on one task; the table of its runs."""
    write_task(tmp_path / "data", "demo", "digits", SMALL)
    command = ["sweep", "--table", "2", "--profile", "demo"]
    command += ["--rows", f"linear,{IA3},{SIDECAR}"]
    command += ["--tasks", "digits", "--epochs", "1", "--smoke", "--data", str(tmp_path / "data")]
    command += ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"), *words]
    assert main(command) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    [table] = (tmp_path / "out").glob("table2*.md")
    runs = pd.read_csv(tmp_path / "results" / f"{table.stem}.csv").set_index("row")
    for name in (IA3, SIDECAR):
        assert re.search(rf"^{name} +\d", shown, re.MULTILINE), shown
        assert f"| {name} " in table.read_text()
        assert 0 <= runs.loc[name, "top1_last"] <= 100
    return runs


def test_the_page_has_two_methods():
    assert list(BLOCKS) == ["ia3", "sidecar"]
    assert len(CHECKS) > 8


def test_as_plugins(files, tmp_path, capsys):
    """Trained by a worker process, which reads the files itself."""
    given = [word for path in files.values() for word in ("--plugin", str(path))]
    runs = sweep(tmp_path, capsys, *given, "--workers", "1")
    assert runs.loc[IA3, "params_peft"] == 4 * 6 * 64  # blocks x 6 D
    assert runs.loc[SIDECAR, "params_peft"] == 4 * (4 * 64 + 2 * 64 * 8)

    def export(name: str) -> int:
        run_id = runs.loc[name, "run_id"]
        assert (tmp_path / "results" / "deltas" / f"{run_id}.safetensors").is_file()
        command = ["export", run_id, "--merged", "--results", str(tmp_path / "results"), *given]
        return main([*command, "--out", str(tmp_path / f"{name}.safetensors")])

    assert export(IA3) == 0 and (tmp_path / f"{IA3}.safetensors").is_file()
    assert export(SIDECAR) == 2 and not (tmp_path / f"{SIDECAR}.safetensors").exists()
    assert capsys.readouterr().err == f"error: {SIDECAR} cannot be merged: {REASON}\n"


def test_as_an_installed_package(files, tmp_path, capsys, monkeypatch):
    package = tmp_path / "site" / "mypackage"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for path in files.values():
        path.rename(package / path.name)
    group, entry = re.search(r'\[project\.entry-points\."(.+?)"\]\n +(.+)\n', DOC).groups()
    assert entry == 'ia3 = "mypackage.ia3"'
    entries = [entry.replace("ia3", name).replace('"', "") for name in files]
    about = tmp_path / "site" / "mypackage-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *entries, ""]))
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._forget()
    sweep(tmp_path, capsys, "--cluster", "debug")  # in this process
    assert {IA3, SIDECAR} <= set(methods.names()) - set(methods.plugins())
    assert registry.file(IA3) == package / f"{IA3}.py"


def test_the_tests_find_them(plugins):
    """The cases of tests/methods/test_every_method.py come from the registry alone."""
    supported, refused = cases(name for name in methods.names() if name in plugins)
    assert [case.id for case in supported] == [f"vit-{IA3}", f"swin-{IA3}", f"vit-{SIDECAR}"]
    assert [case.id for case in refused] == [f"swin-{SIDECAR}"]
    assert {case.values[1] for case in SUPPORTED} <= set(methods.names())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_they_pass_what_every_method_must(plugins, check, tmp_path):
    more = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(check).parameters else {}
    for case in cases(plugins)[0]:
        check(*case.values, **more)


def test_counts_on_the_page(plugins):
    for name, plugin in zip(BLOCKS, plugins, strict=True):
        number = f"{catalogue.count(plugin, catalogue.VIT_B)['peft']:,}"
        assert re.search(rf"methods show {name}[^:]+?{number} parameters on ViT-B/16", DOC), name


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_ia3_is_what_the_page_says(plugins, kind):
    model = perturb(adapted(kind, IA3, {}, torch.float64))
    x = images(dtype=torch.float64)
    with torch.no_grad():
        merged = methods.merge(model)(x)
        assert torch.allclose(merged, model(x), rtol=1e-9)
        assert not torch.allclose(adapted(kind, IA3, {}, torch.float64)(x), merged)
    six_widths = sum(6 * b.attn.qkv.in_features for b in model.modules() if hasattr(b, "attn"))
    assert methods.parameters(model)["peft"] == six_widths
    model = adapted(kind, IA3, {"mlp": False})
    assert methods.parameters(model)["peft"] == six_widths // 3


@torch.no_grad()
def test_sidecar_by_hand(plugins):
    """The equation of its docstring, with timm's plain modules."""
    model = perturbed("vit", SIDECAR, prompts=3, bottleneck=5)
    plain = backbone("vit", torch.float64)
    x = plain._pos_embed(plain.patch_embed(X))
    for block, timms in zip(model.blocks, plain.blocks, strict=True):
        assert block.prompts.shape == (3, 32) and block.down.shape == (32, 5)
        seen = torch.cat([x[:, :1], block.prompts.expand(len(x), 3, 32), x[:, 1:]], 1)
        attended = (seen + timms.attn(timms.norm1(seen)))[:, [0, *range(4, seen.shape[1])]]
        branch = F.relu(attended @ block.down) @ block.up
        x = attended + timms.mlp(timms.norm2(attended)) + branch
    head = F.linear(plain.norm(x[:, 0]), model.head.weight, model.head.bias)
    assert close(model(X), head)


def test_sidecar_trains_and_does_not_merge(plugins):
    model = adapted("vit", SIDECAR, {}).train()
    labels = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    before = {name: tensor.clone() for name, tensor in methods.delta(model).items()}
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(images()), labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    after = methods.delta(model)
    assert {name.split(".")[-1] for name in after if "blocks" in name} == {"prompts", "down", "up"}
    assert not any(torch.equal(after[name], before[name]) for name in before)
    anatomy, options = Anatomy(backbone("vit")), methods.options(SIDECAR)
    counted = registry.module(SIDECAR).count(anatomy, options)
    assert methods.parameters(model)["peft"] == counted == 3 * (4 * 32 + 2 * 32 * 8)
    with pytest.raises(methods.CannotMerge, match=f"^{SIDECAR} cannot be merged: {REASON}$"):
        methods.merge(model)

"""A method's code: its own files and those it imports, and what a plug-in is once registered."""

from checkout import append
from samples import NORMS

from rlrr_bench.methods import registry


def test_a_plug_in_is_the_text_that_was_registered(tmp_path, no_plugins):
    plugin = tmp_path / "norms.py"
    plugin.write_text(NORMS)
    registry.add_plugin(plugin)
    first = registry.code_hash("norms")
    assert registry.code_files("norms") == [plugin] and len(first) == 12
    plugin.write_text(NORMS.replace("norm1", "norm2"))
    assert registry.code_hash("norms") == first
    assert registry.source("norms") == NORMS.encode()
    assert "norm1" in registry.module("norms").attach.__code__.co_names
    registry.add_plugin(plugin)
    second = registry.code_hash("norms")
    assert second != first
    assert "norm2" in registry.module("norms").attach.__code__.co_names
    plugin.write_text(NORMS)
    registry.add_plugin(plugin)
    assert registry.code_hash("norms") == first


def test_a_plug_in_that_uses_files_of_the_package_has_them_in_its_code(tmp_path, no_plugins):
    plugin = tmp_path / "norms.py"
    plugin.write_text("from rlrr_bench.methods.products.lowrank import LowRank\n" + NORMS)
    registry.add_plugin(plugin)
    names = [path.name for path in registry.code_files("norms")]
    assert names == ["norms.py", "lowrank.py"]


def test_a_methods_code_is_its_file_and_those_it_imports():
    names = [registry.display(path) for path in registry.code_files("rlrr")]
    assert names[0] == "methods/rlrr.py"
    assert set(names) == {"methods/rlrr.py", "methods/products/rescaled.py", "methods/ssf.py"}
    assert [path.name for path in registry.code_files("linear")] == ["linear.py"]
    hashes = {registry.code_hash(name) for name in registry.built_in()}
    assert len(hashes) == len(registry.built_in())


def test_a_methods_hash_follows_its_own_files_alone(checkout, start):
    ask = start(checkout)

    def code(method: str) -> str:
        ask("registry._forget()")
        return ask(f"registry.code_hash({method!r})")

    rlrr, ssf, lora = code("rlrr"), code("ssf"), code("lora")
    assert rlrr == registry.code_hash("rlrr")
    for name in ("benchmarks/trainer.py", "methods/registry.py", "methods/anatomy/__init__.py"):
        append(checkout / name)
    append(checkout / "methods" / "bias.py")
    assert (code("rlrr"), code("ssf"), code("lora")) == (rlrr, ssf, lora)
    before = append(checkout / "methods" / "products" / "rescaled.py")
    assert code("rlrr") != rlrr and (code("ssf"), code("lora")) == (ssf, lora)
    (checkout / "methods" / "products" / "rescaled.py").write_bytes(before)
    assert code("rlrr") == rlrr
    append(checkout / "methods" / "ssf.py")
    assert code("rlrr") != rlrr and code("ssf") != ssf and code("lora") == lora

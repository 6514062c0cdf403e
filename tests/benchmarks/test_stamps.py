"""Which weights are where, without loading them."""

import shutil

from safetensors.torch import load_file, save_file

from rlrr_bench.benchmarks import stamps
from rlrr_bench.benchmarks.demo import extension
from rlrr_bench.benchmarks.stamps import Memory, weights_stamp

TAG = "vit_demo_patch8_32.shapes"


def test_shipped_weights_have_one_stamp_wherever_the_package_lies(tmp_path, monkeypatch):
    here = weights_stamp(TAG, None)
    assert here and here.startswith(TAG)
    shutil.copytree(extension.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(extension, "WEIGHTS", tmp_path / "weights")
    assert weights_stamp(TAG, None) == here
    path = tmp_path / "weights" / f"{TAG}.safetensors"
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    assert weights_stamp(TAG, None) != here


def test_a_file_or_a_folder_by_names_sizes_and_times(tmp_path):
    assert weights_stamp(TAG, str(tmp_path / "none")) is None
    (tmp_path / "a.npz").write_bytes(b"12")
    file, folder = weights_stamp(TAG, str(tmp_path / "a.npz")), weights_stamp(TAG, str(tmp_path))
    assert weights_stamp(TAG, str(tmp_path / "a.npz")) == file
    (tmp_path / "b.npz").write_bytes(b"3")
    assert weights_stamp(TAG, str(tmp_path / "a.npz")) == file
    assert weights_stamp(TAG, str(tmp_path)) != folder
    (tmp_path / "a.npz").write_bytes(b"124")
    assert weights_stamp(TAG, str(tmp_path / "a.npz")) != file
    assert weights_stamp("other.tag", str(tmp_path / "a.npz")) != file


def test_weights_of_the_hub_count_only_if_they_are_here(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "_downloaded", lambda tag: None)
    assert weights_stamp("vit_base_patch16_224.orig_in21k", None) is None


def test_the_memory_outlives_damage_and_folders_that_cannot_be_written(tmp_path):
    memory = Memory(tmp_path)
    memory.learn("s", "f")
    memory.learn("t", "g")
    memory.learn(None, "h")
    assert Memory(tmp_path).known() == {"s": "f", "t": "g"}
    memory.path.write_text("{")
    assert memory.known() == {}
    memory.path.write_text("[]")
    assert memory.known() == {}
    Memory(tmp_path / "fingerprints.json").learn("s", "f")  # a file is no folder

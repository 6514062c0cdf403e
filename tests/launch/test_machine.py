"""Which GPUs a sweep finds."""

import pytest

from rlrr_bench.launch.machine import visible_gpus


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", []),
        ("0,1", ["0", "1"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,-1,3", ["2"]),
        ("GPU-8932f937,MIG-5c89", ["GPU-8932f937", "MIG-5c89"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_takes(given, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


def test_without_the_variable_the_driver_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'GPU 0: A (UUID: x)\\nGPU 1: A (UUID: y)\\n'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ["0", "1"]
    program.unlink()
    assert visible_gpus() == []

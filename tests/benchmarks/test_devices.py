"""What a run asks of its device."""

import pytest
import torch

from rlrr_bench.benchmarks import devices


def test_a_device_is_tried():
    devices.check(torch.device("cpu"))
    missing = torch.device("cuda:99")
    with pytest.raises(devices.DeviceError, match=r"^device cuda:99 cannot be used: \S.*\n?$"):
        devices.check(missing)
    assert not devices.works(missing)
    assert devices.name(missing) == "cuda, which does not answer"
    assert devices.choose(None).type == "cpu" and devices.choose("cuda:1").index == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_memory_that_ran_out(error, expected):
    assert devices.out_of_memory(error) == expected


def test_bf16_is_for_gpus():
    assert not devices.in_bf16(True, torch.device("cpu"))

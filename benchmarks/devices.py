"""The device that runs compute on: whether it works, its precision, its memory."""

import ctypes
import platform
import resource
from pathlib import Path

import torch
from torch import Tensor

from ..methods.errors import InputError

ON_CPU = 2**31  # bytes of training images, or of their features, held in memory without a GPU


class DeviceError(InputError):
    """A device that cannot be used; says why in one line."""


def choose(name: str | None) -> torch.device:
    """A device by name; None: the GPU if there is one."""
    try:
        return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise DeviceError(f"--device: {name!r} is no device, expected cpu, cuda:0, ...") from None


def check(device: torch.device) -> None:
    """Have the device compute something.

    After some errors (an illegal access, a GPU that fell off its bus) a process cannot use a GPU
    any more, and every further run in it would fail at once.

    Raises:
        DeviceError: it does not work.
    """
    try:
        if torch.zeros(1, device=device).add(1).item() != 1:
            raise RuntimeError("1 is not 1 there")
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).strip().partition("\n")[0]
        hint = "; with CUDA_VISIBLE_DEVICES= (empty) runs use the CPU"
        raise DeviceError(f"device {device} cannot be used: {reason}{hint}") from None
    if device.type == "cuda":  # the patch embedding of a run in fp32 would use TF32
        torch.backends.cudnn.allow_tf32 = False


def works(device: torch.device) -> bool:
    """Whether `check` passes."""
    try:
        check(device)
    except DeviceError:
        return False
    return True


def name(device: torch.device) -> str:
    """What a record calls it."""
    if device.type != "cuda":
        return f"{device.type} {platform.machine()}"
    try:
        return f"cuda {torch.cuda.get_device_name(device)}"
    except (RuntimeError, AssertionError):
        return "cuda, which does not answer"


def in_bf16(amp: bool, device: torch.device) -> bool:
    """Whether a recipe that allows bf16 gets it: only on a GPU that computes in it natively."""
    return amp and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for its queue; large tensors are copied the plain way."""
    if device.type != "cuda" or tensor.is_cuda or tensor.nbytes > 2**28:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def room(device: torch.device) -> int:
    """Bytes that may be held on the device throughout a run: a quarter of what a GPU has free."""
    if device.type != "cuda":
        return ON_CPU
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + cached) // 4


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error is a GPU running out of memory, in torch's allocator or elsewhere."""
    text = str(error)
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        "CUDA error: out of memory" in text or "ALLOC_FAILED" in text
    )


def peak_memory_mb(device: torch.device) -> float:
    """A GPU's peak allocation of this run; on a CPU the process's peak so far, of all its runs."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:  # on Linux ru_maxrss begins with what the parent process had
        status = Path("/proc/self/status").read_text()
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 2**10, 1)
    except (OSError, IndexError):
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def keep_freed_memory() -> None:
    """Have glibc keep the memory that a training step frees for the next one: faster on a CPU.

    By default glibc returns it to the system, and every step pays page faults for its activations
    (10 % of a step of FacT or SSF). For processes that train; does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim, mmap = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap, 32 * 2**20)  # its largest value
    mallopt(trim, 2**31 - 1)

"""What is not a regular file of a sensible size is never read: one line, and no waiting."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SMALL, write_task

from rlrr_bench.benchmarks import data, tasks, weights
from rlrr_bench.benchmarks.data import DataError, View
from rlrr_bench.benchmarks.files import read_bytes, read_yaml
from rlrr_bench.benchmarks.record import RecordError, Results
from rlrr_bench.methods.errors import ConfigError
from rlrr_bench.paper_tables.records import scan

DIGITS = tasks.get("demo", "digits")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A test that waits for a pipe fails."""

    def late(*_: object) -> None:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(kind: str, path: Path) -> Path:
    """A pipe without a writer, a device that never ends, or a folder, in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


KINDS = ["pipe", "device", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_reading(kind, tmp_path):
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        read_bytes(put(kind, tmp_path / "it"), 100)
    (tmp_path / "large").write_bytes(bytes(101))
    assert read_bytes(tmp_path / "large", 101) == bytes(101)
    with pytest.raises(OSError, match="101 bytes, expected at most 100"):
        read_bytes(tmp_path / "large", 100)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_and_recipes(kind, tmp_path):
    path = put(kind, tmp_path / "site.yaml")
    with pytest.raises(ConfigError, match=r"site.yaml: cannot be read: (not a regular|Is a dir)"):
        read_yaml(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["train800val200.txt", "images/train800val200/000003.png"])
def test_lists_and_images(kind, where, tmp_path):
    folder = write_task(tmp_path, "demo", "digits", SMALL)
    put(kind, folder / where)
    with pytest.raises(DataError, match=r"(not a regular file|Is a directory)$") as raised:
        data.open_split(tmp_path, DIGITS, "trainval", View(32), smoke=True)
    assert str(folder / where) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_weights(kind, tmp_path):
    path = put(kind, tmp_path / "ViT-B_16.npz")
    with pytest.raises(weights.BackboneError, match=r"npz: cannot be read: (not a reg|Is a dir)"):
        weights.inspect(path)


@pytest.mark.parametrize("kind", KINDS)
def test_records(kind, tmp_path):
    (tmp_path / "runs").mkdir()
    put(kind, tmp_path / "runs" / "0123456789ab.json")
    results = Results(tmp_path)
    assert results.read("0123456789ab") is None and results.glance(["0123456789ab"]) == {}
    ((_, found),) = results.all()
    assert isinstance(found, RecordError)
    assert list(scan(tmp_path).apart) == ["0123456789ab.json"]


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_the_formats_of_data_sets_are_opened(tmp_path, monkeypatch):
    """An EPS would start Ghostscript."""
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    folder = write_task(tmp_path, "demo", "digits", SMALL)
    image = folder / "images" / "train800val200" / "000003.png"
    image.write_bytes(POSTSCRIPT)
    with pytest.raises(DataError, match=r"000003.png: cannot be decoded: none of JPEG, PNG, GIF"):
        data.open_split(tmp_path, DIGITS, "trainval", View(32), smoke=True)
    for suffix in ("jpeg", "png", "gif", "bmp", "tiff", "webp", "ppm"):
        Image.new("RGB", (32, 32), "red").save(image, suffix)
        split = data.open_split(tmp_path, DIGITS, "trainval", View(32), smoke=True)
        assert np.abs(split.images[3][4, 4].astype(int) - [255, 0, 0]).max() <= 3, suffix


def test_pixels_that_are_floats_are_refused(tmp_path):
    """Pillow clips them at 1: a black image."""
    folder = write_task(tmp_path, "demo", "digits", SMALL)
    pixels = np.full((32, 32), 0.5, dtype=np.float32)
    pixels[0, 0] = np.nan
    image = folder / "images" / "train800val200" / "000003.png"
    Image.fromarray(pixels).save(image, "TIFF")
    with pytest.raises(DataError, match=r"000003.png: cannot be decoded: its pixels are floating"):
        data.open_split(tmp_path, DIGITS, "trainval", View(32), smoke=True)


@pytest.mark.parametrize("kind", KINDS)
def test_notes_of_fingerprints(kind, tmp_path):
    from rlrr_bench.benchmarks.stamps import Memory

    put(kind, tmp_path / "fingerprints.json")
    assert Memory(tmp_path).known() == {}
    assert json.dumps(Memory(tmp_path).known()) == "{}"

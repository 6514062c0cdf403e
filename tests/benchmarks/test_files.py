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
from rlrr_bench.benchmarks.record import RecordError
from rlrr_bench.benchmarks.store import Results
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


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: 12", 12),
        ("a: -3", -3),
        ("a: 1.5", 1.5),
        ("a: 5e-4", 5e-4),
        ("a: 5.0e-4", 5e-4),
        ("a: .5", 0.5),
        ("a: true", True),
        ("a: null", None),
        ("a: ~", None),
        ("a: [1, x]", [1, "x"]),
        ("a: 064", "064"),  # YAML 1.1: 52
        ("a: 1:30", "1:30"),  # 90
        ("a: 0x10", "0x10"),
        ("a: 1_000", "1_000"),
        ("a: yes", "yes"),
        ("a: off", "off"),
        ("a: 2024-01-02", "2024-01-02"),
        ("a: .inf", ".inf"),
        ("a: .nan", ".nan"),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"b": 1, "c": 2}),
        ("a: {3: 1}", {3: 1}),
    ],
)
def test_yaml_has_no_surprises(text, value, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    found = read_yaml(tmp_path / "a.yaml")["a"]
    assert found == value and type(found) is type(value)


LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3\n", r"a.yaml:3: not YAML: key 'a' twice"),
        ("x:\n  a: 1\n  b: {c: 1, c: 2}\n", r"a.yaml:3: not YAML: key 'c' twice"),
        ("[1, 2]: 3\n", r"a.yaml:1: not YAML: key \[1, 2\]: expected a word or a number"),
        ("1.5: 3\n", r"a.yaml:1: not YAML: key 1.5: expected a word or a number"),
        ("a: !!python/object/apply:os.system [true]\n", r"a.yaml:1: not YAML: could not determine"),
        ("a: [\n", r"a.yaml:2: not YAML: "),
        ("a: *nowhere\n", r"a.yaml:1: not YAML: found undefined alias"),
        ("- a\n", r"a.yaml: found list, expected a mapping"),
        ("a: " + "[" * 5000 + "]" * 5000, r"a.yaml: not YAML: nested too deeply"),
        (LAUGHS, r"a.yaml: more than 100,000 values"),
        ("a: \x01", r"a.yaml: not YAML: "),
    ],
)
def test_what_is_wrong_in_yaml_is_one_line(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("raw", [b"\xff\xfea\x00", b"a: \xe9\n", bytes(2**20 + 1)])
def test_what_is_no_text_is_no_yaml(raw, tmp_path):
    (tmp_path / "a.yaml").write_bytes(raw)
    with pytest.raises(ConfigError, match=r"a.yaml: (not UTF-8 text|cannot be read: 1,048,577 b)"):
        read_yaml(tmp_path / "a.yaml")


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

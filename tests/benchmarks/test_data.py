"""Reading the archive layout: what is accepted, what is refused and how, and the pixel cache."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SMALL, write_task

from benchmarks import data, tasks
from benchmarks.data import DataError

TASK = tasks.get("demo", "digits")


def read(root: Path, split: str = "trainval") -> data.Listing:
    return data.read_list(root, TASK, split, smoke=True)


def edit(root: Path, change) -> Path:
    """Apply `change` to the lines of the trainval list; returns the list file."""
    file = root / "demo" / "digits" / "train800val200.txt"
    file.write_bytes(change(file.read_text().splitlines()))
    return file


def test_reads_paths_and_labels_in_order(small_data):
    listing = read(small_data)
    lines = listing.file.read_text().split("\n")[:-1]
    assert [f"images/train800val200/{p.name} {y}" for p, y in zip(*paths_labels(listing), strict=False)] == lines
    data.check_files(listing)


def paths_labels(listing):
    return listing.paths, listing.labels


def test_crlf_and_blank_lines_are_accepted(small_data):
    before = read(small_data)
    edit(small_data, lambda lines: "\r\n".join(["", *lines, "", " "]).encode())
    after = read(small_data)
    assert (after.paths, after.labels) == (before.paths, before.labels)


@pytest.mark.parametrize(
    "line, message",
    [
        ("images/x.png 10", r"train800val200.txt:3: found label 10, expected 0 to 9$"),
        ("images/x.png -1", r"train800val200.txt:3: found .* expected 'path label'$"),
        ("images/x.png", r"train800val200.txt:3: found .* expected 'path label'$"),
        ("images/x.png cat", r"train800val200.txt:3: found .* expected 'path label'$"),
        ("../cells/x.png 1", r"train800val200.txt:3: path '../cells/x.png' leaves the folder"),
        ("/etc/x.png 1", r"train800val200.txt:3: path '/etc/x.png' leaves the folder"),
    ],
)
def test_a_bad_line_is_named(small_data, line, message):
    edit(small_data, lambda lines: "\n".join([*lines[:2], line, *lines[3:]]).encode())
    with pytest.raises(DataError, match=message):
        read(small_data)


def test_missing_things_are_named(small_data, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/demo/digits: no such folder"):
        read(tmp_path / "nowhere")
    image = read(small_data).paths[4]
    image.unlink()
    with pytest.raises(DataError, match=r"train800val200.txt: image 5: no such file .*000004.png"):
        data.check_files(read(small_data))
    (small_data / "demo/digits/test.txt").unlink()
    with pytest.raises(DataError, match=r"test.txt: no such list; expected 1000 lines"):
        read(small_data, "test")


def test_the_table_not_the_list_says_how_long_it_is(small_data):
    with pytest.raises(DataError, match=r"train800val200.txt: found 16 images, expected 1000"):
        data.read_list(small_data, TASK, "trainval")


@pytest.mark.parametrize("keep", [0, 40, 200])
def test_a_truncated_image_is_named_and_leaves_no_cache(small_data, keep):
    image = read(small_data).paths[7]
    image.write_bytes(image.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"000007.png: cannot be decoded"):
        data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert not [p for p in (small_data / ".cache").rglob("*") if p.is_file()]


def test_pixels_are_pils(tmp_path):
    """Bicubic to a square, aspect not kept, three channels, for JPEG, PNG, grey and palette."""
    write_task(tmp_path, "demo", "digits", {"trainval": 4}, pixels=50, suffix="jpg")
    listing = read(tmp_path)
    odd = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 77, 3), dtype=np.uint8))
    odd.convert("L").save(listing.paths[1])
    odd.convert("P").save(listing.paths[2], format="PNG")
    odd.save(listing.paths[3])
    split = data.load(tmp_path, TASK, "trainval", 24, smoke=True)
    assert split.images.shape == (4, 24, 24, 3) and split.images.dtype == np.uint8
    for path, image in zip(listing.paths, split.images, strict=True):
        with Image.open(path) as opened:
            expected = opened.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(image, np.asarray(expected))
    assert split.labels.tolist() == listing.labels and split.variant == "jpg"


def test_the_cache_is_used_and_follows_the_data(small_data):
    first = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert isinstance(first.images, np.memmap)
    inode = os.stat(first.images.filename).st_ino
    again = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert os.stat(again.images.filename).st_ino == inode
    assert data.load(small_data, TASK, "trainval", 16, smoke=True).images.shape[1] == 16
    image = read(small_data).paths[0]
    Image.new("RGB", (32, 32), "red").save(image)
    changed = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert changed.fingerprint != first.fingerprint
    assert (changed.images[0] == [255, 0, 0]).all()
    assert np.array_equal(changed.images[1:], first.images[1:])


def test_a_damaged_cache_is_built_again(small_data):
    first = data.load(small_data, TASK, "trainval", 32, smoke=True)
    images, file = np.array(first.images), Path(first.images.filename)
    del first
    os.truncate(file, file.stat().st_size // 2)
    again = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert np.array_equal(again.images, images)


def test_an_unwritable_cache_is_one_line(small_data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="the cache cannot be written"):
        data.load(small_data, TASK, "trainval", 32, cache=blocked, smoke=True)


BUILD = """
import sys, numpy
from pathlib import Path
from benchmarks import data, tasks
split = data.load(Path(sys.argv[1]), tasks.get("demo", "digits"), "trainval", 96, smoke=True)
print(int(split.images.astype(numpy.int64).sum()))
"""


def test_two_processes_build_one_cache_and_one_is_killed(tmp_path):
    write_task(tmp_path, "demo", "digits", {"trainval": 300})
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    home = tmp_path / ".cache" / "demo" / "digits"
    give_up = time.monotonic() + 60
    while not list(home.glob("*")) and not list(home.glob(".building-*")):
        assert time.monotonic() < give_up
        time.sleep(0.001)
    both[0].kill()
    told, _ = both[1].communicate(timeout=60)
    both[0].communicate()
    fresh = data.load(tmp_path, TASK, "trainval", 96, cache=tmp_path / "other", smoke=True)
    assert int(told) == int(fresh.images.astype(np.int64).sum())
    assert len([folder for folder in home.iterdir() if not folder.name.startswith(".")]) == 1


def test_splits_of_a_task_are_kept_apart(small_data):
    splits = {s: data.load(small_data, TASK, s, 32, smoke=True) for s in SMALL}
    assert {s: len(split.labels) for s, split in splits.items()} == SMALL

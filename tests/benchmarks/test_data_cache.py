"""The pixel cache: decoded once, shared by all, built again when the data changes."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import SMALL, edit, read, write_benchmark, write_task

from rlrr_bench.benchmarks import data, tasks
from rlrr_bench.benchmarks.data import DataError, View, cache

TASK = tasks.get("demo", "digits")
VIEW = View(32)


def settled(root: Path) -> None:
    """Make the files old enough for their times to be trusted."""
    for path in root.rglob("images/*/*"):
        os.utime(path, ns=(1, path.stat().st_ino))


def rows_on_disk(root: Path) -> int:
    """How many decoded images the cache holds, of all views."""
    from rlrr_bench.benchmarks.data import upkeep

    return sum(view.images for view in upkeep.usage(root / ".cache"))


@pytest.mark.parametrize("old", [True, False], ids=["settled files", "files just written"])
def test_the_cache_is_used_and_follows_the_data(small_data, old, monkeypatch):
    if old:
        settled(small_data)
    first = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    told = []
    again = data.open_split(
        small_data, TASK, "trainval", VIEW, smoke=True, progress=lambda *n: told.append(n)
    )
    assert told == ([] if old else [(16, 16)])  # new files are read again, but not decoded
    assert rows_on_disk(small_data) == 16
    assert (again.fingerprint, again.variant) == (first.fingerprint, first.variant)
    assert np.array_equal(again.images, first.images)
    assert data.open_split(small_data, TASK, "trainval", View(16), smoke=True).images.shape[1] == 16
    image = read(small_data).paths[0]
    Image.new("RGB", (32, 32), "red").save(image)
    changed = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert changed.fingerprint != first.fingerprint
    assert (changed.images[0] == [255, 0, 0]).all()
    assert np.array_equal(changed.images[1:], first.images[1:])
    edit(small_data, lambda lines: "\n".join(reversed(lines)).encode())
    turned = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert np.array_equal(turned.images, np.asarray(changed.images)[::-1])
    assert turned.labels.tolist() == changed.labels.tolist()[::-1]
    assert turned.fingerprint != changed.fingerprint


def test_images_are_indexed_like_an_array(small_data):
    edit(small_data, lambda lines: "\n".join(lines[:5] + lines[3:] + lines[:2]).encode())
    images = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True).images
    whole = np.asarray(images)
    assert len(images) == len(whole) == 20 and rows_on_disk(small_data) == 16
    for index in (0, -1, slice(2, 9), slice(None), np.array([19, 0, 3, 3]), [4], slice(0, 0)):
        assert np.array_equal(images[index], whole[index])
    with pytest.raises(ValueError, match="read-only"):
        images[0][0] = 0


@pytest.mark.parametrize("file", ["pixels.bin", "index.npz", "digits"])
def test_a_damaged_cache_is_built_again(small_data, file):
    settled(small_data)
    images = np.array(data.open_split(small_data, TASK, "trainval", VIEW, smoke=True).images)
    (path,) = (small_data / ".cache").rglob(f"*{file}*")
    os.truncate(path, path.stat().st_size // 2)
    again = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert np.array_equal(again.images, images)
    path.write_bytes(b"x" * 500)
    again = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert np.array_equal(again.images, images)


@pytest.mark.parametrize("how", ["replaced", "written over"])
def test_other_pixels_of_equal_size_and_time_are_noticed(small_data, how):
    for path in read(small_data).paths:
        Image.new("RGB", (32, 32), "red").save(path, "BMP")
    settled(small_data)
    first = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    image = read(small_data).paths[3]
    before = image.stat()
    other = image if how == "written over" else image.with_suffix(".new")
    Image.new("RGB", (32, 32), "blue").save(other, "BMP")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(image)
    now = image.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert (again.images[3] == [0, 0, 255]).all() and again.fingerprint != first.fingerprint


@pytest.mark.parametrize("what", ["behind", "before", "no segment", "elsewhere"])
def test_an_entry_that_points_elsewhere_is_built_again(small_data, what, tmp_path):
    settled(small_data)
    images = np.array(data.open_split(small_data, TASK, "trainval", VIEW, smoke=True).images)
    (entry,) = (small_data / ".cache").rglob("demo-digits-*.npz")
    with np.load(entry) as file:
        arrays = {key: file[key] for key in file.files}
    (segment,) = arrays["segments"]
    own = cache.view_folder(small_data / ".cache", VIEW)
    shutil.copytree(own / segment, tmp_path / "elsewhere")
    if what == "behind":
        arrays["row"][3] = 16
    elif what == "before":
        arrays["row"][3] = -1
    elif what == "no segment":
        arrays["which"][3] = -1
    else:
        arrays["segments"] = np.array([os.path.relpath(tmp_path / "elsewhere", own)])
    np.savez(entry, **arrays)
    again = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert np.array_equal(again.images, images)
    assert (tmp_path / "elsewhere" / "pixels.bin").exists()


def test_tasks_and_splits_with_the_same_images_store_them_once(tmp_path):
    """CLEVR, dSprites and SmallNORB come in pairs; train800val200 repeats train800 and val200."""
    pairs = (("clevr_count", "clevr_dist"), ("dsprites_ori", "dsprites_loc"))
    vtab = write_benchmark(tmp_path, "vtab-1k", [name for pair in pairs for name in pair])
    for pair in pairs:
        before = rows_on_disk(tmp_path)
        one, other = (
            [data.open_split(tmp_path, vtab[name], split, View(16), smoke=True) for split in SMALL]
            for name in pair
        )
        distinct = sum(len(split.labels) for split in one) - len(one[2].labels)
        assert rows_on_disk(tmp_path) - before == distinct
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.images, b.images)
    assert one[3].labels.tolist() != [0] * len(one[3].labels)


def test_a_cache_of_old_that_may_only_be_read_is_read(small_data, monkeypatch):
    settled(small_data)
    first = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    home = cache.view_folder(small_data / ".cache", VIEW)
    (home / "CACHEDIR.TAG").unlink()

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(cache, "write_text", refused)
    again = data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert again.fingerprint == first.fingerprint and not (home / "CACHEDIR.TAG").exists()
    monkeypatch.undo()
    data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    assert (home / "CACHEDIR.TAG").exists()


def test_an_unwritable_cache_is_one_line(small_data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="the cache cannot be read or written"):
        data.open_split(small_data, TASK, "trainval", VIEW, cache=blocked, smoke=True)


@pytest.mark.parametrize("old", [True, False], ids=["settled files", "files just written"])
def test_a_fingerprint_needs_no_decoding(small_data, old, monkeypatch):
    """With a cache or without, it is the one that a split has; it follows the data."""

    def now() -> str:
        return data.current_fingerprint(small_data, TASK, "trainval", smoke=True)

    if old:
        settled(small_data)
    before = now()
    assert not (small_data / ".cache").exists()
    split = data.open_split(small_data, TASK, "trainval", View(16), smoke=True)
    assert split.fingerprint == before == now()
    asked = []
    monkeypatch.setattr(cache, "read_image", lambda *image: asked.append(image) or b"")
    now()
    assert len(asked) == (0 if old else 16)  # of settled files the cache knows the content
    monkeypatch.undo()
    Image.new("RGB", (32, 32), "red").save(read(small_data).paths[0])
    changed = now()
    assert changed != before
    split = data.open_split(small_data, TASK, "trainval", View(16), smoke=True)
    assert split.fingerprint == changed
    edit(small_data, lambda lines: "\n".join([*lines[:-1], lines[-1][:-1] + "9"]).encode())
    assert now() not in (before, changed)  # a label


BUILD = """
import sys, numpy
from pathlib import Path
from rlrr_bench.benchmarks import data, tasks
task, view = tasks.get("demo", "digits"), data.View(96)
split = data.open_split(Path(sys.argv[1]), task, "trainval", view, smoke=True)
print(int(numpy.asarray(split.images).astype(numpy.int64).sum()))
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_build_one_cache_and_one_is_killed(tmp_path, victim):
    write_task(tmp_path, "demo", "digits", {"trainval": 300})
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    home = tmp_path / ".cache" / "v2-squash-96-bicubic"
    give_up = time.monotonic() + 60
    while not list(home.glob(".building-*/pixels.bin")) and not list(home.glob("*/pixels.bin")):
        assert time.monotonic() < give_up
        time.sleep(0.001)
    both[victim].kill()
    told, _ = both[1 - victim].communicate(timeout=60)
    both[victim].communicate()
    fresh = data.open_split(
        tmp_path, TASK, "trainval", View(96), cache=tmp_path / "other", smoke=True
    )
    assert int(told) == int(np.asarray(fresh.images).astype(np.int64).sum())
    assert len(list(home.glob("*/pixels.bin"))) == 1 and not list(home.glob(".building-*"))


@pytest.mark.parametrize("keep", [0, 40, 200])
def test_a_truncated_image_is_named_and_leaves_no_cache(small_data, keep):
    image = read(small_data).paths[7]
    image.write_bytes(image.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"200.txt:8: .*000007.png: cannot be decoded"):
        data.open_split(small_data, TASK, "trainval", VIEW, smoke=True)
    left = {p.name for p in (small_data / ".cache").rglob("*") if p.is_file()}
    assert left == {".lock", "CACHEDIR.TAG"}

"""Reading the archive layout: what is accepted, what is refused and how, and the pixel cache."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import (
    FGVC,
    SMALL,
    labels_of,
    scaled,
    write_benchmarks,
    write_cifar,
    write_fgvc,
    write_task,
)

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
    assert [
        f"images/train800val200/{p.name} {y}" for p, y in zip(*paths_labels(listing), strict=False)
    ] == lines
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
    with pytest.raises(DataError, match=r"train800val200.txt:5: no such file .*000004.png"):
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
    with pytest.raises(DataError, match=r"200.txt:8: .*000007.png: cannot be decoded"):
        data.load(small_data, TASK, "trainval", 32, smoke=True)
    left = [p.name for p in (small_data / ".cache").rglob("*") if p.is_file()]
    assert left == [".lock"]


KINDS = {  # file name -> how a file of this kind is made from an RGB image
    "jpeg.jpg": lambda rgb: (rgb, {}),
    "jpeg444.jpg": lambda rgb: (rgb, {"quality": 95, "subsampling": 0}),
    "grey.jpg": lambda rgb: (rgb.convert("L"), {}),
    "cmyk.jpg": lambda rgb: (rgb.convert("CMYK"), {}),
    "turned.jpg": lambda rgb: (
        rgb,
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "grey.png": lambda rgb: (rgb.convert("L"), {}),
    "bits.png": lambda rgb: (rgb.convert("1"), {}),
    "palette.png": lambda rgb: (rgb.convert("P"), {}),
    "palette_clear.png": lambda rgb: (rgb.convert("P"), {"transparency": 3}),
    "alpha.png": lambda rgb: (Image.merge("RGBA", (*rgb.split(), rgb.split()[0])), {}),
    "grey_alpha.png": lambda rgb: (rgb.convert("LA"), {}),
    "deep.png": lambda rgb: (Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 3), {}),
    "animated.gif": lambda rgb: (rgb.convert("P"), {}),
}


def write_kinds(root: Path) -> data.Listing:
    """The trainval list of `digits` as one image of each kind, 77 x 30 pixels."""
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 77, 3), dtype=np.uint8))
    folder = root / "demo" / "digits"
    folder.mkdir(parents=True)
    for name, make in KINDS.items():
        image, options = make(rgb)
        image.save(folder / name, **options)
    lines = [f"{name} {i % 10}" for i, name in enumerate(KINDS)]
    (folder / "train800val200.txt").write_text("\n".join(lines))
    return read(root)


def test_pixels_are_pillows(tmp_path):
    """Bicubic to a square, aspect not kept, three channels, for every kind of file."""
    listing = write_kinds(tmp_path)
    split = data.load(tmp_path, TASK, "trainval", 24, smoke=True)
    assert split.images.shape == (len(KINDS), 24, 24, 3) and split.images.dtype == np.uint8
    for path, image in zip(listing.paths, split.images, strict=True):
        with Image.open(path) as opened:
            expected = opened.convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
        assert np.array_equal(image, np.asarray(expected)), path.name
    assert split.labels.tolist() == listing.labels and split.variant == "jpg"


def test_what_pillow_does_with_odd_files(tmp_path):
    """The docstring of decode.py, spelled out: EXIF ignored, alpha dropped, 16 bits clipped."""
    listing = write_kinds(tmp_path)
    own = data.load(tmp_path, TASK, "trainval", 24, smoke=True, resize="own")
    seen = dict(zip(KINDS, own.images, strict=True))
    rgb = np.random.default_rng(1).integers(0, 256, (30, 77, 3), dtype=np.uint8)
    with Image.open(listing.paths[list(KINDS).index("turned.jpg")]) as turned:
        assert turned.getexif()[0x0112] == 6  # to be turned by 90 degrees
    assert np.array_equal(seen["turned.jpg"], seen["jpeg.jpg"])
    assert seen["turned.jpg"].shape == (30, 77, 3)
    assert np.array_equal(seen["alpha.png"], rgb)
    assert np.array_equal(seen["deep.png"][..., 0], np.minimum(rgb[..., 0].astype(int) * 3, 255))
    for name in ("grey.jpg", "grey.png", "bits.png", "grey_alpha.png", "deep.png"):
        assert (seen[name] == seen[name][..., :1]).all(), name
    inverse = 255 - np.asarray(Image.open(listing.paths[3])).astype(int)  # C, M, Y, K
    expected = (inverse[..., :3] * inverse[..., 3:] / 255).round()
    assert np.abs(seen["cmyk.jpg"] - expected).max() <= 1


@pytest.mark.parametrize("resize", ["squash", "squash256", "short256", "short248"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_views_are_torchvisions(tmp_path, resize, interpolation):
    """Resize to a square or by the shorter side, and the centre crop, as torchvision has them."""
    from torchvision.transforms import v2

    listing = write_kinds(tmp_path)
    mode = v2.InterpolationMode(interpolation)
    side = {"squash": (28, 28), "squash256": (32, 32), "short256": 32, "short248": 31}[resize]
    for centre in (False, True):
        options = {"resize": resize, "centre": centre}
        split = data.load(tmp_path, TASK, "trainval", 28, interpolation, smoke=True, **options)
        change = v2.Compose([v2.Resize(side, mode)] + [v2.CenterCrop(28)] * centre)
        for path, image in zip(listing.paths, split.images, strict=True):
            with Image.open(path) as opened:
                assert np.array_equal(image, np.asarray(change(opened.convert("RGB"))))


def settled(root: Path) -> None:
    """Make the files old enough for their times to be trusted."""
    for path in root.rglob("images/*/*"):
        os.utime(path, ns=(1, path.stat().st_ino))


def rows_on_disk(root: Path) -> int:
    """How many decoded images the cache holds, of all views."""
    from benchmarks.data import upkeep

    return sum(view.images for view in upkeep.usage(root / ".cache"))


@pytest.mark.parametrize("old", [True, False], ids=["settled files", "files just written"])
def test_the_cache_is_used_and_follows_the_data(small_data, old, monkeypatch):
    if old:
        settled(small_data)
    first = data.load(small_data, TASK, "trainval", 32, smoke=True)
    told = []
    again = data.load(
        small_data, TASK, "trainval", 32, smoke=True, progress=lambda *n: told.append(n)
    )
    assert told == ([] if old else [(16, 16)])  # new files are read again, but not decoded
    assert rows_on_disk(small_data) == 16
    assert (again.fingerprint, again.variant) == (first.fingerprint, first.variant)
    assert np.array_equal(again.images, first.images)
    assert data.load(small_data, TASK, "trainval", 16, smoke=True).images.shape[1] == 16
    image = read(small_data).paths[0]
    Image.new("RGB", (32, 32), "red").save(image)
    changed = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert changed.fingerprint != first.fingerprint
    assert (changed.images[0] == [255, 0, 0]).all()
    assert np.array_equal(changed.images[1:], first.images[1:])
    edit(small_data, lambda lines: "\n".join(reversed(lines)).encode())
    turned = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert np.array_equal(turned.images, np.asarray(changed.images)[::-1])
    assert turned.labels.tolist() == changed.labels.tolist()[::-1]
    assert turned.fingerprint != changed.fingerprint


def test_images_are_indexed_like_an_array(small_data):
    edit(small_data, lambda lines: "\n".join(lines[:5] + lines[3:] + lines[:2]).encode())
    images = data.load(small_data, TASK, "trainval", 32, smoke=True).images
    whole = np.asarray(images)
    assert len(images) == len(whole) == 20 and rows_on_disk(small_data) == 16
    for index in (0, -1, slice(2, 9), slice(None), np.array([19, 0, 3, 3]), [4], slice(0, 0)):
        assert np.array_equal(images[index], whole[index])
    with pytest.raises(ValueError, match="read-only"):
        images[0][0] = 0


@pytest.mark.parametrize("file", ["pixels.bin", "index.npz", "digits"])
def test_a_damaged_cache_is_built_again(small_data, file):
    settled(small_data)
    images = np.array(data.load(small_data, TASK, "trainval", 32, smoke=True).images)
    (path,) = (small_data / ".cache").rglob(f"*{file}*")
    os.truncate(path, path.stat().st_size // 2)
    again = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert np.array_equal(again.images, images)
    path.write_bytes(b"x" * 500)
    again = data.load(small_data, TASK, "trainval", 32, smoke=True)
    assert np.array_equal(again.images, images)


def test_tasks_and_splits_with_the_same_images_store_them_once(tmp_path):
    """CLEVR, dSprites and SmallNORB come in pairs; train800val200 repeats train800 and val200."""
    write_benchmarks(tmp_path)
    vtab = tasks.benchmarks()["vtab-1k"]
    for pair in (("clevr_count", "clevr_dist"), ("dsprites_ori", "dsprites_loc")):
        before = rows_on_disk(tmp_path)
        one, other = (
            [data.load(tmp_path, vtab[name], split, 16, smoke=True) for split in SMALL]
            for name in pair
        )
        distinct = sum(len(split.labels) for split in one) - len(one[2].labels)
        assert rows_on_disk(tmp_path) - before == distinct
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a.images, b.images)
    assert one[3].labels.tolist() != [0] * len(one[3].labels)


def test_an_unwritable_cache_is_one_line(small_data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="the cache cannot be read or written"):
        data.load(small_data, TASK, "trainval", 32, cache=blocked, smoke=True)


BUILD = """
import sys, numpy
from pathlib import Path
from benchmarks import data, tasks
split = data.load(Path(sys.argv[1]), tasks.get("demo", "digits"), "trainval", 96, smoke=True)
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
    fresh = data.load(tmp_path, TASK, "trainval", 96, cache=tmp_path / "other", smoke=True)
    assert int(told) == int(np.asarray(fresh.images).astype(np.int64).sum())
    assert len(list(home.glob("*/pixels.bin"))) == 1 and not list(home.glob(".building-*"))


def test_splits_of_a_task_are_kept_apart(small_data):
    splits = {s: data.load(small_data, TASK, s, 32, smoke=True) for s in SMALL}
    assert {s: len(split.labels) for s, split in splits.items()} == SMALL


@pytest.mark.parametrize("layout", ["vpt", "rlrr"])
@pytest.mark.parametrize("name", list(FGVC["vpt"]))
def test_fgvc_layouts(tmp_path, layout, name):
    """Both spellings of folders and keys; trainval is train then val, with or without its file."""
    task = scaled(tasks.get("fgvc", name), 0.002)
    write_fgvc(tmp_path, task, 12, layout)
    found = {split: data.read_list(tmp_path, task, split) for split in SMALL}
    for split, listing in found.items():
        assert listing.labels == [*labels_in(task, split)]
        assert len(data.check_files(listing)) == task.sizes[split]
    assert found["trainval"].names == found["train"].names + found["val"].names
    folder, prefix, _ = FGVC[layout][name]
    assert found["test"].folder == tmp_path / "fgvc" / folder
    assert found["test"].names[0].startswith(prefix)
    with pytest.raises(DataError, match=r"train\.?v?a?l?\.json: found 8 images, expected|found"):
        data.read_list(tmp_path, tasks.get("fgvc", name), "trainval")


def labels_in(task, split):
    parts = ("train", "val") if split == "trainval" else (split,)
    return [label for part in parts for label in labels_of(task, part)]


def test_labels_come_from_all_splits_together(tmp_path):
    """A split that misses classes must not shift the others' labels."""
    folder = tmp_path / "fgvc" / "StanfordCars"
    folder.mkdir(parents=True)
    for split, ids in (("train", [9, 5]), ("val", [5]), ("test", [7, 9, 2])):
        listed = {f"{split}{i}.jpg": value for i, value in enumerate(ids)}
        (folder / f"{split}.json").write_text(json.dumps(listed))
    task = tasks.get("fgvc", "Stanford-cars")
    labels = {s: data.read_list(tmp_path, task, s, smoke=True).labels for s in SMALL}
    assert labels == {"train": [3, 1], "val": [1], "trainval": [3, 1, 1], "test": [2, 3, 0]}
    with pytest.raises(DataError, match="StanfordCars: its lists name 4 ids, expected 196"):
        data.read_list(tmp_path, task, "test")


def test_cifar_binary_is_read_as_it_is(tmp_path):
    task = write_cifar(tmp_path, scaled(tasks.get("cifar100", "cifar100"), 0.002))
    for split in SMALL:
        loaded = data.load(tmp_path, task, split, 32)
        assert len(loaded.labels) == task.sizes[split]
        file = (
            tmp_path
            / "cifar100/cifar-100-binary"
            / ("test.bin" if split == "test" else "train.bin")
        )
        records = np.fromfile(file, np.uint8).reshape(-1, 3074)
        records = records[task.sizes["train"] :] if split == "val" else records
        records = records[: task.sizes[split]]
        assert loaded.labels.tolist() == records[:, 1].tolist()
        planes = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        assert np.array_equal(loaded.images, planes) and loaded.variant == "bin"


def test_folders_may_be_spelled_otherwise(tmp_path):
    write_task(tmp_path, "vtab-1k", "oxford_flowers102", SMALL)
    (tmp_path / "vtab-1k" / "oxford_flowers102").rename(tmp_path / "vtab-1k" / "flowers102")
    task = tasks.get("vtab-1k", "Flowers102")
    assert len(data.read_list(tmp_path, task, "test", smoke=True).names) == 10

"""Reading the lists of every layout: what is accepted, what is refused and how."""

import json

import numpy as np
import pytest
from samples import FGVC, SMALL, edit, labels_of, read, scaled, write_cifar, write_fgvc, write_task

from rlrr_bench.benchmarks import data, tasks
from rlrr_bench.benchmarks.data import DataError, View

TASK = tasks.get("demo", "digits")


def test_reads_paths_and_labels_in_order(small_data):
    listing = read(small_data)
    lines = listing.file.read_text().split("\n")[:-1]
    folder = "images/train800val200"
    read_back = zip(listing.paths, listing.labels, strict=True)
    assert [f"{folder}/{path.name} {label}" for path, label in read_back] == lines
    data.check_files(listing)


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


def test_splits_of_a_task_are_kept_apart(small_data):
    splits = {s: data.open_split(small_data, TASK, s, View(32), smoke=True) for s in SMALL}
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
        loaded = data.open_split(tmp_path, task, split, View(32))
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

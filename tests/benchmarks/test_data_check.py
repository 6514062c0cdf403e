"""`rlrr-bench data`: every fault that archives are known to have, planted and found."""

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from samples import SMALL, write_benchmarks, write_task

from rlrr_bench.benchmarks import data, tasks
from rlrr_bench.benchmarks.data import View
from rlrr_bench.benchmarks.data import check as checking
from rlrr_bench.launch.cli import main

VTAB = "vtab-1k"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 25 tasks, with nothing wrong, and their table."""
    root = tmp_path_factory.mktemp("all")
    return root, write_benchmarks(root)


@pytest.fixture
def copied(whole, tmp_path):
    """Copies a task, so that a test may spoil it: gives its folder and what checks it."""

    def copy(benchmark: str, name: str):
        root, table = whole
        task = table[benchmark][name]
        folder = data.lists.locate(root, task)
        shutil.copytree(folder, tmp_path / benchmark / folder.name)
        return tmp_path / benchmark / folder.name, lambda: checking.check(tmp_path, task)

    return copy


def relabel(folder: Path, change, lists=("train800", "val200", "train800val200", "test")) -> None:
    """Replace every label by change(label)."""
    for name in lists:
        file = folder / f"{name}.txt"
        pairs = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{path} {change(int(label))}\n" for path, label in pairs))


def told(report, wrong: bool = True) -> str:
    return "\n".join(str(finding) for finding in report.findings if finding.wrong == wrong)


def test_all_tasks_are_right(whole, monkeypatch, capsys, tmp_path):
    root, table = whole
    monkeypatch.setattr(checking, "benchmarks", lambda: table)
    assert main(["data", "check", str(root), "--json", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert "25 tasks, 0 things wrong" in out and "note" not in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] and len(report["tasks"]) == 25
    assert {task["variant"] for task in report["tasks"]} == {"jpeg", "lossless"}
    found = next(task for task in report["tasks"] if task["task"] == "kitti")
    splits = [
        data.open_split(
            root, table[VTAB]["kitti"], split, View(8), cache=tmp_path / "cache"
        ).fingerprint
        for split in ("trainval", "test")
    ]
    assert found["fingerprint"] == "+".join(splits)


def test_an_incomplete_archive_is_told(whole, monkeypatch, capsys, tmp_path):
    root, table = whole
    for name in list(table[VTAB])[:12]:
        (tmp_path / VTAB).mkdir(exist_ok=True)
        (tmp_path / VTAB / name).symlink_to(root / VTAB / name)
    monkeypatch.setattr(checking, "benchmarks", lambda: table)
    assert main(["data", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{tmp_path / VTAB}: an incomplete archive: 12 of 19 tasks; missing: clevr_dist" in out
    assert main(["data", "check", str(tmp_path), "--tasks", "cifar100,svhn"]) == 0


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("dsprites_ori", lambda y: y * 2.5, "labels are 0 to 37: the 40 raw orientations"),
        ("dsprites_loc", lambda y: 2 * y + 1, "labels are 1 to 31: raw x positions"),
        ("svhn", lambda y: y or 10, "labels are 1 to 10: digit 0 is written as 10, expected 0"),
        ("clevr_count", lambda y: y + 3, "labels are 3 to 10: numbers of objects"),
        ("caltech101", lambda y: min(y, 100), "101 classes, expected 102 with background_google"),
        ("dtd", lambda y: y + 1, "labels are 1 to 47: they begin at 1"),
        ("pets", lambda y: max(y, 1), "it shows 36 of 37 classes; missing: 0"),
    ],
)
def test_labels_that_are_not_vtabs(copied, name, change, message):
    name = "oxford_iiit_pet" if name == "pets" else name
    folder, check = copied(VTAB, name)
    relabel(folder, lambda label: int(change(label)))
    found = next(f for f in check().findings if message in f.message)
    file, _, line = found.where.partition(":")
    assert Path(file).parent == folder
    if line:
        assert f"{Path(file).read_text().splitlines()[int(line) - 1]}".endswith(
            message.split(" to ")[1].partition(":")[0] if " to " in message else "100"
        )


def test_sun397_with_one_image_less(copied):
    folder, check = copied(VTAB, "sun397")
    lines = (folder / "test.txt").read_text().splitlines()
    (folder / "test.txt").write_text("\n".join(lines[1:]) + "\n" + lines[1] + "\n")
    assert not [f for f in check().findings if "found" in f.message]
    (folder / "test.txt").write_text("\n".join([*lines[:-1]]) + "\n")
    count = len(lines) - 1
    assert f"test.txt: found {count} images, expected {count + 1} (the archive that" in told(
        check()
    )


def test_bad_lines_are_named(copied):
    folder, check = copied(VTAB, "kitti")
    file = folder / "test.txt"
    lines = file.read_text().splitlines()
    lines[1] = "images/test/000001.jpg nine"
    lines[2] = lines[2].rsplit(" ", 1)[0] + " 77"
    file.write_text("\n".join(lines))
    out = told(check())
    assert f"{file}:2: found 'images/test/000001.jpg nine', expected 'path label'" in out
    assert f"{file}:3: found label 77, expected 0 to 3" in out
    file.write_bytes(b"images/a.jpg 1\n\xff\xfe 1\n")
    assert f"{file}:2: not UTF-8 text" in told(check())
    file.unlink()
    assert f"{file}: no such list; expected" in told(check())


def test_missing_and_broken_images_are_named(copied):
    folder, check = copied(VTAB, "eurosat")
    images = folder / "images/test"
    (images / "000003.jpg").unlink()
    (images / "000004.jpg").write_bytes((images / "000005.jpg").read_bytes()[:100])
    (images / "000006.jpg").write_text("<html>not found</html>")
    out = told(check())
    assert f"{folder}/test.txt:4: no such file {images}/000003.jpg" in out
    assert f"{folder}/test.txt:5: {images}/000004.jpg: cannot be decoded" in out
    assert f"{folder}/test.txt:7: {images}/000006.jpg: cannot be decoded: none of JPEG, PNG," in out


def test_test_images_that_are_in_train_are_named(copied):
    folder, check = copied(VTAB, "resisc45")
    shutil.copy(folder / "images/train800val200/000005.jpg", folder / "images/test/000002.jpg")
    same = f"{folder}/test.txt:3: same image as {folder}/train800val200.txt:6"
    assert same in told(check())


def test_symmetric_shapes_are_no_leak(copied):
    folder, check = copied(VTAB, "dsprites_ori")
    shutil.copy(folder / "images/train800val200/000001.jpg", folder / "images/test/000002.jpg")
    report = check()
    assert not report.wrong and "1 test images are in train too" in told(report, wrong=False)


def test_variants_are_told_apart_and_not_mixed(copied):
    folder, check = copied(VTAB, "patch_camelyon")
    with Image.open(folder / "images/test/000001.jpg") as image:
        image.save(folder / "images/test/000001.jpg", format="PNG")
    report = check()
    assert report.variant == "mixed" and "JPEG and lossless images are mixed" in told(report)


def test_faults_of_json_lists(copied):
    folder, check = copied("fgvc", "CUB_200_2011")
    file = folder / "test.json"
    listed = json.loads(file.read_text())
    keys = list(listed)
    good = file.read_text()
    for key, value, message in (
        (keys[3], "five", f"{file}: key {keys[3]!r}: found 'five', expected a class id"),
        (keys[4], 999, f"{folder}: its lists name 201 ids, expected 200"),
        ("../x.jpg", 1, f"{file}: key '../x.jpg': path '../x.jpg' leaves the folder"),
        ("gone.jpg", 1, f"{file}: key 'gone.jpg': no such file {folder}/images/gone.jpg"),
    ):
        file.write_text(json.dumps(listed | {key: value}))
        assert message in told(check())
    for text, message in (
        (good[:-30], f"{file}:1: not JSON"),
        ("[1, 2]", f"{file}: expected one object"),
        ("[" * 100_000, f"{file}: not JSON"),
        (good[:-1] + f", {json.dumps(keys[0])}: 1}}", f"{file}: key {keys[0]!r}: listed twice"),
    ):
        file.write_text(text)
        assert message in told(check())


def test_cifar_is_read_as_bytes_never_as_a_pickle(copied):
    folder, check = copied("cifar100", "cifar100")
    records = bytearray((folder / "test.bin").read_bytes())
    records[3074 * 2 + 1] = 100
    (folder / "test.bin").write_bytes(records)
    message = f"{folder}/test.bin: record 3: found label 100, expected 0 to 99"
    assert message in told(check())
    (folder / "test.bin").write_bytes(records[:-1])
    assert "bytes, expected a multiple of 3074" in told(check())
    (folder / "train.bin").rename(folder / "train")
    assert "the python version is a pickle, which is not read" in told(check())


def test_bad_usage(tmp_path, capsys, monkeypatch):
    assert main(["data", "check", str(tmp_path / "no")]) == 2
    assert f"error: {tmp_path / 'no'}: no such folder" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "no task there; expected folders vtab-1k" in capsys.readouterr().err
    write_one(tmp_path)
    assert main(["data", "check", str(tmp_path), "--tasks", "kity"]) == 2
    assert main(["data", "check", str(tmp_path), "--smoke", "--json", "/proc/no/x"]) == 2
    with pytest.raises(SystemExit) as stopped:
        main(["data", "chek"])
    assert stopped.value.code == 2


def write_one(root: Path) -> None:

    write_task(root, VTAB, "kitti", SMALL)


THESIS = ("v1/lists/a.npz", "v2-final/lists/b.npz", "v2-final/chapter.tex")


@pytest.mark.parametrize("tag", ["", "Signature: 8a477f597d28d172789f06886806bc55\n# of tar\n"])
def test_prune_touches_nothing_that_is_not_ours(tag, tmp_path, capsys):
    """A thesis in folders called as a cache's, the data folder itself, another program's cache."""
    write_one(tmp_path)
    for name in THESIS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("three years")
        if tag:
            (tmp_path / name.partition("/")[0] / "CACHEDIR.TAG").write_text(tag)
    (tmp_path / VTAB / "lists").mkdir()

    def state() -> dict[Path, tuple[int, ...]]:  # reading may change the time of access
        stats = {path: path.stat() for path in tmp_path.rglob("*")}
        return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}

    before = state()
    words = ["data", "cache", str(tmp_path), "--cache", str(tmp_path), "--prune", "--yes"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert state() == before
    for name in ("v1", "v2-final", VTAB):
        assert f"left alone  {tmp_path / name}: not marked" in said
    assert "0.0 MiB in 0 places that no list needs" in said


def test_prune_leaves_what_a_cache_does_not_have(tmp_path, capsys):
    write_one(tmp_path)
    data.open_split(tmp_path, tasks.get(VTAB, "kitti"), "test", View(8), smoke=True)
    (home,) = (tmp_path / ".cache").iterdir()
    (home / "my-notes").mkdir()
    (home / "my-notes" / "text").write_text("kept")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "index.npz").write_text("kept")
    (home / "abcdef0123456789").symlink_to(outside)
    shutil.rmtree(tmp_path / VTAB)
    (tmp_path / VTAB).mkdir()
    assert main(["data", "cache", str(tmp_path), "--prune", "--yes"]) == 0
    assert not list(home.rglob("pixels.bin"))
    assert (home / "my-notes" / "text").read_text() == "kept"
    assert (outside / "index.npz").read_text() == "kept"


def test_layout_names_every_task(capsys):
    assert main(["data", "layout"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("dsprites_ori", "Stanford-cars", "train.bin", "73728"))


def test_the_cache_is_measured_and_pruned(tmp_path, capsys):

    write_one(tmp_path)
    for path in tmp_path.rglob("*.png"):
        os.utime(path, (1, 1))
    task = tasks.get(VTAB, "kitti")
    data.open_split(tmp_path, task, "test", View(8), smoke=True)
    data.open_split(tmp_path, task, "test", View(16), smoke=True)
    assert main(["data", "cache", str(tmp_path), "--size"]) == 0
    assert "v2-squash-16-bicubic  1      10" in capsys.readouterr().out
    pixels = sorted((tmp_path / ".cache").rglob("pixels.bin"))
    assert main(["data", "cache", str(tmp_path), "--prune", "--yes"]) == 0
    assert sorted((tmp_path / ".cache").rglob("pixels.bin")) == pixels
    for path in (tmp_path / VTAB / "kitti/images/test").iterdir():
        Image.new("RGB", (9, 9), (int(path.stem), 0, 0)).save(path)
        os.utime(path, (2, 2))
    data.open_split(tmp_path, task, "test", View(8), smoke=True)
    before = sorted((tmp_path / ".cache").rglob("*"))
    assert main(["data", "cache", str(tmp_path), "--prune"]) == 2  # nobody there to ask
    out, error = capsys.readouterr()
    assert "nothing was removed; --yes removes what is listed above" in error
    assert str(pixels[0].parent) in out and sorted((tmp_path / ".cache").rglob("*")) == before
    assert main(["data", "cache", str(tmp_path), "--prune", "--yes"]) == 0
    left = list((tmp_path / ".cache").rglob("pixels.bin"))
    assert len(left) == 1 and left[0] not in pixels

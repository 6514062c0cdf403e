"""The demo: its pictures, its tasks on disk, its backbones and their checkpoints."""

import csv
import dataclasses
import functools
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from rlrr_bench.benchmarks.data import FILES
from rlrr_bench.benchmarks.demo import pretrain, scenes, tasks
from rlrr_bench.benchmarks.demo.models import MODEL_NAMES, WEIGHTS, checkpoint_path
from rlrr_bench.benchmarks.demo.pretrain import (
    LOG_FIELDS,
    STEPS,
    Pretraining,
    accuracy,
    labelled_images,
    train,
    turned,
)
from rlrr_bench.benchmarks.demo.render import CLASSES, IMAGE_SIZE, SHAPES, render
from rlrr_bench.benchmarks.tasks import Task
from rlrr_bench.launch.cli import main

MODELS = sorted(MODEL_NAMES)


def read_list(path: Path) -> list[tuple[str, int]]:
    text = path.read_bytes().decode()
    assert text.endswith("\n") and "\r" not in text
    lines = [line.split(" ") for line in text.splitlines()]
    assert all(len(line) == 2 for line in lines)
    return [(name, int(label)) for name, label in lines]


def test_renderer_repeats_itself_for_a_seed_and_not_for_another() -> None:
    labels = np.arange(len(CLASSES))
    first, second = (render(np.random.default_rng(3), labels) for _ in range(2))
    other = render(np.random.default_rng(4), labels)
    assert first.dtype == np.uint8 and first.shape == (len(labels), IMAGE_SIZE, IMAGE_SIZE, 3)
    assert np.array_equal(first, second)
    assert (first != other).mean() > 0.5


def test_shapes_lie_within_their_frame() -> None:
    """An object's size is its radius: inside at some point, outside from 1.4 radii on."""
    angle = np.linspace(0, 2 * np.pi, 64, dtype=np.float32)
    radius = np.linspace(0, 1.4, 64, dtype=np.float32)[:, None]
    for name, distance in SHAPES.items():
        value = distance(radius * np.cos(angle), radius * np.sin(angle))
        assert value.min() < -0.1, name
        assert (value[-1] > 0).all(), name


@pytest.mark.parametrize("name", ["textures", "cells", "terrain", "sprite_loc", "sprite_ori"])
def test_scenes_repeat_themselves_for_a_seed(name: str) -> None:
    draw = getattr(scenes, name)
    first, second = (draw(np.random.default_rng(1), np.arange(40) % 5) for _ in range(2))
    assert np.array_equal(first, second) and first.std() > 10


def test_layout_is_that_of_the_archive_and_splits_share_no_picture(tmp_path: Path) -> None:
    """One test, because drawing the 18,000 files of the whole set is what takes the time."""
    assert main(["demo", "data", str(tmp_path)]) == 0
    for task in tasks.all_tasks():
        folder = tmp_path / "demo" / task.name
        lists = {split: read_list(folder / f"{split}.txt") for split in FILES.values()}
        assert {key: len(lists[file]) for key, file in FILES.items()} == task.sizes
        for split, rows in lists.items():
            assert [name for name, _ in rows] == [
                f"images/{split}/{index:06d}.png" for index in range(len(rows))
            ]
            assert {label for _, label in rows} == set(range(task.num_classes))
            assert len(list((folder / "images" / split).iterdir())) == len(rows)
        parts = lists["train800"] + lists["val200"]
        assert [label for _, label in lists["train800val200"]] == [label for _, label in parts]
        for (copy, _), (original, _) in zip(lists["train800val200"], parts, strict=True):
            assert (folder / copy).read_bytes() == (folder / original).read_bytes()
        contents = []
        for split in tasks.DRAWN_SPLITS:
            for name, _ in lists[FILES[split]]:
                contents.append((folder / name).read_bytes())
                with Image.open(io.BytesIO(contents[-1])) as image:
                    image.load()
                    assert (image.size, image.mode) == ((IMAGE_SIZE, IMAGE_SIZE), "RGB")
        assert len(set(contents)) == len(contents)
    shutil.rmtree(tmp_path / "demo")  # else pytest keeps these many files for three sessions


def test_a_complete_set_is_left_alone_and_a_broken_one_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shorter = [
        dataclasses.replace(task, sizes={"train": 8, "val": 4, "trainval": 12, "test": 8})
        for task in tasks.all_tasks()
    ]
    monkeypatch.setattr(tasks, "all_tasks", lambda: shorter)
    assert main(["demo", "data", str(tmp_path)]) == 0
    assert f"wrote {tmp_path / 'demo'}" in capsys.readouterr().out
    image = tmp_path / "demo" / "cells" / "images" / "test" / "000000.png"
    before = image.stat()
    assert main(["demo", "data", str(tmp_path)]) == 0
    assert f"{tmp_path / 'demo'} is complete already" in capsys.readouterr().out
    assert image.stat().st_mtime_ns == before.st_mtime_ns

    pixels = image.read_bytes()
    image.unlink()
    assert tasks.write_tasks(tmp_path) is True
    assert image.read_bytes() == pixels  # drawn anew, the same

    monkeypatch.setattr(tasks, "VERSION", tasks.VERSION + 1)
    assert not tasks.is_complete(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_run_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(task: Task, folder: Path) -> None:
        folder.mkdir(parents=True)
        if task.name == "cells":
            raise OSError("disk full")

    monkeypatch.setattr(tasks, "write_task", fail)
    assert main(["demo", "data", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: disk full\n"
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "mine.txt").write_text("keep")
    assert main(["demo", "data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert (tmp_path / "demo" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["data"],
        ["pretrain", "--steps", "0"],
        ["pretrain", "--minutes", "nan"],
        ["pretrain", "--model", "resnet"],
        ["pretrain", "--seed", "-1"],
        ["pretrain", "--steps", "5", "--minutes", "5"],
    ],
)
def test_bad_arguments_end_with_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", *argv])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_tasks_file_agrees_with_the_scenes() -> None:
    listed = tasks.all_tasks()
    assert len(listed) == 6
    groups = [task.group for task in listed]
    assert all(groups.count(group) == 2 for group in ("natural", "specialized", "structured"))
    sizes = {task.name: task.num_classes for task in listed}
    assert sizes["textures"] == len(scenes.FAMILIES) and sizes["terrain"] == len(scenes.COVERS)


@pytest.mark.parametrize("model", MODELS)
def test_pretrained_cfg_and_new_head(model: str) -> None:
    network = timm.create_model(MODEL_NAMES[model], pretrained=False, num_classes=5)
    assert network(torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)).shape == (2, 5)
    cfg = network.pretrained_cfg
    assert cfg["num_classes"] == len(CLASSES) and cfg["input_size"] == (3, 32, 32)
    assert cfg["mean"] == cfg["std"] == (0.5, 0.5, 0.5) and cfg["interpolation"] == "bicubic"


def test_swin_shifts_a_window() -> None:
    network = timm.create_model(MODEL_NAMES["swin"], pretrained=False)
    shifts = [tuple(block.shift_size) for stage in network.layers for block in stage.blocks]
    assert shifts == [(0, 0), (2, 2), (0, 0), (0, 0)]


@pytest.mark.parametrize("model", MODELS)
def test_committed_checkpoint_is_as_good_as_its_header_says(model: str) -> None:
    path = checkpoint_path(MODEL_NAMES[model])
    assert path.stat().st_size < 3_000_000
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    # The bare command regenerates the committed checkpoint.
    assert header["steps"] == str(STEPS[model])
    assert header["command"] == Pretraining(model=model, steps=STEPS[model]).command
    assert header["classes"] == str(len(CLASSES))
    assert header["class_names"].split() == ["/".join(name) for name in CLASSES]
    with (WEIGHTS / f"{MODEL_NAMES[model]}.log.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert last["held_out_accuracy"] == header["held_out_accuracy"]

    network = timm.create_model(MODEL_NAMES[model], pretrained=False, num_classes=len(CLASSES))
    network.load_state_dict(load_file(path), strict=True)
    found = accuracy(network, *labelled_images(np.random.default_rng(12345), 4096))
    noted = float(header["held_out_accuracy"])
    # Two samples of at least 2,048 pictures each: 0.04 is over two and a half standard errors.
    assert abs(found - noted) < 0.04
    # timm finds the file by itself, too.
    same = timm.create_model(MODEL_NAMES[model], pretrained=True)
    assert torch.equal(same.norm.weight, network.norm.weight)


def test_turning_keeps_each_picture_whole() -> None:
    images = torch.randn(16, 3, 4, 4)
    out = turned(images)
    assert torch.equal(out[:2], images[:2]) and not torch.equal(out[2:], images[2:])
    assert torch.allclose(out.sum((1, 2, 3)), images.sum((1, 2, 3)), atol=1e-5)


def test_training_repeats_itself_for_a_seed() -> None:
    recipe = Pretraining(steps=2, batch_size=16, pool_size=48, held_out=16, seed=5)
    first, second = (train(recipe, lambda *_: None)[0].state_dict() for _ in range(2))
    assert all(torch.allclose(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", MODELS)
def test_one_step_of_pretraining_writes_a_checkpoint(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = functools.partial(Pretraining, pool_size=512, held_out=256)
    monkeypatch.setattr(pretrain, "Pretraining", short)
    assert main(["demo", "pretrain", "--model", model, "--steps", "1", "--out", str(tmp_path)]) == 0
    name = MODEL_NAMES[model]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.log.csv",
        f"{name}.safetensors",
    ]
    network = timm.create_model(name, pretrained=False, num_classes=len(CLASSES))
    network.load_state_dict(load_file(tmp_path / f"{name}.safetensors"), strict=True)
    with (tmp_path / f"{name}.log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == LOG_FIELDS and row["step"] == "1"
    with safe_open(tmp_path / f"{name}.safetensors", framework="pt") as file:
        header = file.metadata()
    assert header["seed"] == "0"
    assert header["command"] == (f"rlrr-bench demo pretrain --model {model} --steps 1 --seed 0")

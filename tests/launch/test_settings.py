"""Settings for a cluster: a file, then the command line; what is wrong is said in one line."""

import argparse
from pathlib import Path

import pytest

from rlrr_bench.launch.cli import flags
from rlrr_bench.launch.slurm import settings
from rlrr_bench.methods.errors import InputError


def load(*words: str) -> settings.Settings:
    parser = argparse.ArgumentParser()
    flags.add_slurm(parser)
    return flags.settings(parser.parse_args(words))


def test_the_shipped_file_is_complete_and_its_values_reach_submitit():
    found = load()
    assert (found.gpus, found.cpus, found.pack_minutes, found.time) == (1, 8, 60, None)
    given = found.parameters()
    assert given["gpus_per_node"] == 1 and given["mem"] == "32G" and "partition" not in given
    assert given["additional_parameters"] == {"requeue": True}


def test_flags_win_over_the_file(tmp_path: Path):
    file = tmp_path / "site.yaml"
    file.write_text("partition: gpu\ncpus: 4\nsetup: [module load cuda]\nprior: {start: 5}\n")
    found = load("--settings", str(file), "--cpus", "6", "--sbatch", "exclude=n[3-4]", "--qos", "x")
    assert (found.partition, found.cpus, found.qos) == ("gpu", 6, "x")
    assert found.setup == ("module load cuda",) and found.sbatch == {"exclude": "n[3-4]"}
    assert found.prior["start"] == 5 and found.prior["score_1000_images"] > 0
    assert load("--gpus", "0").parameters().get("gpus_per_node") is None
    assert load("--reservation", "r").parameters()["additional_parameters"]["reservation"] == "r"


BAD = {
    "partitoin: gpu": "unknown key 'partitoin'; did you mean partition",
    "cpus: many": "cpus: found 'many', expected int",
    "cpus: 0": "cpus: found 0, expected 1 or more",
    "prior: {begin: 1}": "prior: unknown key 'begin'",
    "sbatch: yes": "sbatch: found 'yes', expected key: value pairs",
    "setup: module load cuda": "expected a list of lines",
    "a: [": "not YAML",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_named(text, tmp_path: Path):
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"site\.yaml") as error:
        load("--settings", str(file))
    assert BAD[text] in str(error.value) and "\n" not in str(error.value)


def test_a_bad_flag_is_named():
    with pytest.raises(InputError, match="--max-parallel: found 'x', expected int"):
        load("--max-parallel", "x")
    with pytest.raises(InputError, match="no such file"):
        load("--settings", "/nowhere.yaml")

"""Shards are whole, hold the rows they say, and are computed anew where they do not."""

import logging
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import default_collate

from bndl_hf.utils.shards import fill_shards, read_shard, write_shard

ROWS = [{"x": torch.tensor([float(i), i + 0.5]), "labels": i % 3} for i in range(10)]


def fill(folder: Path, computed: list[int]) -> list[dict[str, Tensor]]:
    def compute(batch: dict[str, Tensor], first_row: int) -> dict[str, Tensor]:
        computed.append(first_row)
        return {"features": 2 * batch["x"], "labels": batch["labels"]}

    settings = {"shard_size": 4, "batch_size": 2, "collate": default_collate, "num_workers": 0, "description": ""}
    return [copied(read_shard(shard)) for shard in fill_shards(folder, ROWS, compute, **settings)]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apart from the file, which the tests overwrite."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def rewritten(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """A shard with other contents and the notes of the one it takes the place of."""

    def damage(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
        tensors = copied(load_file(path))
        change(tensors)
        save_file(tensors, path, notes)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def another_shard(path: Path) -> None:
    path.write_bytes((path.parent / "000000000.safetensors").read_bytes())


DAMAGES = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "missing rows": rewritten(lambda t: t.update({name: tensor[:3].clone() for name, tensor in t.items()})),
    "zeros": rewritten(lambda t: t["features"].zero_()),
    "other labels": rewritten(lambda t: t["labels"].copy_(t["labels"].flip(0) + 1)),
    "rows of another place": another_shard,
    "no notes": lambda path: save_file(copied(load_file(path)), path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_shard_that_was_changed_is_computed_anew_and_no_other(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = fill(tmp_path, [])
    damage(tmp_path / "000000004.safetensors")
    computed: list[int] = []
    with caplog.at_level(logging.WARNING, logger="bndl_hf"):
        again = fill(tmp_path, computed)
    assert computed == [4, 6]
    for one, other in zip(expected, again, strict=True):
        assert torch.equal(one["features"], other["features"])
        assert torch.equal(one["labels"], other["labels"])
    assert "000000004.safetensors" in caplog.text
    assert "It is computed anew." in caplog.text


def test_whole_shards_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, [])
    computed: list[int] = []
    fill(tmp_path, computed)
    assert computed == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:  # a limit that may not be raised again is a process's own
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            write_shard(tmp_path / "000000000.safetensors", {"features": torch.zeros(1000, 64)})
        except OSError as error:
            said = "could not be written (" in str(error) and "Make room and start again: what was" in str(error)
            os._exit(0 if said and not os.listdir(tmp_path) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_a_shard_of_an_older_version_is_called_so_and_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fill(tmp_path, computed := [])
    save_file(first[0], tmp_path / "000000000.safetensors")  # without notes
    computed.clear()
    with caplog.at_level(logging.WARNING, logger="bndl_hf"):
        assert torch.equal(fill(tmp_path, computed)[0]["features"], first[0]["features"])
    assert computed == [0, 2]
    assert "notes no checksum: an older version of bndl_hf wrote it, or another program. It is computed" in caplog.text

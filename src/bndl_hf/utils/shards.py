"""Long passes over a dataset, kept on disk as they go: features (features.py) and predictions (predictions.py).

The rows are cut into shards. A shard's file is whole or not there, and lies in a folder named after everything it
depends on, so an interrupted pass goes on where it was and a changed model or dataset starts afresh. Each file says
which rows it holds and a checksum of them; one that was damaged or replaced is computed anew. Several processes share
the shards; as none is split between two of them, what they hold does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from bndl_hf.utils.files import written_whole

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


def content_key(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """Name of the folder that belongs to these weights and settings: a hash, the same in every process."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]


def concatenate(parts: list[Tensors]) -> Tensors:
    """The rows of all parts, name by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def fill_shards(
    folder: Path,
    dataset: Dataset,
    compute: Callable[[Tensors, int], Tensors],
    *,
    shard_size: int,
    batch_size: int,
    collate: Any,
    num_workers: int,
    description: str,
    merge: Callable[[list[Tensors]], Tensors] = concatenate,
) -> list[Path]:
    """Compute what is missing of a pass over `dataset` and return the files of all shards, in the order of the rows.

    Args:
        folder: where the files are, or will be.
        dataset: a sized dataset whose rows `collate` makes batches of.
        compute: called with a batch and the number of its first row; what it returns must not depend on other batches.
        shard_size: rows a file; an interruption loses at most this many for each process.
        batch_size: rows at a time; a batch never crosses the end of a shard.
        collate: makes a batch of rows.
        num_workers: processes that read rows.
        description: what the progress bar says. It counts the rows of the main process.
        merge: makes a shard of its batches' results.
    """
    state = PartialState()
    folder.mkdir(parents=True, exist_ok=True)
    num_rows = len(dataset)  # type: ignore[arg-type]
    spans = [range(start, min(start + shard_size, num_rows)) for start in range(0, num_rows, shard_size)]
    shards = [folder / f"{span.start:09d}.safetensors" for span in spans]
    missing = [i for i, shard in enumerate(shards) if not _is_whole(shard, spans[i])]
    state.wait_for_everyone()  # all processes have looked before any of them writes, so all share the same list
    if not missing:
        return shards
    batches = {
        i: _batches(spans[i].start, spans[i].stop, batch_size)
        for i in missing[state.process_index :: state.num_processes]
    }
    rows = [list(batch) for shard in batches.values() for batch in shard]
    loaded = iter(DataLoader(dataset, batch_sampler=rows, collate_fn=collate, num_workers=num_workers))
    total = sum(map(len, rows))
    with tqdm(total=total, desc=description, unit=" images", disable=not state.is_main_process) as progress:
        for i, shard in batches.items():
            results = []
            for batch in shard:
                results.append(compute(next(loaded), batch.start))
                progress.update(len(batch))
            write_shard(shards[i], merge(results), spans[i])
    state.wait_for_everyone()
    return shards


def _batches(start: int, end: int, batch_size: int) -> list[range]:
    return [range(first, min(first + batch_size, end)) for first in range(start, end, batch_size)]


def _is_whole(path: Path, rows: range) -> bool:
    """Whether `path` holds `rows` as they were written; a file that does not is named in a warning."""
    if not path.exists():
        return False
    try:
        read_shard(path, rows)
    except ValueError as error:
        logger.warning("%s It is computed anew.", error)
        return False
    return True


def write_shard(path: Path, tensors: Tensors, rows: range | None = None) -> None:
    """Write a whole file or none.

    Args:
        path: of the file.
        tensors: its contents.
        rows: of the dataset that they belong to; noted in the file where given.

    Raises:
        OSError: the file could not be written; nothing of it is left.
    """
    noted = {"checksum": _checksum(tensors), **({} if rows is None else {"rows": f"{rows.start}-{rows.stop}"})}
    try:
        with written_whole(path) as partial:
            save_file(tensors, partial, noted)
    except (OSError, SafetensorError) as error:  # safetensors has a name of its own for a full disk
        raise OSError(
            f"{path} could not be written ({error}). Make room and start again: what was finished before is kept."
        ) from error


def read_shard(path: Path, rows: range | None = None) -> Tensors:
    """The tensors of a shard.

    Args:
        path: of the file.
        rows: of the dataset that it must hold; None does not ask.

    Raises:
        ValueError: the file is damaged, was changed after it was written, or holds other rows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            noted = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if "checksum" not in noted:
        raise ValueError(f"{path} notes no checksum: an older version of bndl_hf wrote it, or another program.")
    if noted.get("checksum") != _checksum(tensors):
        raise ValueError(f"{path} is damaged (its contents do not have the checksum that was written with them).")
    if rows is not None and noted.get("rows") != f"{rows.start}-{rows.stop}":
        raise ValueError(f"{path} holds rows {noted.get('rows')}, not {rows.start}-{rows.stop}.")
    return tensors


def _checksum(tensors: Tensors) -> str:
    """CRC-32 over names, shapes, types and values."""
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), crc)
        crc = zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"

"""Long passes over a dataset, kept on disk as they go: features (features.py) and predictions (predictions.py).

The rows are cut into shards. A shard's file is whole or not there, and lies in a folder named after everything it
depends on, so an interrupted pass goes on where it was and a changed model or dataset starts afresh. Several processes
share the shards; as none is split between two of them, what they hold does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from bndl_hf.utils.files import written_whole

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
    starts = range(0, num_rows, shard_size)
    shards = [folder / f"{start:09d}.safetensors" for start in starts]
    missing = [i for i, shard in enumerate(shards) if not shard.exists()]
    state.wait_for_everyone()  # all processes have looked before any of them writes, so all share the same list
    if not missing:
        return shards
    batches = {
        i: _batches(starts[i], min(starts[i] + shard_size, num_rows), batch_size)
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
            write_shard(shards[i], merge(results))
    state.wait_for_everyone()
    return shards


def _batches(start: int, end: int, batch_size: int) -> list[range]:
    return [range(first, min(first + batch_size, end)) for first in range(start, end, batch_size)]


def write_shard(path: Path, tensors: Tensors) -> None:
    """Write a whole file or none."""
    with written_whole(path) as partial:
        save_file(tensors, partial)


def read_shard(path: Path) -> Tensors:
    """The tensors of a shard.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and start again to compute it anew.") from error

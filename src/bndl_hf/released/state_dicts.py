"""State dicts of other people's code: read without running any of it, taken out of what they were wrapped in.

torch's `weights_only=True` reads tensors and containers and refuses every other pickled object, so a checkpoint from
anywhere is safe to open. conversion.py goes on from here.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# Entries of a training checkpoint that may hold the state dict, in the order they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
# What DataParallel, torch.compile and classes around a model put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_NAMED = 5  # names an error lists before it counts the rest


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every tensor of the state dict in a .safetensors file or in anything `torch.save` wrote.

    A state dict inside {"state_dict": ...}, {"model_state_dict": ...}, {"model": ...} or {"net": ...} is taken out, and
    a prefix that every name has ("module.", "_orig_mod.", "model.") is dropped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds other objects than tensors, or no state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; pass the .pt, .pth, .bin or .safetensors file itself.")
    return strip_prefixes(_find_tensors(_read(file), file))


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the prefixes that every one of their names has."""
    names = dict(tensors)
    while prefix := next((p for p in _PREFIXES if names and all(name.startswith(p) for name in names)), None):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def without_wrapper(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Weights without what the `robustness` package puts around a ResNet, its normalisation, and the names left out.

    It keeps mean and deviation of the images as `normalizer.new_mean` and `.new_std` beside `model.`, and the same
    weights once more under `attacker.model.`.

    Returns:
        (weights, {"image_mean": ..., "image_std": ...} or {}, names of the copies).

    Raises:
        ValueError: the two copies of a weight differ.
    """
    inner = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    outer = [name for name in tensors if not name.startswith("model.")]
    copies = {name for name in outer if name.startswith(("attacker.", "normalizer."))}
    if not inner or not copies or len(copies) < len(outer):
        return tensors, {}, []
    for name in copies:
        original = inner.get(name.removeprefix("attacker."))
        if original is not None and not torch.equal(original, tensors[name]):
            raise ValueError(f"{name} differs from {name.removeprefix('attacker.')}; they should be the same weight.")
    fields = {"image_mean": "normalizer.new_mean", "image_std": "normalizer.new_std"}
    normalisation = {  # float32 to what was written: 0.4914 is stored as 0.49140000343...
        field: [round(value, 6) for value in tensors[name].flatten().tolist()]
        for field, name in fields.items()
        if name in tensors
    }
    return strip_prefixes(inner), normalisation, sorted(copies)


def first_names(names: Iterable[str]) -> str:
    """The first few names, and how many more there are: for errors."""
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _read(file: Path) -> object:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({error}); copy or download it again.") from error
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = sorted(set(re.findall(r"GLOBAL (\S+)", str(error))))
        if not objects:
            raise ValueError(f"{file} is not a file that torch.save wrote, or it is damaged.") from error
        raise ValueError(
            f"{file} holds other objects than tensors ({first_names(objects)}), and opening them could run any code. "
            "Where the checkpoint comes from, write torch.save(model.state_dict(), ...) and convert that file."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): it is cut short or damaged.") from error


def _find_tensors(content: object, file: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{file} holds a {type(content).__name__}, not a state dict (names and their tensors).")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if not others:
        return {str(name): tensor for name, tensor in content.items()}
    for name in WRAPPERS:
        if isinstance(content.get(name), Mapping):
            return _find_tensors(content[name], file)
    raise ValueError(
        f"{file} holds entries that are not tensors ({first_names(others)}) and no state dict under "
        f"{', '.join(WRAPPERS)}; save the state dict alone and convert that file."
    )

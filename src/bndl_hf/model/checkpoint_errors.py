"""Errors for the files of a checkpoint: cut short, of another model, of other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Fields of the configuration that decide how large the weights are.
_SHAPING = (
    "num_labels",
    "id2label",
    "label2id",
    "backbone_config",
    "head_name",
    "feature_dim",
    "num_factors",
    "num_projected",
    "projection",
    "projection_dim",
    "score_concentration",
    "score_concentration_input",
    "loading_concentration",
    "config",
)


@contextmanager
def explain_loading_errors(source: object, passed: Mapping[str, object]) -> Iterator[None]:
    """Turn what a failed load of `source` raises inside the block into a ValueError that says what to do.

    Args:
        source: Hub id or folder the weights come from.
        passed: keywords the caller passed along with it; those that decide sizes are named.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # safetensors is not a module this file may import
            raise ValueError(
                f"The weights of {source} cannot be read ({error}): the file is cut short or damaged. Download it "
                "again with force_download=True, or copy it again."
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            shaping = {name: value for name, value in passed.items() if name in _SHAPING and value is not None}
            fields = ", ".join("config" if name == "config" else f"{name}={value!r}" for name, value in shaping.items())
            raise ValueError(
                f"The weights in {source} do not fit {fields or 'its configuration'}. "
                + ("Load the checkpoint without it; for" if fields else "They belong to another model. For")
                + " new classes wrap its backbone with from_backbone_pretrained(...), or pass "
                "ignore_mismatched_sizes=True to start the layers that differ afresh."
            ) from error
        raise


def check_all_weights_were_there(source: object, info: Mapping[str, Any], num_weights: int) -> None:
    """Raise ValueError where weights of the model were not in the checkpoint: they would be random numbers.

    Args:
        source: Hub id or folder the weights come from.
        info: what `from_pretrained(..., output_loading_info=True)` says; `missing_keys` and `unexpected_keys` count.
        num_weights: number of weights the model has.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        raise ValueError(
            f"{source} holds no value for {len(missing)} of the {num_weights} weights its configuration asks for "
            f"({_first(missing)}){f', but {len(unexpected)} others ({_first(unexpected)})' if unexpected else ''}: "
            "weights and configuration belong to different models. Save the model again, or get both files from the "
            "same commit."
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

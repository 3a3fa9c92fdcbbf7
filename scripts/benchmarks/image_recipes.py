"""How whole networks are trained on images: the named recipes of scripts/recipes/images/*.yaml, every key checked.

A recipe is a flat YAML file of the fields of `Recipe`; all of them are there, so that a file can be read alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from bndl_hf.data import IN_MEMORY_AUGMENTATIONS

RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "images"
_CHOICES = {
    "augmentation": IN_MEMORY_AUGMENTATIONS,
    "optimizer": ("sgd", "adamw"),
    "head_optimizer": ("adamw", "backbone"),
    "schedule": ("step", "cosine", "constant"),
    "precision": ("bf16", "float32"),
    "compile": ("none", "backbone", "all"),
}
_POSITIVE = (
    "width",
    "image_size",
    "epochs",
    "batch_size",
    "learning_rate",
    "head_learning_rate",
    "step_epochs",
    "step_factor",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Network, images, optimizer and schedule of one way to train.

    Attributes:
        about: one line: where it comes from, what it differs in.
        width: times 64, 128, 256, 512 channels.
        depths: blocks of each stage.
        image_size: side in pixels.
        augmentation: of training images.
        train_images: how many, the same share of every class; None trains on all that are not held out.
        hold_out: training images held out for temperatures; 0 takes half of the test images.
        epochs, batch_size: passes over the images, images of a step.
        drop_last: leave out the images that do not fill the last batch of a pass.
        optimizer: "sgd" or "adamw".
        learning_rate, momentum, nesterov, weight_decay: of the optimizer (momentum and nesterov of SGD alone).
        decay_all: whether norms and biases decay too.
        head_optimizer: of the layer of `bndl`: "adamw", without decay, or "backbone", as all else.
        head_learning_rate: of that AdamW; it follows the same schedule.
        schedule: "step" multiplies the rate by `step_factor` every `step_epochs`, "cosine" ends at zero.
        warmup_epochs: over which the rate rises from zero first.
        label_smoothing: while training.
        stage_dropout: of mc_dropout.
        precision: "bf16" (autocast) or "float32".
        channels_last: memory order of the network.
        compile: what torch.compile gets on an accelerator and on a processor: "none", the "backbone", or "all".
    """

    about: str
    width: float
    depths: list[int]
    image_size: int
    augmentation: str
    train_images: int | None
    hold_out: int
    epochs: float
    batch_size: int
    drop_last: bool
    optimizer: str
    learning_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    decay_all: bool
    head_optimizer: str
    head_learning_rate: float
    schedule: str
    step_epochs: float
    step_factor: float
    warmup_epochs: float
    label_smoothing: float
    stage_dropout: float
    precision: str
    channels_last: bool
    compile: str

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if not _is_of(value := getattr(self, name), kind):
                kind_name = getattr(kind, "__name__", str(kind))
                raise ValueError(f"{name}={value!r} is not of the kind {kind_name} (YAML reads 5e-4 as text: 5.0e-4).")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}.")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above zero.")

    @classmethod
    def read(cls, name: str, **changes: Any) -> Recipe:
        """The recipe `name`, or of a YAML file, with some of its values changed.

        Raises:
            ValueError: there is no such recipe, a key is missing or unknown, or a value does not fit.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
            raise ValueError(f"--recipe {name}: there is none of that name; recipes are {known}, or pass a .yaml file.")
        values = yaml.safe_load(path.read_text())
        known_keys = {field.name for field in dataclasses.fields(cls)}
        given = set(values) if isinstance(values, dict) else set()
        for keys, problem in ((given | set(changes)) - known_keys, "unknown"), (known_keys - given, "missing"):
            if keys:
                raise ValueError(
                    f"{path.name}: {', '.join(sorted(map(str, keys)))} {problem}; a recipe has "
                    f"{', '.join(sorted(known_keys))}."
                )
        try:
            return cls(**{**values, **changes})
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    def rate_factor(self, epoch: float) -> float:
        """What the learning rates are multiplied by at `epoch`, a fraction of epochs included."""
        if epoch < self.warmup_epochs:
            return epoch / self.warmup_epochs
        if self.schedule == "step":
            return self.step_factor ** math.floor(epoch / self.step_epochs + 1e-9)
        if self.schedule == "constant":
            return 1.0
        done = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value from YAML is of the kind a field asks for; whole numbers are numbers, True is not one."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind == list[int]:
        return isinstance(value, list) and all(isinstance(v, int) for v in value)
    return isinstance(value, {float: int | float, float | None: int | float | None}.get(kind, kind))

"""Whole networks trained on images by a recipe: the network of a system, its Trainer, its checkpoints.

Every system starts from the same backbone weights, which the seed alone decides, and sees the same images in the same
order with the same random changes. Plain networks are trained by transformers' Trainer, those with a `PosteriorHead`
by `BNDLTrainer`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.backbones import CifarResNetConfig, CifarResNetForImageClassification
from bndl_hf.baselines.heads import HEADS
from bndl_hf.data import (
    DataArguments,
    ImagesInMemory,
    RawPixels,
    channel_statistics,
    load_image_dataset,
    load_unlabelled_images,
    read_pixels,
    whole_batch,
)
from bndl_hf.data.columns import stratified_rows
from bndl_hf.data.unlabelled import parse_named
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training import suit_whole_training
from bndl_hf.training.checkpoint_folders import last_checkpoint
from bndl_hf.training.checkpoints import SafeCheckpoints
from bndl_hf.utils.files import written_whole
from bndl_hf.utils.results import write_json
from image_optimizers import make_optimizer
from image_recipes import Recipe

PLAIN = ("plain", "mc_dropout")
# Heads of `bndl_hf.baselines` in place of the linear layer; those that this version does not have are left out.
WITH_HEAD = tuple(name for name in ("nmf", "nmf_gelu", "belief_matching") if name in HEADS)
WITH_PRIOR = ("bndl", "released")
TRAINED = (*PLAIN, *WITH_HEAD, *WITH_PRIOR)


@dataclass
class ImageTask:
    """The images of a comparison, decoded once: bytes [N, H, W, 3] and labels [N] by part.

    Args:
        recipe: says their size and how many are held out.
        data: dataset names; see `DataArguments`.
        ood: out-of-distribution sets, "NAME=DATASET".
        cache_dir: where the bytes are kept.
    """

    recipe: Recipe
    data: DataArguments
    ood: list[str]
    cache_dir: Path

    @cached_property
    def _dataset(self) -> Any:
        return load_image_dataset(self.data)

    @property
    def label_names(self) -> list[str]:
        """Names of the C classes."""
        return self._dataset.label_names

    @cached_property
    def parts(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Bytes and labels of "train", "test" and, where images are held out, "held_out"; and of every OOD set."""
        processor, recipe = RawPixels(self.recipe.image_size), self.recipe
        found = {
            part: read_pixels(self._dataset.with_pixel_values(part, processor), self.cache_dir)
            for part in ("train", "test")
        }
        pixels, labels = found["train"]
        if recipe.hold_out + (recipe.train_images or 1) > len(labels):
            raise ValueError(
                f"hold_out={recipe.hold_out} and train_images={recipe.train_images} ask for more than the "
                f"{len(labels)} images of the training split."
            )
        held_out = stratified_rows(labels.tolist(), recipe.hold_out, seed=0)
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        if recipe.train_images is not None:
            rest = rest[stratified_rows(labels[rest].tolist(), recipe.train_images, seed=0)]
        found["train"] = pixels[rest], labels[rest]
        if recipe.hold_out:
            found["held_out"] = pixels[held_out], labels[held_out]
        for name, dataset in parse_named(self.ood).items():
            limit = DataArguments(dataset, max_eval_samples=self.data.max_eval_samples)
            found[f"ood_{name}"] = read_pixels(load_unlabelled_images(dataset, processor, limit)[0], self.cache_dir)
        return found

    @cached_property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training images."""
        return channel_statistics(self.parts["train"][0])

    def in_memory(self, part: str, device: torch.device | str, **training: Any) -> ImagesInMemory:
        """Images of a part on a device, scaled to mean 0 and standard deviation 1."""
        pixels, labels = self.parts[part]
        return ImagesInMemory(pixels.to(device), labels, *self.statistics, **training)


class WithHead(BNDLForImageClassification):
    """A classifier whose last layer is a head of `bndl_hf.baselines`."""

    _auto_class: Any = None  # not a checkpoint to publish
    head_name: str

    def __init__(self, config: BNDLConfig) -> None:
        super().__init__(config)
        self.decision_layer: Any = HEADS[self.head_name].make(config)


def with_head(name: str) -> type[WithHead]:
    """The class of classifiers with the head `name` of `HEADS`."""
    return type(f"With_{name}", (WithHead,), {"head_name": name})


def build(system: str, recipe: Recipe, num_labels: int, seed: int) -> Any:
    """The network of `system` before training; `seed` decides its backbone, the same for all systems."""
    dropout = recipe.stage_dropout if system == "mc_dropout" else 0.0
    config = CifarResNetConfig.resnet18(
        recipe.width, depths=recipe.depths, image_size=recipe.image_size, num_labels=num_labels, stage_dropout=dropout
    )
    set_seed(seed)
    start = CifarResNetForImageClassification(config)
    if system in PLAIN:
        return start
    kind: type[BNDLForImageClassification] = BNDLForImageClassification
    fields: dict[str, Any] = {"preset": "released_resnet"} if system == "released" else {}
    if system in WITH_HEAD:
        # Features as they come: SGD's rate is for those, not for features in units of their spread.
        kind, fields = with_head(system), {**HEADS[system].config, "normalize_features": False}
    set_seed(seed + 1)  # of the head: whatever the backbone drew
    model = kind(BNDLConfig.from_backbone_config(config, num_labels=num_labels, **fields))
    if system == "bndl":
        suit_whole_training(model, fields)  # as finetune.py does
    weights = {name: value for name, value in start.state_dict().items() if not name.startswith("classifier.")}
    model.backbone.load_state_dict(weights, strict=True)
    return model


class Uncounted(Trainer):
    """A Trainer that does not count floating-point operations, which costs as much as a step of a small network."""

    def floating_point_ops(self, inputs: Any) -> int:
        """None are counted."""
        return 0


class PlainTrainer(Uncounted, SafeCheckpoints):
    """transformers' Trainer with this library's checkpoints: whole or not there, and resumed exactly."""


class HeadTrainer(Uncounted, BNDLTrainer):
    """`BNDLTrainer`, uncounted."""


class Progress(TrainerCallback):
    """A line an epoch with its seconds and the time left, a checkpoint now and then, torch.compile at the start.

    Args:
        name: of the run.
        quiet: print nothing.
        save_minutes: between checkpoints.
        compiles: what torch.compile gets.
    """

    def __init__(self, name: str, quiet: bool, save_minutes: float, compiles: str) -> None:
        self.name, self.quiet, self.save_seconds, self.compiles = name, quiet, 60 * save_minutes, compiles
        self.epoch_seconds: list[float] = []
        self.loss = float("nan")
        self._epoch_started = self._saved = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Compile what is to be, and start the clock."""
        self._saved = time.perf_counter()
        if self.compiles != "none":
            backbone = model.backbone if hasattr(model, "backbone") else model.base_model
            backbone.compile(dynamic=False)
            if self.compiles == "all" and hasattr(model, "decision_layer"):
                model.decision_layer.compile(dynamic=False)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of the epoch."""
        self._epoch_started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint when it is time."""
        if time.perf_counter() - self._saved > self.save_seconds:
            control.should_save, self._saved = True, time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """At the end of an epoch; the loss was read off the device, so all of its steps are done."""
        if not logs or "loss" not in logs:
            return
        self.epoch_seconds.append(time.perf_counter() - self._epoch_started)
        self.loss = logs["loss"]
        if not self.quiet:
            usual = sorted(self.epoch_seconds)[len(self.epoch_seconds) // 2]
            left = usual * max(args.num_train_epochs - (state.epoch or 0), 0) if args.max_steps <= 0 else 0
            print(
                f"{self.name}: epoch {state.epoch or 0:.0f}, {self.epoch_seconds[-1]:.1f} s, loss {self.loss:.4f}, "
                f"{left / 60:.1f} min left",
                flush=True,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Networks are judged as they are, not compiled."""
        for module in model.modules():
            module._compiled_call_impl = None


@dataclass
class Networks:
    """Trains networks, or finds those that were: one folder a system and seed below `folder`.

    Args:
        recipe, task: how and on what.
        folder: where checkpoints and trained weights lie.
        max_steps: fewer optimizer steps, for a try; -1 leaves the recipe's epochs.
        resume: go on from the last checkpoint of a training that was interrupted.
        save_minutes: between checkpoints.
        quiet: print nothing.
    """

    recipe: Recipe
    task: ImageTask
    folder: Path
    max_steps: int = -1
    resume: bool = True
    save_minutes: float = 2.0
    quiet: bool = False

    @property
    def device(self) -> str:
        """Where networks are trained and judged."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    def get(self, system: str, seed: int) -> tuple[Any, dict[str, Any]]:
        """The trained network, in evaluation mode on its device, and what its training took; trained if it is not yet.

        Raises:
            ValueError: the folder holds a training of another recipe.
        """
        place = self.folder / f"{system}-seed{seed}"
        self._claim(place, system, seed)
        model = build(system, self.recipe, len(self.task.label_names), seed)
        weights = place / "weights.safetensors"
        if not weights.is_file():
            self._train(model, system, seed, place)
        kept: dict[str, Any] = json.loads((place / "training.json").read_text())
        model.load_state_dict(load_file(weights), strict=True)
        if self.recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        return model.to(self.device).eval(), kept

    def _claim(self, place: Path, system: str, seed: int) -> None:
        """Note what is trained in a folder; another training there is an error, or removed without `resume`."""
        asked = {"system": system, "seed": seed, "max_steps": self.max_steps, "recipe": asdict(self.recipe)}
        note = place / "run.json"
        if not self.resume:
            shutil.rmtree(place, ignore_errors=True)
        if note.is_file() and json.loads(note.read_text()) != json.loads(json.dumps(asked)):
            raise ValueError(
                f"{place} holds a training of another recipe or other steps; pass another --work_dir, or --no_resume "
                "to train anew."
            )
        write_json(note, asked)

    def _train(self, model: Any, system: str, seed: int, place: Path) -> None:
        recipe, on_accelerator = self.recipe, self.device == "cuda"
        images = self.task.in_memory("train", self.device, augmentation=recipe.augmentation, seed=seed)
        batches = len(images) / recipe.batch_size
        steps = int(batches) if recipe.drop_last else -int(-batches // 1)
        if steps < 1:
            raise ValueError(f"{len(images)} training images do not fill a batch of {recipe.batch_size}.")
        model.to(self.device)
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        if on_accelerator:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        optimizer = make_optimizer(model, system, recipe, fused=on_accelerator)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.rate_factor(step / steps))
        same: dict[str, Any] = {
            "output_dir": str(place),
            "num_train_epochs": recipe.epochs,
            "max_steps": self.max_steps,
            "per_device_train_batch_size": recipe.batch_size,
            "dataloader_drop_last": recipe.drop_last,
            "dataloader_pin_memory": False,
            "label_smoothing_factor": recipe.label_smoothing,
            "max_grad_norm": 0.0,
            "logging_strategy": "epoch",
            "logging_nan_inf_filter": False,  # it would wait for the device at every step
            "save_strategy": "epoch",
            "save_total_limit": 1,
            "report_to": "none",
            "seed": seed,
            "data_seed": seed,
            "bf16": recipe.precision == "bf16",
            "use_cpu": not on_accelerator,  # bfloat16 on a processor has to be asked for
            "remove_unused_columns": False,
            "disable_tqdm": True,
        }
        if recipe.epochs > 10:
            same |= {"save_strategy": "steps", "save_steps": 10 * steps}
        is_plain = system in PLAIN
        kind: Callable[..., Trainer] = PlainTrainer if is_plain else HeadTrainer
        arguments = TrainingArguments(**same) if is_plain else BNDLTrainingArguments(**same)
        progress = Progress(f"{system}, seed {seed}", self.quiet, self.save_minutes, recipe.compile)
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=images,
            data_collator=whole_batch,
            optimizers=(optimizer, schedule),
            callbacks=[progress],
        )
        trainer.callback_handler.callbacks = [
            c for c in trainer.callback_handler.callbacks if type(c).__name__ != "PrinterCallback"
        ]
        started = time.perf_counter()
        checkpoint = last_checkpoint(str(place))
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = time.perf_counter() - started
        trained = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        write_json(
            place / "training.json",
            {
                "seconds": seconds,
                "epoch_seconds": _median(progress.epoch_seconds),
                "steps": trainer.state.global_step,
                "resumed_from_step": 0 if checkpoint is None else int(checkpoint.rsplit("-", 1)[1]),
                "last_epoch_loss": progress.loss,
            },
        )
        with written_whole(place / "weights.safetensors") as partial:
            save_file(trained, partial)
        for old in place.glob("checkpoint-*"):
            shutil.rmtree(old)

    @torch.no_grad()
    def rows(self, read: Callable[[Tensor], Tensor], part: str, batch_size: int = 1000) -> Tensor:
        """What `read` makes of the images of a part, batch by batch, in float32 on the processor."""
        images = self.task.in_memory(part, self.device)
        rows = []
        for start in range(0, len(images), batch_size):
            batch = images.__getitems__(range(start, min(start + batch_size, len(images))))["pixel_values"]
            with torch.autocast(self.device, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                rows.append(read(batch).float().cpu())
        return torch.cat(rows)


def head_of(model: Any) -> PosteriorHead:
    """The last layer as a `PosteriorHead`: a plain network's linear layer becomes a dense one with its weights."""
    if hasattr(model, "decision_layer"):
        return model.decision_layer
    linear = model.classifier[1]
    config = BNDLConfig(feature_dim=linear.in_features, num_labels=linear.out_features, **HEADS["dense"].config)
    layer = HEADS["dense"].make(config)
    with torch.no_grad():
        layer.raw_loadings.copy_(linear.weight.T)
        assert layer.raw_bias is not None
        layer.raw_bias.copy_(linear.bias)
    return layer.eval()


def features_reader(model: Any) -> Callable[[Tensor], Tensor]:
    """Pixel values [B, 3, H, W] to the features [B, D] that the last layer reads."""
    if hasattr(model, "decision_layer"):
        return model.extract_features
    return lambda pixels: model.resnet(pixels).pooler_output.flatten(1)


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None

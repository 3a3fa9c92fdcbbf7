"""Tiny models, a tiny dataset and whole training runs, for tests in this process and for real processes of their own.

`serve` forks a fresh process for each {"job", "arguments", "environment"}: transformers is imported once for all.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from torch import Tensor
from transformers import ResNetConfig, TrainerCallback, ViTConfig, set_seed

import forking
from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLTrainer, BNDLTrainingArguments
from bndl_hf.data.columns import ROW_COLUMN
from bndl_hf.data.image_dataset import PixelValues, collate, make_image_processor
from bndl_hf.training import features as feature_cache
from bndl_hf.training import recalibrate
from bndl_hf.training.run_lock import run_lock

NUM_LABELS = 3
BACKBONES = {
    "vit": lambda: ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        hidden_dropout_prob=0.1,
    ),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
}


def images(count: int, seed: int = 0, side: int = 8, wrong: int = 0) -> Dataset:
    """`count` noisy 8 x 8 pictures whose brightest colour is their class, but for the last `wrong` of them."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % NUM_LABELS
    pixels = generator.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 100
    labels[count - wrong :] = (labels[count - wrong :] + 1) % NUM_LABELS
    columns = {"image": ImageFeature(), "label": ClassLabel(num_classes=NUM_LABELS), ROW_COLUMN: Value("int64")}
    dataset = Dataset.from_dict(
        {"image": list(pixels), "label": labels.tolist(), ROW_COLUMN: list(range(count))}, Features(columns)
    )
    return with_pixel_values(dataset.cast_column("image", ImageFeature(decode=False)), side)


def with_pixel_values(dataset: Dataset, side: int = 8, augment: Any = None) -> Dataset:
    return dataset.with_transform(
        PixelValues(make_image_processor(side), "image", "label", "the training images", ROW_COLUMN, augment)
    )


def classifier(backbone: str = "vit", seed: int = 0, dropout: bool = True, **config: Any) -> BNDLForImageClassification:
    set_seed(seed)
    backbone_config = BACKBONES[backbone]()
    if not dropout:
        backbone_config.hidden_dropout_prob = 0.0
    return BNDLForImageClassification(BNDLConfig.from_backbone_config(backbone_config, NUM_LABELS, **config))


def arguments(output_dir: str | Path, **values: Any) -> BNDLTrainingArguments:
    defaults = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "decision_layer_learning_rate": 2e-2,
    }
    return BNDLTrainingArguments(**{**defaults, **values})


def make_trainer(output_dir: str | Path, model: Any = None, train_dataset: Any = None, **values: Any) -> BNDLTrainer:
    """A Trainer over 16 images (4 steps an epoch) unless told otherwise; other keywords are training arguments."""
    extra = {name: values.pop(name) for name in ("eval_dataset", "callbacks", "compute_metrics") if name in values}
    extra["processing_class"] = values.pop("processor", None)
    return BNDLTrainer(
        model=classifier() if model is None else model,
        args=arguments(output_dir, **values),
        train_dataset=images(16) if train_dataset is None else train_dataset,
        data_collator=collate,
        **extra,
    )


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def step_logs(trainer: BNDLTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# ---- jobs: each runs in a process of its own ----


class WaitForever(TrainerCallback):
    """After `step`, in the middle of an epoch or `while_saving`, say so and wait for the signal."""

    def __init__(self, step: int, while_saving: bool, flag: str) -> None:
        self.step, self.while_saving, self.flag = step, while_saving, Path(flag)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if state.global_step == self.step and self.while_saving:
            optimizer.optimizer.register_state_dict_pre_hook(lambda _: self.wait())
        elif state.global_step == self.step:
            self.wait()

    def wait(self) -> None:
        self.flag.touch()
        time.sleep(300)


def train(
    output_dir: str,
    result: str,
    backbone: str = "vit",
    config: dict[str, Any] | None = None,
    resume: str | bool | None = None,
    wait_at: int | None = None,
    while_saving: bool = False,
    **values: Any,
) -> None:
    """Train, or go on training, and keep everything that has to be equal afterwards in the file `result`."""
    callbacks = [] if wait_at is None else [WaitForever(wait_at, while_saving, f"{result}.waiting")]
    trainer = make_trainer(output_dir, classifier(backbone, **config or {}), callbacks=callbacks, **values)
    trainer.train(resume_from_checkpoint=resume)
    log = [{k: v for k, v in entry.items() if k != "total_flos"} for entry in step_logs(trainer)]
    torch.save({"weights": weights(trainer.model), "optimizer": trainer.optimizer.state_dict(), "log": log}, result)


class FillDisk(TrainerCallback):
    """From the first checkpoint on no file of this process can grow beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))


def train_on_a_full_disk(output_dir: str, result: str, limit: int) -> None:
    trainer = make_trainer(output_dir, max_steps=6, save_steps=2, save_strategy="steps", callbacks=[FillDisk(limit)])
    messages = []
    saved = Path(output_dir).with_name("saved")
    trainer.save_model(str(saved))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    for attempt in (trainer.train, lambda: trainer.save_model(str(saved))):
        try:
            attempt()
        except OSError as error:
            messages.append(str(error))
    after = {path.name: path.read_bytes() for path in saved.iterdir()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    beside = sorted(path.name for path in saved.parent.iterdir())
    Path(result).write_text(json.dumps({"messages": messages, "untouched": before == after, "beside": beside}))


def one_step(output_dir: str, **values: Any) -> dict[str, Any]:
    """One step of SGD on 8 of 16 images; its log and the weights it leaves."""
    set_seed(0)
    trainer = make_trainer(
        output_dir,
        classifier(dropout=False, kl_local_weight=0.1, kl_global_weight=16.0),
        max_steps=1,
        optim="sgd",
        learning_rate=0.01,
        decision_layer_learning_rate=0.01,
        max_grad_norm=1e3,
        lr_scheduler_type="constant",
        **values,
    )
    trainer.train()
    return {"log": step_logs(trainer)[0], "weights": weights(trainer.model), "world_size": trainer.args.world_size}


def in_two_processes(output_dir: str) -> None:
    """One step with 4 images in each process, a checkpoint, an evaluation, and features computed by both."""
    rank = int(os.environ["RANK"])
    folder = Path(output_dir)
    outcome = one_step(output_dir, save_strategy="steps", save_steps=1)

    model = classifier("resnet")
    # 9 images over two processes: the last batches are padded, and the padding must not be counted.
    evaluating = make_trainer(
        output_dir, model, eval_dataset=images(9, seed=1), per_device_eval_batch_size=2, num_eval_samples=2
    )
    outcome["evaluation"] = evaluating.evaluate()
    outcome["temperature"] = recalibrate(evaluating).temperature

    feature_cache.SHARD_SIZE = 4
    computed: list[int] = []
    model.backbone.register_forward_hook(lambda *_: computed.append(1))
    shared = arguments(output_dir, freeze_backbone=True, cache_features=True, feature_cache_dir=str(folder / "cache"))
    cached = feature_cache.cached_features(model, images(12), shared, collate=collate)
    key = feature_cache.cache_key(model, images(12), make_image_processor(8), shared)
    outcome.update(features=cached.features, labels=cached.labels, forward_passes=len(computed), key=key)
    tuned = make_trainer(
        output_dir,
        classifier("resnet"),
        images(24, wrong=6),
        feature_cache_dir=str(folder / "cache"),
        freeze_backbone=True,
        cache_features=True,
        tune_head=True,
        tune_min_steps=0,
        num_train_epochs=1,
    )
    tuned.train()
    outcome["tuned"] = weights(tuned.decision_layer)
    outcome["hash_of_a_word"] = hash("word")
    torch.save(outcome, folder / f"rank{rank}.pt")


def take_lock(folder: str) -> None:
    with run_lock(folder):
        print("free")


def script(path: str, argv: list[str], cwd: str) -> None:
    """What `python path argv` does in the folder `cwd`."""
    os.chdir(cwd)
    sys.argv = [path, *argv]
    sys.path[:2] = [str(Path(path).parent)]  # for the suite's folder and the current one
    runpy.run_path(path, run_name="__main__")


def code(text: str) -> None:
    """What `python -c text` does."""
    exec(text, {"__name__": "__main__"})


def notebook(path: str, cwd: str) -> None:
    """The code cells of a notebook, as a kernel runs them, in the folder `cwd`; an error ends it."""
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(cwd)
    sys.path[:1] = [cwd]  # for the suite's folder
    shell = InteractiveShell.instance()
    for cell in json.loads(Path(path).read_text())["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"]), store_history=True).raise_error()


JOBS = {job.__name__: job for job in (train, train_on_a_full_disk, in_two_processes, take_lock, script, code, notebook)}


def serve() -> None:
    """Fork a process per request."""
    importlib.import_module("sklearn.datasets")  # the digits, which nearly every script reads
    forking.serve(_run)


def _run(request: dict[str, Any]) -> None:
    os.environ.update(request["environment"])
    JOBS[request["job"]](**request["arguments"])

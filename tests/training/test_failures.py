"""Where training has to stop it says why, and where it goes on it says what is odd."""

import logging
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from transformers import TrainerCallback

from bndl_hf import BNDLConfig, BNDLTrainer
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training.features import FeatureDataset
from bndl_hf.training.run_lock import LOCK_NAME, run_lock
from jobs import JobServer

from . import runs
from .test_checkpoints import CONFIG, SIX_STEPS, await_flag, stop


def layer_trainer(folder: Path, num_images: int = 64, callbacks: Any = None, **values: Any) -> BNDLTrainer:
    torch.manual_seed(0)
    data = FeatureDataset(torch.rand(num_images, 8), torch.arange(num_images) % 3)
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=8, num_labels=3))
    return BNDLTrainer(layer, runs.arguments(folder, **values), train_dataset=data, callbacks=callbacks)


class Poison(TrainerCallback):
    """After `step` a weight is not a number."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.step:
            model.raw_loadings.data[0, 0] = math.nan


# ---- not a number ----


@pytest.mark.parametrize(("accumulation", "batch"), [(1, 1), (2, 1)])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoints(
    accumulation: int, batch: int, tmp_path: Path
) -> None:
    values = {"max_steps": 20, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 1}
    trainer = layer_trainer(tmp_path, callbacks=[Poison(6)], gradient_accumulation_steps=accumulation, **values)
    with pytest.raises(ValueError, match=rf"The loss is nan at step 7, batch {batch} \(epoch ") as stopped:
        trainer.train()
    assert "The weights are broken since the step before (raw_loadings)" in str(stopped.value)
    assert f"{tmp_path / 'checkpoint-4'} is from before and untouched" in str(stopped.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "checkpoint-4/model.safetensors").values())


def test_weights_that_are_not_numbers_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    values = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 1}
    with pytest.raises(ValueError, match=r"After step 8 the weights hold NaN or infinite values \(raw_loadings\), so"):
        layer_trainer(tmp_path, callbacks=[Poison(8)], **values).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_bad_batch_is_told_from_bad_weights(tmp_path: Path) -> None:
    def not_a_number(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.sum() * math.nan

    trainer = layer_trainer(tmp_path, max_steps=2)
    trainer.compute_loss_func = not_a_number
    sentence = "The weights are finite, so it comes from this batch. There is no earlier checkpoint."
    with pytest.raises(ValueError, match=sentence):
        trainer.train()


# ---- batches and steps ----


def test_a_batch_of_one_before_a_batch_norm_names_the_way_out(tmp_path: Path) -> None:
    trainer = BNDLTrainer(
        runs.classifier("resnet"),
        runs.arguments(tmp_path, num_train_epochs=1, per_device_train_batch_size=3),
        train_dataset=[{"pixel_values": torch.rand(3, 4, 4), "labels": i % 3} for i in range(7)],
    )
    with pytest.raises(ValueError, match=r"dataloader_drop_last=True .* a per_device_train_batch_size other than 3"):
        trainer.train()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_train_epochs": 3}, "for few optimizer steps (48): pass num_train_epochs=12 or a smaller"),
        ({"max_steps": 10}, "for few optimizer steps (10): pass max_steps=200 or a smaller"),
        ({"max_steps": 200}, None),
    ],
)
def test_few_steps_are_said_once(
    values: dict[str, Any], sentence: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = layer_trainer(tmp_path, **values)
    with caplog.at_level(logging.WARNING, logger="bndl_hf"):
        trainer.train()
        assert ("optimizer steps" in caplog.text) == (sentence is not None)
        assert (sentence or "") in caplog.text
        caplog.clear()
        trainer.train()  # the layer is not new any more
    assert "optimizer steps" not in caplog.text


ROW = {"pixel_values": torch.rand(3, 8, 8), "labels": 1}
OF_TEXT = "A batch to learn from holds pixel_values and no labels; a row needs a whole number under 'labels'"


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        (None, "There is no train_dataset; pass one to the Trainer."),
        ([], "train_dataset is empty; there is nothing to learn from."),
        (DatasetDict(train=runs.images(3), test=runs.images(3)), "is a DatasetDict of 'train', 'test'; pass one of th"),
        ([{**ROW, "labels": "cat"}] * 4, OF_TEXT),
        ([{"pixel_values": ROW["pixel_values"]}] * 4, OF_TEXT),
        ([ROW] * 3, "has fewer than the 4 images of a batch, and dataloader_drop_last=True leaves out"),
    ],
    ids=["none", "empty", "all splits", "text labels", "no labels", "less than a batch"],
)
def test_what_cannot_be_trained_on_is_named(dataset: Any, sentence: str, tmp_path: Path) -> None:
    arguments = runs.arguments(tmp_path, max_steps=1, dataloader_drop_last=True)
    with pytest.raises(ValueError, match=sentence):
        BNDLTrainer(runs.classifier("resnet"), arguments, train_dataset=dataset).train()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_dtype_train_alike(dtype: torch.dtype, tmp_path: Path) -> None:
    losses = []
    for kind in (torch.int64, dtype):
        rows = [{**ROW, "labels": torch.tensor(i % 3, dtype=kind)} for i in range(4)]
        trainer = BNDLTrainer(runs.classifier("resnet"), runs.arguments(tmp_path, max_steps=1), train_dataset=rows)
        losses.append(trainer.train().training_loss)
    assert losses[0] == losses[1]


# ---- two runs, and one that is stopped ----


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_runs(jobs: JobServer, tmp_path: Path) -> None:
    result = tmp_path / "result.pt"
    job = jobs.start("train", output_dir=tmp_path, result=result, wait_at=1, **CONFIG, **SIX_STEPS)
    await_flag(job, result.with_name("result.pt.waiting"))
    with pytest.raises(ValueError, match=rf"Process {job.pid} on .* is training in {tmp_path}; two runs there would"):
        layer_trainer(tmp_path, max_steps=1).train()
    assert stop(job, result.with_name("result.pt.waiting"), signal.SIGKILL) == -9
    assert (tmp_path / LOCK_NAME).exists(), "a killed process leaves the file"
    layer_trainer(tmp_path, max_steps=1).train()
    assert not (tmp_path / LOCK_NAME).exists()


def test_the_lock_is_free_again_after_an_error(jobs: JobServer, tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError("broken")
    assert jobs.run("take_lock", folder=tmp_path).log == "free\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (5, "Interrupted after step 5 of 6. {folder}/checkpoint-3 is whole: start the same command again"),
        (2, "Interrupted after step 2 of 6. There is no checkpoint yet, so the next run starts from the beginning"),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(step: int, sentence: str, tmp_path: Path) -> None:
    class Interrupt(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("bndl_hf.training.checkpoints")
    logger.addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            layer_trainer(tmp_path, callbacks=[Interrupt()], **SIX_STEPS).train()
    finally:
        logger.removeHandler(handler)
    assert any(sentence.format(folder=tmp_path) in words for words in said)

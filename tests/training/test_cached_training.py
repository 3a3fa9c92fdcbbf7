"""With cached features the user's own Trainer trains: subclass, callbacks, optimizer, loss function, sampler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from bndl_hf import BNDLForImageClassification, BNDLTrainer
from bndl_hf.data.pixel_values import collate
from bndl_hf.training.features import FeatureDataset

from . import runs

CACHED = {"freeze_backbone": True, "cache_features": True, "max_steps": 4}


def trainer_with(tmp_path: Path, kind: type[BNDLTrainer] = BNDLTrainer, values: Any = None, **given: Any) -> Any:
    """A Trainer of `kind` on 16 images whose features are cached; keywords go to the Trainer, `values` to its args."""
    return kind(
        runs.classifier("resnet"),
        runs.arguments(tmp_path, **CACHED, **(values or {})),
        collate,
        runs.images(16),
        **given,
    )


def moved(trainer: BNDLTrainer) -> float:
    start = runs.weights(runs.classifier("resnet"))
    ours = runs.weights(trainer.model)
    biases = ("raw_bias", "projection.bias")
    return max((ours[name] - tensor).abs().max().item() for name, tensor in start.items() if name.endswith(biases))


def test_a_subclass_that_computes_its_own_loss_is_used(tmp_path: Path) -> None:
    batches: list[list[str]] = []
    losses: list[float] = []

    class Squared(BNDLTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            batches.append(sorted(inputs))
            output = model(**inputs)
            loss = output.nll.square()
            losses.append(loss.item())
            return (loss, output) if return_outputs else loss

    trainer = trainer_with(tmp_path, Squared)
    trainer.train()
    assert batches == [["features", "labels"]] * 4
    assert [log["loss"] for log in runs.step_logs(trainer)] == pytest.approx(losses)
    assert not any("nll" in log for log in runs.step_logs(trainer)), "what adds up to another loss is not known"


def test_a_loss_function_is_used_and_the_kl_added_while_training(tmp_path: Path) -> None:
    def constant(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return 0.0 * outputs.logits.sum() + 7.0

    trainer = trainer_with(tmp_path, compute_loss_func=constant, eval_dataset=runs.images(6, seed=1))
    trainer.train()
    for log in runs.step_logs(trainer):
        assert log["likelihood_loss"] == 7.0
        assert log["loss"] == pytest.approx(7 + log["kl_scores"] + log["kl_loadings"], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == 7.0, "an evaluation has no KL"


def test_an_optimizer_class_and_its_arguments_are_used(tmp_path: Path) -> None:
    still = trainer_with(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.0}))
    still.train()
    assert moved(still) == 0.0
    quick = trainer_with(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}))
    quick.train()
    assert isinstance(quick.optimizer.optimizer, torch.optim.SGD)
    assert moved(quick) > 1e-3


def test_an_optimizer_object_is_used(tmp_path: Path) -> None:
    model = runs.classifier("resnet")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    arguments = runs.arguments(tmp_path, **CACHED, lr_scheduler_type="constant")
    BNDLTrainer(model, arguments, collate, runs.images(16), optimizers=(optimizer, None)).train()
    assert len(steps) == 4
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]


def test_a_sampler_is_used(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class InOrder(BNDLTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            assert isinstance(self.train_dataset, FeatureDataset)
            return SequentialSampler(self.train_dataset)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
            seen.append(inputs["labels"])
            return super().training_step(model, inputs, num_items_in_batch)

    trainer_with(tmp_path, InOrder).train()
    assert torch.cat(seen).tolist() == [i % 3 for i in range(16)]


def test_callbacks_see_the_whole_model_and_may_save_and_evaluate_it(tmp_path: Path) -> None:
    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.models = {id(model), id(trainer.model)}
            if state.global_step == 2:
                trainer.save_model(str(tmp_path / "saved"))
                self.on_images = trainer.evaluate(runs.images(6, seed=1))["eval_accuracy"]
                self.on_images_too = model.predict(collate([runs.images(6, seed=1)[0]])["pixel_values"]).probs

    watch = Watch()
    trainer = trainer_with(tmp_path, callbacks=[watch], values={"save_strategy": "steps", "save_steps": 4})
    model, datasets, collator = trainer.model, trainer.train_dataset, trainer.data_collator
    trainer.train()
    assert watch.models == {id(model)}
    assert (trainer.model, trainer.train_dataset, trainer.data_collator) == (model, datasets, collator)
    assert trainer.args.dataloader_num_workers == 0
    assert BNDLForImageClassification.from_pretrained(tmp_path / "saved").config.num_training_images == 16
    assert not (tmp_path / "checkpoint-4" / "config.json").exists(), "a checkpoint holds the decision layer alone"
    assert "forward" not in vars(model)
    assert model.main_input_name == "pixel_values"


def test_metrics_and_their_preprocessing_get_what_they_get_without_a_cache(tmp_path: Path) -> None:
    shapes: list[Any] = []

    def right(prediction: Any) -> dict[str, float]:
        shapes.append((prediction.predictions.shape, prediction.probs.shape, prediction.p_value.shape))
        return {"right": float((prediction.predictions == prediction.label_ids).mean())}

    trainer = trainer_with(
        tmp_path,
        compute_metrics=right,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(dim=-1),
        eval_dataset={"near": runs.images(6, seed=1), "far": runs.images(9, seed=2)},
        values={"eval_strategy": "steps", "eval_steps": 4, "include_for_metrics": ["inputs", "loss"]},
    )
    trainer.train()
    assert shapes == [((6,), (6, 3), (6,)), ((9,), (9, 3), (9,))]
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    for name in ("near", "far"):
        assert logged[f"eval_{name}_right"] == logged[f"eval_{name}_accuracy"]


def test_bfloat16_evaluates_the_same_before_and_after(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, eval_dataset=runs.images(6, seed=1), values={"bf16": True})
    trainer.train()
    one = trainer.evaluate()
    fresh = BNDLTrainer(trainer.model, trainer.args, collate, eval_dataset=runs.images(6, seed=1)).evaluate()
    assert one["eval_loss"] == pytest.approx(fresh["eval_loss"], rel=1e-6)


def test_a_loss_that_asks_for_pixels_is_answered_in_a_sentence(tmp_path: Path) -> None:
    class Mixing(BNDLTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **_: Any) -> Any:
            return model(inputs["pixel_values"]).loss

    with pytest.raises(ValueError, match="A batch of features holds no 'pixel_values', only features and labels"):
        trainer_with(tmp_path, Mixing).train()


@pytest.mark.parametrize("where", ["transform", "collator"])
def test_what_changes_from_one_reading_to_the_next_cannot_be_cached(where: str, tmp_path: Path) -> None:
    plain = runs.images(16)
    transform = plain.format["format_kwargs"]["transform"]

    def jittered(rows: Any) -> Any:
        rows = transform(rows)
        return {**rows, "pixel_values": [image * (0.5 + torch.rand(())) for image in rows["pixel_values"]]}

    def mixing(rows: Any) -> Any:
        batch = collate(rows)
        return {**batch, "pixel_values": batch["pixel_values"][torch.randperm(len(rows))]}

    dataset = plain.with_transform(jittered) if where == "transform" else plain
    arguments = runs.arguments(tmp_path, **CACHED)
    trainer = BNDLTrainer(runs.classifier(), arguments, collate if where == "transform" else mixing, dataset)
    with pytest.raises(ValueError, match="pixel_values of the train dataset change from one reading of a row to the"):
        trainer.train()

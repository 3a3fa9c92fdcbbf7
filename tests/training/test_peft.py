"""LoRA in the backbone, the decision layer in `modules_to_save`: train, save, reload, resume, merge."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageClassification, ViTForImageClassification, set_seed

from bndl_hf import BNDLForImageClassification, BNDLTrainer
from bndl_hf.data.image_dataset import make_image_processor

from . import runs
from .runs import classifier, images, make_trainer, step_logs, weights
from .test_checkpoints import assert_bit_equal

peft = pytest.importorskip("peft")

TARGETS = {"vit": ["q_proj", "v_proj"], "resnet": ["convolution"]}
DOCS = Path(__file__).parents[2] / "docs" / "peft.md"


def adapted(backbone: str = "vit", dtype: torch.dtype = torch.float32, name: str = "default", **lora: Any) -> Any:
    """A tiny classifier with LoRA in its backbone; the base is the same every time."""
    base = classifier(backbone).to(dtype)
    values = {"r": 4, "target_modules": TARGETS[backbone], "modules_to_save": ["decision_layer"], **lora}
    return peft.get_peft_model(base, peft.LoraConfig(**values), adapter_name=name)


def pixel_values() -> Tensor:
    return torch.stack(images(6, seed=2)[:6]["pixel_values"])


def same_answers(one: Any, other: Any) -> bool:
    a, b = one.predict(pixel_values()), other.predict(pixel_values())
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("probs", "p_value", "logits_variance"))


# ---- train ----


def test_only_adapters_and_the_decision_layer_move(tmp_path: Path) -> None:
    model = adapted()
    before = weights(model)
    trainer = make_trainer(tmp_path, model, max_steps=4)
    trainer.train()
    moved = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    copied = "base_model.model.decision_layer.modules_to_save.default."
    assert moved == trained | {f"{copied}feature_scale"}
    assert {name for name in moved if "lora_" not in name} == {n for n in before if n.startswith(copied)}
    assert sum("lora_" in name for name in moved) == 2 * 2 * 2  # 2 layers, 2 projections, A and B

    for entry in step_logs(trainer):
        assert min(entry["nll"], entry["kl_scores"], entry["kl_loadings"]) > 0
    ours = {id(parameter) for parameter in trainer.decision_layer.parameters()}
    for group in trainer.optimizer.param_groups:
        assert {id(p) in ours for p in group["params"]} == {group["initial_lr"] == 2e-2}


def test_model_and_trained_layer_share_one_configuration(tmp_path: Path) -> None:
    model = adapted()
    trainer = make_trainer(tmp_path, model, max_steps=1, kl_local_weight=0.5)
    trainer.train()
    assert trainer.decision_layer.config is model.config
    assert (model.config.num_training_images, model.config.kl_local_weight) == (16, 0.5)
    merged = model.merge_and_unload()
    assert merged.decision_layer.config is merged.config
    assert merged.config.num_training_images == 16


def test_accumulated_small_batches_step_as_one_large_batch(tmp_path: Path) -> None:
    outcomes = []
    for size, steps in ((8, 1), (2, 4)):
        model = adapted()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        values = {"optim": "sgd", "learning_rate": 0.01, "decision_layer_learning_rate": 0.01, "max_grad_norm": 1e3}
        trainer = make_trainer(
            tmp_path, model, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps, **values
        )
        trainer.train()
        outcomes.append(weights(model))
    for name, tensor in outcomes[0].items():
        torch.testing.assert_close(tensor, outcomes[1][name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_decision_layer_stays_float32_on_a_bfloat16_backbone(tmp_path: Path) -> None:
    model = adapted(dtype=torch.bfloat16)
    trainer = make_trainer(tmp_path, model, max_steps=2)
    trainer.train()
    assert {p.dtype for p in trainer.decision_layer.parameters()} == {torch.float32}
    assert model.backbone.vit.layernorm.weight.dtype == torch.bfloat16
    trainer.save_model(str(tmp_path / "adapters"))
    reloaded = peft.PeftModel.from_pretrained(classifier().to(torch.bfloat16), tmp_path / "adapters")
    assert {p.dtype for p in reloaded.decision_layer.parameters()} == {torch.float32}
    assert same_answers(model, reloaded)


# ---- save, reload, merge ----


@pytest.mark.parametrize("backbone", ["vit", "resnet"])
def test_adapters_reload_onto_the_base_with_the_same_answers_bit_for_bit(tmp_path: Path, backbone: str) -> None:
    model = adapted(backbone)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    trainer = make_trainer(tmp_path, model, max_steps=4)
    trainer.train()
    assert not (trainer.decision_layer.feature_scale == 1).all()
    for name, before in statistics.items():  # an adapter's file does not hold them
        assert torch.equal(dict(model.named_buffers())[name], before), name
    trainer.save_model(str(tmp_path / "adapters"))
    assert not (tmp_path / "adapters" / "model.safetensors").exists()
    reloaded = peft.PeftModel.from_pretrained(classifier(backbone), tmp_path / "adapters")
    assert not same_answers(model, classifier(backbone))
    assert same_answers(model, reloaded)
    ours, theirs = model.explain(pixel_values()), reloaded.explain(pixel_values())
    assert torch.equal(ours.factors, theirs.factors)
    assert torch.equal(ours.contributions, theirs.contributions)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_a_merged_model_is_a_plain_one_with_the_same_answers(tmp_path: Path, targets: Any) -> None:
    model = adapted(target_modules=targets)
    make_trainer(tmp_path, model, max_steps=4).train()
    answer, why = model.predict(pixel_values()), model.explain(pixel_values())
    merged = model.merge_and_unload()
    assert type(merged) is BNDLForImageClassification
    assert merged.state_dict().keys() == classifier().state_dict().keys()
    torch.testing.assert_close(merged.predict(pixel_values()).logits_mean, answer.logits_mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.predict(pixel_values()).probs, answer.probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.explain(pixel_values()).total, why.total, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert same_answers(merged, loaded)
    assert loaded.config.num_training_images == 16


def test_without_its_adapters_the_model_answers_as_the_base(tmp_path: Path) -> None:
    model = adapted()
    make_trainer(tmp_path, model, max_steps=2).train()
    assert not same_answers(model, classifier())
    with model.disable_adapter():
        assert same_answers(model, classifier())


def test_adapters_with_a_name_of_their_own_are_saved_again_into_the_same_folder(tmp_path: Path) -> None:
    model = adapted(name="mine")
    trainer = make_trainer(tmp_path, model, max_steps=1)
    trainer.train()
    for _ in range(2):
        trainer.save_model(str(tmp_path / "adapters"))
    reloaded = peft.PeftModel.from_pretrained(classifier(), tmp_path / "adapters" / "mine")
    assert same_answers(model, reloaded)


# ---- resume ----

SIX_STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}


def six_steps(folder: Path, resume: bool) -> tuple[BNDLTrainer, dict[str, Any]]:
    """Train to step 6 (3 is in the middle of an epoch), with dropout in backbone and adapters."""
    trainer = make_trainer(folder, adapted(lora_dropout=0.1), **SIX_STEPS)
    set_seed(0)
    trainer.train(resume_from_checkpoint=resume)
    log = [{k: v for k, v in entry.items() if k != "total_flos"} for entry in step_logs(trainer)]
    return trainer, {"weights": weights(trainer.model), "optimizer": trainer.optimizer.state_dict(), "log": log}


def test_three_steps_and_three_more_equal_six(tmp_path: Path) -> None:
    _, expected = six_steps(tmp_path / "straight", resume=False)
    shutil.copytree(tmp_path / "straight" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    _, resumed = six_steps(tmp_path / "resumed", resume=True)
    half_way = load_file(tmp_path / "straight" / "checkpoint-3" / "adapter_model.safetensors")
    name = "base_model.model.decision_layer.raw_loadings"
    after = expected["weights"]["base_model.model.decision_layer.modules_to_save.default.raw_loadings"]
    assert not torch.equal(half_way[name], after)
    assert_bit_equal(expected, resumed)


def test_the_best_adapters_come_back_at_the_end(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        adapted(),
        max_steps=4,
        eval_dataset=images(9, seed=1),
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="sparsity",  # the same every time, so that the first checkpoint stays the best
        greater_is_better=True,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    best = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    assert torch.equal(trainer.decision_layer.raw_loadings, best["base_model.model.decision_layer.raw_loadings"])


def test_checkpoints_of_another_kind_are_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path / "lora", adapted(), max_steps=1, save_strategy="steps", save_steps=1).train()
    make_trainer(tmp_path / "whole", max_steps=1, save_strategy="steps", save_steps=1).train()
    with pytest.raises(ValueError, match="holds adapters, which end-to-end training cannot go on from"):
        make_trainer(tmp_path / "lora", max_steps=2).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"holds a whole model, which adapter \(peft\) training cannot go on from"):
        make_trainer(tmp_path / "whole", adapted(), max_steps=2).train(resume_from_checkpoint=True)


# ---- what is refused ----


@pytest.mark.parametrize("name", ["freeze_backbone", "cache_features"])
def test_arguments_that_would_freeze_the_adapters_are_refused(tmp_path: Path, name: str) -> None:
    values = {"freeze_backbone": True, "cache_features": name == "cache_features"}
    with pytest.raises(ValueError, match=r"but the model has adapters in its backbone.*leave it out"):
        make_trainer(tmp_path, adapted(), **values)


def test_a_new_decision_layer_that_nobody_would_train_is_refused_and_an_old_one_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'pass modules_to_save=\["decision_layer"\] to LoraConfig'):
        make_trainer(tmp_path, adapted(modules_to_save=None))
    model = adapted(modules_to_save=None)
    model.config.num_training_images = 16  # one that was trained may stay as it is
    before = weights(model.decision_layer)
    make_trainer(tmp_path, model, max_steps=1).train()
    assert_bit_equal(weights(model.decision_layer), before)


# ---- the page ----


def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)[1]
    set_seed(0)
    ViTForImageClassification(runs.BACKBONES["vit"]()).save_pretrained(tmp_path / "vit")
    make_image_processor(8).save_pretrained(tmp_path / "vit")
    for ours, theirs in {
        str(tmp_path / "vit"): "google/vit-base-patch16-224",
        'DataArguments("digits", max_train_samples=64)': 'DataArguments("uoft-cs/cifar10")',
        'max_steps=2, use_cpu=True, report_to="none"': "num_train_epochs=3",
    }.items():
        assert theirs in code
        code = code.replace(theirs, ours)
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    merged = AutoModelForImageClassification.from_pretrained("outputs/merged")
    assert merged.config.id2label[9] == "9"
    expected = names["model"].base_model.model.predict(pixel_values()).probs
    torch.testing.assert_close(merged.predict(pixel_values()).probs, expected, rtol=0, atol=1e-5)

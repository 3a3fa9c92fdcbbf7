"""Predictions kept on disk and the numbers made of them: those of the functions of all images at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image

from bndl_hf.data.image_dataset import DataArguments, make_image_processor
from bndl_hf.data.pixel_values import collate
from bndl_hf.data.unlabelled import load_unlabelled_images, parse_named
from bndl_hf.evaluation import predictions as predicting
from bndl_hf.evaluation.judging import evaluate_classifier, judge
from bndl_hf.evaluation.predictions import (
    PredictionSettings,
    predict_dataset,
    prediction_key,
)
from bndl_hf.model.predictive import paired_p_value
from bndl_hf.uncertainty import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_decomposition,
    brier_score,
    classwise_calibration_error,
    coverage_at_risk,
    error_detection_auroc,
    expected_calibration_error,
    fit_decisions,
    negative_log_likelihood,
    ood_auroc,
    ood_scores,
    pavpu,
    pavpu_from_p_value,
    realised_verdicts,
)
from training import runs

SETTINGS = PredictionSettings(batch_size=4, num_samples=(2, 5))


def predict(model: Any, folder: Path, dataset: Any = None, settings: Any = SETTINGS, **values: Any) -> Any:
    dataset = runs.images(22) if dataset is None else dataset
    return predict_dataset(model, dataset, settings, cache_dir=folder, collate=collate, **values)


def count_passes(model: Any) -> list[int]:
    passes: list[int] = []
    model.backbone.register_forward_hook(lambda _, inputs, kwargs, __: passes.append(1), with_kwargs=True)
    return passes


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "SHARD_SIZE", 8)


def test_numbers_of_a_stream_are_those_of_all_images_at_once(tmp_path: Path) -> None:
    model, images, ood = runs.classifier(), runs.images(22, wrong=5), runs.images(9, seed=1)
    results = evaluate_classifier(
        model, images, cache_dir=tmp_path, collate=collate, ood_datasets={"other": ood}, settings=SETTINGS
    ).results
    batch = collate([images[row] for row in range(22)])
    whole = model.predict(batch["pixel_values"])
    labels, confidence = batch["labels"], whole.probs.max(dim=-1).values
    correct, parts = whole.predicted_labels == labels, brier_decomposition(whole.probs, labels)
    expected = {
        "num_images": 22,
        "accuracy": correct.double().mean().item(),
        "negative_log_likelihood": negative_log_likelihood(whole.probs, labels),
        "brier_score": brier_score(whole.probs, labels),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "brier_within_bin": parts.within_bin,
        "expected_calibration_error": expected_calibration_error(whole.probs, labels),
        "adaptive_calibration_error": adaptive_calibration_error(whole.probs, labels),
        "classwise_calibration_error": classwise_calibration_error(whole.probs, labels),
        "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
        "coverage_at_5_percent_risk": coverage_at_risk(confidence, correct, 0.05),
        "error_detection_auroc": error_detection_auroc(confidence, correct),
        "pavpu": pavpu_from_p_value(whole.p_value, correct).pavpu,
        "share_certain": whole.is_certain.double().mean().item(),
        "total_uncertainty": whole.total.double().mean().item(),
        "epistemic_uncertainty": whole.epistemic.double().mean().item(),
        "sparsity": model.decision_layer.sparsity(),
    }
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    other = model.predict(collate([ood[row] for row in range(9)])["pixel_values"])
    for name, score in ood_scores(whole).items():
        auroc = ood_auroc(score, ood_scores(other)[name])
        assert results["ood"]["other"]["scores"][name]["auroc"] == pytest.approx(auroc, abs=1e-6), name


def test_stored_verdicts_are_counted_as_a_prediction_of_all_images_gives_them(tmp_path: Path) -> None:
    model, images, ood = runs.classifier(), runs.images(22, wrong=5), runs.images(9, seed=1)
    sure, other = (collate([rows[i] for i in range(len(rows))]) for rows in (images, ood))
    model.set_decisions(fit_decisions(model, [sure], familiar=None, coverage=None, recalibrate=False, progress=False))
    middle = model.predict(sure["pixel_values"]).probs.amax(-1).median().item()
    for config in (model.config, model.decision_layer.config):
        config.verdict = {**config.verdict, "threshold": middle}
    settings = {"cache_dir": tmp_path, "collate": collate, "settings": SETTINGS}
    found = evaluate_classifier(model, images, ood_datasets={"other": ood}, **settings).results["verdicts"]
    answers = {"other": model.predict(other["pixel_values"])}
    expected = realised_verdicts(model.predict(sure["pixel_values"]), sure["labels"], answers)
    assert found == {name: expected[name] for name in found}
    assert 0.4 < found["share_sure"] < 0.6
    assert (found["unfamiliar"], found["num_outsiders"]) == ({"other": 0.0}, {"other": 9})


def test_exact_p_values_of_any_number_of_draws_come_from_one_ratio(tmp_path: Path) -> None:
    model, images = runs.classifier(), runs.images(22)
    ratio = predict(model, tmp_path).gap_ratio
    pixel_values = collate([images[row] for row in range(22)])["pixel_values"]
    for S in (2, 5, 20, 100):
        p_value = model.predict(pixel_values, num_samples=S).p_value.double()
        torch.testing.assert_close(paired_p_value(ratio.double(), S), p_value, rtol=1e-3, atol=1e-6)


def test_sampled_pavpu_is_that_of_the_draws_with_its_settings(tmp_path: Path) -> None:
    model, images = runs.classifier(), runs.images(4)  # one batch: its draws are those of its first row's seed
    results = judge(predict(model, tmp_path, images), num_samples=20, threshold=0.05, sparsity=0.1)
    pixel_values = collate([images[row] for row in range(4)])["pixel_values"]
    generator = torch.Generator().manual_seed(0)
    draws = model.predict(pixel_values, method="monte_carlo", num_samples=5, generator=generator).logits_samples
    labels, predicted = torch.arange(4) % runs.NUM_LABELS, model.predict(pixel_values).predicted_labels
    for S in (2, 5):
        counts = pavpu(draws[:S], labels, predicted=predicted)
        (row,) = [r for r in results["pavpu_by_samples"] if (r["num_samples"], r["test"]) == (S, "paired")]
        assert row == {"pavpu": counts.pavpu, **vars(counts)}
        assert results[f"pavpu_{S}_draws"] == counts.pavpu


def test_sampled_p_values_follow_the_variance_scale_as_those_of_predict_do(tmp_path: Path) -> None:
    model, images = runs.classifier(), runs.images(4)
    pixel_values = collate([images[row] for row in range(4)])["pixel_values"]
    found = {}
    for scale in (1.0, 0.01):
        model.set_temperature(1.0, scale)
        found[scale] = predict(model, tmp_path / str(scale), images).p_value_sampled[5]
        generator = torch.Generator().manual_seed(0)
        draws = model.predict(pixel_values, method="monte_carlo", num_samples=5, generator=generator)
        torch.testing.assert_close(found[scale].float(), draws.p_value.float(), rtol=1e-4, atol=1e-6)
    assert (found[0.01] < found[1.0]).all()  # a tenth of the spread


def test_a_second_pass_reads_what_the_first_wrote(tmp_path: Path) -> None:
    first, second = runs.classifier(), runs.classifier()
    passes = count_passes(first), count_passes(second)
    kept = predict(first, tmp_path)
    assert torch.equal(predict(second, tmp_path).negative_log_likelihood, kept.negative_log_likelihood)
    assert (len(passes[0]), len(passes[1])) == (6, 0)


def test_an_interrupted_pass_goes_on_at_the_next_shard_and_draws_the_same(tmp_path: Path) -> None:
    whole, interrupted = predict(runs.classifier(), tmp_path / "whole"), runs.classifier()
    passes = count_passes(interrupted)

    def interrupt(*_: Any) -> None:
        if len(passes) == 3:  # in the second shard of two batches
            raise KeyboardInterrupt

    interrupted.backbone.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict(interrupted, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").rglob("*.*")] == ["000000000.safetensors"]
    resumed = runs.classifier()
    passes_after = count_passes(resumed)
    result = predict(resumed, tmp_path / "run")
    assert len(passes_after) == 4
    for S in (2, 5):
        assert torch.equal(result.p_value_sampled[S], whole.p_value_sampled[S])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p["model"].decision_layer.raw_loadings.data.add_(1), id="weights"),
        pytest.param(lambda p: setattr(p["model"].config, "num_samples", 7), id="configuration"),
        pytest.param(lambda p: p.update(dataset=runs.images(22, seed=1)), id="pixels"),
        pytest.param(lambda p: p.update(processor=make_image_processor(8, mean=(0, 0, 0))), id="processor"),
        pytest.param(lambda p: p.update(settings=PredictionSettings(batch_size=5)), id="settings"),
        pytest.param(lambda p: p.update(has_labels=False), id="labels"),
        pytest.param(lambda p: p["model"].to(torch.bfloat16), id="dtype"),
    ],
)
def test_a_change_makes_another_key(change: Callable[[dict[str, Any]], Any]) -> None:
    def parts() -> dict[str, Any]:
        return {
            "model": runs.classifier("resnet"),
            "dataset": runs.images(22),
            "settings": SETTINGS,
            "processor": make_image_processor(8),
            "has_labels": True,
        }

    changed = parts()
    change(changed)
    assert prediction_key(**changed) != prediction_key(**parts())
    renamed = parts()
    renamed["model"].config.id2label = {0: "a", 1: "b", 2: "c"}
    assert prediction_key(**renamed) == prediction_key(**parts())


def test_a_perfect_model_has_defined_numbers(tmp_path: Path) -> None:
    kept = predict(runs.classifier(), tmp_path)
    perfect = type(kept)(**{**vars(kept), "predicted": kept.labels})
    results = judge(perfect, num_samples=20, threshold=0.05, sparsity=0.1)
    assert (results["accuracy"], results["area_under_risk_coverage"], results["coverage_at_1_percent_risk"]) == (
        1,
        0,
        1,
    )
    assert results["error_detection_auroc"] is None


def test_a_damaged_file_is_computed_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = predict(runs.classifier(), tmp_path)
    (damaged,) = tmp_path.rglob("000000008.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = predict(runs.classifier(), tmp_path)
    assert "000000008.safetensors is damaged" in caplog.text
    assert torch.equal(again.gap_ratio, kept.gap_ratio)


def test_what_cannot_be_judged_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images holds no image"):
        predict(runs.classifier(), tmp_path, runs.images(4).select([]))
    with pytest.raises(ValueError, match=r"num_samples=\[1\]: a t-test needs 2 draws or more"):
        PredictionSettings(num_samples=(1,))
    unlabelled = predict(runs.classifier(), tmp_path, has_labels=False)
    with pytest.raises(ValueError, match="labels are missing"):
        _ = unlabelled.correct


# ---- images without labels ----


def test_a_flat_folder_of_images_needs_no_labels(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (10, 12), 80 * number).save(tmp_path / f"{number}.png")
    dataset, where = load_unlabelled_images(str(tmp_path), make_image_processor(8), DataArguments("digits"))
    assert where == f"split 'train' of {tmp_path}"
    batch = collate([dataset[row] for row in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert batch["labels"].tolist() == [-1, -1, -1]


def test_only_as_many_images_as_asked_for_are_taken() -> None:
    arguments = DataArguments("digits", max_eval_samples=20)
    dataset, where = load_unlabelled_images("digits", make_image_processor(8), arguments)
    assert (len(dataset), where) == (20, "split 'test' of digits")


def test_a_set_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    def load(name: str, split: str | None = None) -> Any:
        return load_unlabelled_images(name, make_image_processor(8), DataArguments("digits"), split)

    with pytest.raises(ValueError, match=r"^--ood_datasets='.*nothing' cannot be loaded"):
        load(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^--ood_datasets='.*empty' cannot be loaded"):
        load(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"digits has no split 'dev'; splits here: train, test.*--ood_split"):
        load("digits", "dev")
    Dataset.from_dict({"text": ["a"]}).to_parquet(str(tmp_path / "text.parquet"))
    with pytest.raises(ValueError, match="has no column that is known to hold images"):
        load(str(tmp_path / "text.parquet"))


def test_names_of_sets_come_before_an_equals_sign() -> None:
    assert parse_named(["a=x/y", "b=./z=1"]) == {"a": "x/y", "b": "./z=1"}
    for wrong in ("mnist", "=x", "mnist="):
        with pytest.raises(ValueError, match="is not of the form NAME=DATASET"):
            parse_named([wrong])
    with pytest.raises(ValueError, match="names 'a' twice"):
        parse_named(["a=x", "a=y"])

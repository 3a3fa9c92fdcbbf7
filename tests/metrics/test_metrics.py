"""The `evaluate` modules, loaded offline by the real library: the numbers of `bndl_hf.uncertainty` from columns."""

import math
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import bndl_hf.metrics
from bndl_hf import uncertainty
from bndl_hf.training.eval_prediction import BNDLEvalPrediction
from training import runs
from uncertainty.reference import random_probs

evaluate = pytest.importorskip("evaluate")
PROBABILITY_METRICS = ["accuracy", "area_under_risk_coverage", "brier_score", "expected_calibration_error"]


@pytest.fixture
def load(tmp_path):
    """Load a module whose columns lie in a folder of this test."""
    return lambda name, *args, **kwargs: bndl_hf.metrics.load(name, *args, cache_dir=str(tmp_path), **kwargs)


@pytest.fixture(scope="module")
def judged():
    """Probabilities [B, C], labels [B] and p-values [B] of 120 images."""
    probs, labels = random_probs(120, 4, seed=0)
    return probs.numpy(), labels.numpy(), np.random.default_rng(0).random(120) ** 4


def expected(probs, labels, p_value):
    """What the functions say, under the names the modules use."""
    probs, labels, p_value = (torch.from_numpy(values) for values in (probs, labels, p_value))
    confidence, correct = probs.max(dim=-1).values, probs.argmax(dim=-1) == labels
    parts, counts = uncertainty.brier_decomposition(probs, labels), uncertainty.pavpu_from_p_value(p_value, correct)
    return {
        "accuracy": uncertainty.accuracy(probs, labels),
        "area_under_risk_coverage": uncertainty.area_under_risk_coverage(confidence, correct),
        "excess_area_under_risk_coverage": uncertainty.excess_area_under_risk_coverage(confidence, correct),
        "error_detection_auroc": uncertainty.error_detection_auroc(confidence, correct),
        "brier_score": uncertainty.brier_score(probs, labels),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "brier_within_bin": parts.within_bin,
        "expected_calibration_error": uncertainty.expected_calibration_error(probs, labels),
        "maximum_calibration_error": uncertainty.calibration_bins(probs, labels).maximum_calibration_error,
        "adaptive_calibration_error": uncertainty.adaptive_calibration_error(probs, labels),
        "classwise_calibration_error": uncertainty.classwise_calibration_error(probs, labels),
        "pavpu": counts.pavpu,
        "accurate_certain": counts.accurate_certain,
        "accurate_uncertain": counts.accurate_uncertain,
        "inaccurate_certain": counts.inaccurate_certain,
        "inaccurate_uncertain": counts.inaccurate_uncertain,
        "pavpu_threshold": 0.05,
        "pavpu_test": "exact",
        "pavpu_values": "logits",
        "pavpu_num_samples": None,
        "pavpu_num_zero_spread": None,
    }


def assert_same(results, whole):
    """Every result is what `whole` says under its name: numbers to 1e-12, settings as they are."""
    for key, value in results.items():
        same = pytest.approx(whole[key], rel=1e-12) if isinstance(whole[key], float) else whole[key]
        assert value == same, key


def test_combined_modules_give_the_numbers_of_the_functions(load, judged):
    probs, labels, p_value = judged
    combined = evaluate.combine([load(name) for name in [*PROBABILITY_METRICS, "pavpu"]])
    results = combined.compute(predictions=probs, references=labels, p_value=p_value)
    assert results.keys() == expected(*judged).keys()
    assert_same(results, expected(*judged))


def test_combining_by_path_needs_nothing_of_this_library(judged):
    probs, labels, _ = judged
    combined = evaluate.combine([bndl_hf.metrics.path(name) for name in ("accuracy", "area_under_risk_coverage")])
    combined.add_batch(predictions=probs[:50], references=labels[:50])
    combined.add_batch(predictions=probs[50:], references=labels[50:])
    results = combined.compute()
    assert results["area_under_risk_coverage"] == pytest.approx(
        expected(*judged)["area_under_risk_coverage"], rel=1e-12
    )


@pytest.mark.parametrize("name", [*PROBABILITY_METRICS, "pavpu"])
def test_batches_and_single_images_give_the_whole(load, judged, name):
    probs, labels, p_value = judged
    metric = load(name)
    extra = (lambda rows: {"p_value": p_value[rows]}) if name == "pavpu" else lambda rows: {}
    for rows in (slice(0, 7), slice(7, 119)):
        metric.add_batch(predictions=probs[rows], references=labels[rows], **extra(rows))
    metric.add(prediction=probs[119], reference=labels[119], **extra(119))
    assert_same(metric.compute(), expected(*judged))


@pytest.mark.parametrize("name", PROBABILITY_METRICS)
def test_logits_are_turned_into_probabilities_on_request(load, judged, name):
    probs, labels, _ = judged
    logits = np.log(probs) + 3  # any constant
    given = load(name).compute(predictions=logits, references=labels, from_logits=True)
    whole = expected(*judged)
    assert given == pytest.approx({key: whole[key] for key in given}, rel=1e-6)


def test_settings_reach_the_functions(load, judged):
    probs, labels, p_value = judged
    tensors = torch.from_numpy(probs), torch.from_numpy(labels)
    binned = load("expected_calibration_error").compute(predictions=probs, references=labels, num_bins=5)
    assert binned["expected_calibration_error"] == uncertainty.expected_calibration_error(*tensors, num_bins=5)
    confidence, correct = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(int)
    selective = load("area_under_risk_coverage").compute(
        predictions=confidence, references=correct, risk=0.2, coverage=0.5
    )
    ranked = torch.from_numpy(confidence), torch.from_numpy(correct)
    assert selective["area_under_risk_coverage"] == uncertainty.area_under_risk_coverage(*ranked)
    assert selective["coverage_at_risk"] == uncertainty.coverage_at_risk(*ranked, risk=0.2)
    assert selective["risk_at_coverage"] == uncertainty.risk_at_coverage(*ranked, coverage=0.5)
    strict = load("pavpu").compute(
        predictions=probs, references=labels, p_value=p_value, threshold=0.01, test="paired", num_samples=20
    )
    counts = uncertainty.pavpu_from_p_value(torch.from_numpy(p_value), ranked[1], 0.01)
    assert strict["pavpu"] == counts.pavpu
    assert (strict["pavpu_threshold"], strict["pavpu_test"], strict["pavpu_num_samples"]) == (0.01, "paired", 20)


def test_pavpu_of_draws(load):
    draws = torch.randn(6, 40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # [S, B, C]
    draws[:, :2] = 0.5  # two images whose draws are all equal
    labels = torch.arange(40) % 3
    metric = load("pavpu", "draws")
    for rows in (slice(0, 15), slice(15, 40)):
        metric.add_batch(predictions=draws.transpose(0, 1)[rows].numpy(), references=labels[rows].numpy())
    results = metric.compute(test="welch", values="probabilities", threshold=0.2)
    counts = uncertainty.pavpu(draws, labels, 0.2, "welch", "probabilities")
    assert results["pavpu"] == counts.pavpu
    assert results["inaccurate_certain"] == counts.inaccurate_certain
    assert (results["pavpu_test"], results["pavpu_num_samples"], results["pavpu_num_zero_spread"]) == ("welch", 6, 2)


def test_ood_of_scores_and_of_probabilities(load, judged):
    score, is_out = judged[2], np.arange(120) % 3 == 0
    score_in, score_out = torch.from_numpy(score[~is_out]), torch.from_numpy(score[is_out])
    results = load("ood_auroc").compute(predictions=score, references=is_out.astype(int), positive="in")
    assert results == {
        "ood_auroc": uncertainty.ood_auroc(score_in, score_out),
        "ood_fpr95": uncertainty.ood_fpr95(score_in, score_out, "in"),
        "ood_aupr": uncertainty.ood_aupr(score_in, score_out, "in"),
    }
    probs = judged[0]
    by_probability = load("ood_auroc").compute(predictions=probs, references=is_out.astype(int))
    top = torch.from_numpy(1 - probs.max(axis=1))
    assert by_probability["ood_auroc"] == uncertainty.ood_auroc(top[torch.from_numpy(~is_out)], top[is_out])


def test_accuracy_of_classes(load):
    assert load("accuracy").compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0]) == {"accuracy": 0.75}


PROBS, LABELS = [[0.9, 0.1], [0.4, 0.6]], [0, 1]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("brier_score", {"predictions": [[2.0, -1.0], [0.4, 0.6]], "references": LABELS}, r"probs holds -1;"),
        ("brier_score", {"predictions": [[0.9, 0.9], [0.4, 0.6]], "references": LABELS}, r"sums to 1.8 in row 0"),
        (
            "area_under_risk_coverage",
            {"predictions": [[math.nan, 0.9], [0.4, 0.6]], "references": LABELS},
            r"1 values that are NaN",
        ),
        ("accuracy", {"predictions": PROBS, "references": [0, 2]}, r"labels holds 2; with C=2 classes"),
        ("brier_score", {"predictions": PROBS, "references": [0]}, r"Mismatch in the number of predictions \(2\)"),
        ("accuracy", {"predictions": [[0.9, 0.1], [1.0]], "references": LABELS}, r"predictions has 2 rows of diff"),
        ("ood_auroc", {"predictions": [0.1, 0.2], "references": [0, 0]}, r"references has shape \[2\] and holds \[0\]"),
        (
            "ood_auroc",
            {"predictions": [0.1, 0.2], "references": [0, 7]},
            r"holds \[0, 7\]; 0 \(in distribution\)",
        ),
        ("pavpu", {"predictions": PROBS, "references": LABELS}, r"inputs are missing: \['p_value'\]"),
        ("pavpu", {"predictions": PROBS, "references": LABELS, "p_value": [0.1, 3.0]}, r"p_value holds 3;"),
    ],
)
def test_bad_columns_are_named(load, name, columns, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(**columns)


def test_one_draw_is_named(load):
    with pytest.raises(ValueError, match=r"S=1 draws; a t-test needs at least 2"):
        load("pavpu", "draws").compute(predictions=[[[1.0, 0.0]]], references=[0])


def test_unknown_names_are_answered_with_the_known_ones(load):
    with pytest.raises(
        ValueError, match=r"metric 'ece' is unknown; metrics here are accuracy, area_under_risk_coverage,"
    ):
        bndl_hf.metrics.load("ece")
    with pytest.raises(ValueError, match=r"config_name='samples' is unknown; 'default' takes p-values"):
        load("pavpu", "samples")


def test_compute_metrics_of_a_trainer(tmp_path, load):
    combined = evaluate.combine([load(name) for name in [*PROBABILITY_METRICS, "pavpu"]])
    seen = []

    def compute_metrics(prediction: BNDLEvalPrediction) -> dict:
        seen.append(prediction)
        results = combined.compute(
            predictions=prediction.probs, references=prediction.label_ids, p_value=prediction.p_value
        )
        return {f"evaluate_{name}": value for name, value in results.items()}

    trainer = runs.make_trainer(tmp_path, eval_dataset=runs.images(30, wrong=7), compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    for ours, theirs in {
        "eval_accuracy": "accuracy",
        "eval_expected_calibration_error": "expected_calibration_error",
        "eval_brier_score": "brier_score",
        "eval_area_under_risk_coverage": "area_under_risk_coverage",
        "eval_pavpu": "pavpu",
    }.items():
        assert metrics[f"eval_evaluate_{theirs}"] == pytest.approx(metrics[ours], rel=1e-9), theirs
    np.testing.assert_allclose(seen[0].probs.sum(axis=-1), 1, rtol=1e-5)
    assert seen[0].predictions.shape == seen[0].probs.shape == (30, 3)


def in_one_of_two_processes(process_id, folder, columns, queue):
    metric = bndl_hf.metrics.load(
        "pavpu", num_process=2, process_id=process_id, experiment_id="ours", cache_dir=folder, timeout=60
    )
    metric.add_batch(**{name: values[process_id::2] for name, values in columns.items()})
    queue.put((process_id, metric.compute()))


def test_two_processes_share_one_result(tmp_path, judged):
    probs, labels, p_value = judged
    context = multiprocessing.get_context("fork")  # evaluate is imported here already
    queue = context.Queue()
    columns = {"predictions": probs, "references": labels, "p_value": p_value}
    processes = [
        context.Process(target=in_one_of_two_processes, args=(i, str(tmp_path), columns, queue)) for i in range(2)
    ]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=90) for _ in processes)
    for process in processes:
        process.join()
    assert_same(results[0], expected(*judged))
    assert results[1] is None


@pytest.mark.parametrize("name", bndl_hf.metrics.NAMES)
def test_a_folder_is_a_metric_space(name, load):
    folder = Path(bndl_hf.metrics.path(name))
    _, front, card = (folder / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["sdk"] == "gradio"
    assert {"evaluate", "metric"} <= set(matter["tags"])
    assert (folder / matter["app_file"]).is_file()
    pins = dict(line.split("==") for line in Path("constraints.txt").read_text().splitlines() if "==" in line)
    assert matter["sdk_version"] == pins["gradio"]
    assert (folder / "requirements.txt").read_text().split() == ["bndl-hf[metrics]"]
    metric = load(name)
    for key, value in metric.compute(**metric.example).items():
        assert f"`{key}`" in card or key in card, key  # the card explains every number
        assert value is None or isinstance(value, int | float | str)


def test_the_page_of_a_space_computes_and_answers_bad_input_with_a_sentence(load):
    from bndl_hf.metrics.columns import compute_from_json, example_json

    metric = load("brier_score")
    assert compute_from_json(metric, example_json(metric))["brier_score"] == pytest.approx(0.37)
    assert "probs holds -1" in compute_from_json(metric, '{"predictions": [[2, -1]], "references": [0]}')["error"]
    assert "JSON object of columns, not a list" in compute_from_json(metric, "[1, 2]")["error"]
    assert "Expecting" in compute_from_json(metric, "not JSON")["error"]


def test_the_page_is_a_gradio_interface():
    gradio = pytest.importorskip("gradio")
    from bndl_hf.metrics.columns import make_page

    page = make_page(bndl_hf.metrics.path("area_under_risk_coverage"))
    assert isinstance(page, gradio.Interface)
    answer = page.fn('{"predictions": [0.9, 0.8, 0.7, 0.6], "references": [1, 1, 0, 1]}')
    assert answer["area_under_risk_coverage"] == pytest.approx((1 / 3 + 1 / 4) / 4)

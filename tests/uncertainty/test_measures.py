"""The table of measures: its names are those of functions and results, its values read as a person writes them."""

import pytest
import torch

from bndl_hf import uncertainty
from bndl_hf.uncertainty import MEASURES, OOD_MEASURES, StreamingMetrics, find_measure, sampled_pavpu, summarize

PROBS, LABELS = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), torch.tensor([0, 1, 1])


def test_what_is_measured_has_an_entry_and_functions_the_name_of_theirs():
    streamed = StreamingMetrics()
    streamed.update(PROBS, LABELS)
    for found in (summarize(PROBS, LABELS, torch.tensor([0.0, 0.5, 0.1])), streamed.compute()):
        assert set(found) <= set(MEASURES)
        for name in set(found) - {"pavpu", "error_detection_auroc"}:
            value = getattr(uncertainty, name)
            assert callable(value), name
    assert all(callable(getattr(uncertainty, f"ood_{name}")) for name in OOD_MEASURES)


def test_sampled_pavpu_is_found_for_any_number_of_draws():
    measure = find_measure(sampled_pavpu(20))
    assert (sampled_pavpu(20), measure.label, measure.better) == ("pavpu_20_draws", "PAvPU, 20 draws", "larger")
    assert find_measure("train_seconds") is None


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("accuracy", 0.9123, "91.2 %"),
        ("negative_log_likelihood", 0.25184, "0.252"),
        ("expected_calibration_error", 0.00031, "3.1e-04"),
        ("expected_calibration_error", 0.0, "0.000"),
        ("error_detection_auroc", None, "-"),
    ],
)
def test_values_are_written_with_their_unit(name, value, written):
    assert MEASURES[name].write(value) == written


def test_the_description_says_which_direction_is_better_where_one_is():
    assert MEASURES["brier_score"].describe() == "squared error of the probabilities, 0 to 2; smaller is better"
    assert MEASURES["share_certain"].describe() == "share of images called certain by that test"

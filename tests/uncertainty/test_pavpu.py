"""PAvPU against naive t-tests, hand-made draws and the numbers of the authors' released head."""

import pytest
import torch
from scipy import stats

from bndl_hf.model.predictive import paired_p_value
from bndl_hf.uncertainty import PAvPUCounts, gap_test, pavpu, pavpu_from_p_value


def random_draws(num_samples=20, num_images=50, num_classes=4, seed=0):
    """Logits [S, B, C] in float64 whose classes are close enough to give p-values between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    mean = 0.3 * torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    return mean + torch.randn(num_samples, num_images, num_classes, generator=generator, dtype=torch.float64)


def pair_values(draws, pair):
    """The two columns of each image that the test compares, [S, B] each."""
    images = torch.arange(draws.shape[1])
    return draws[:, images, pair[:, 0]].numpy(), draws[:, images, pair[:, 1]].numpy()


@pytest.mark.parametrize("values", ["logits", "probabilities"])
def test_paired_p_values_are_those_the_exact_prediction_has_at_these_moments(values):
    draws = random_draws()
    outcome = gap_test(draws, test="paired", values=values)
    first, second = pair_values(draws if values == "logits" else draws.softmax(dim=-1), outcome.pair)
    gap_ratio = torch.from_numpy(first - second).mean(dim=0) / torch.from_numpy(first - second).std(dim=0)
    torch.testing.assert_close(outcome.p_value, paired_p_value(gap_ratio, 20), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("values", ["logits", "probabilities"])
def test_welch_p_values_are_those_of_its_formula(values):
    draws = random_draws() * torch.tensor([1.0, 3.0, 0.5, 2.0])  # unequal variances
    outcome = gap_test(draws, test="welch", values=values)
    first, second = pair_values(draws if values == "logits" else draws.softmax(dim=-1), outcome.pair)
    v, w = first.var(axis=0, ddof=1) / 20, second.var(axis=0, ddof=1) / 20
    t = (first.mean(axis=0) - second.mean(axis=0)) / (v + w) ** 0.5
    expected = 2 * stats.t.sf(abs(t), (v + w) ** 2 / (v**2 / 19 + w**2 / 19))
    torch.testing.assert_close(outcome.p_value, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)


def test_pair_has_the_highest_mean_softmax_not_the_highest_mean_logit():
    # Class 1 has the highest mean logit (3.33 > 3), but it is the top class in one draw of three only.
    draws = torch.tensor([[[3.0, 0.0, 2.0]], [[3.0, 0.0, 2.0]], [[3.0, 10.0, 2.0]]])
    assert gap_test(draws).pair.tolist() == [[0, 1]]


def test_equal_classes_are_paired_in_the_order_of_their_index():
    assert gap_test(torch.zeros(2, 3, 5)).pair.tolist() == [[0, 1]] * 3


def test_counts_and_pavpu_by_hand():
    # Gaps over 3 draws: image 0 and 1 always about 3 (certain), image 2 and 3 around 0 (uncertain).
    gap = torch.tensor([[3.0, 3.0, 0.2, 0.2], [2.5, 2.5, -0.1, -0.1], [3.2, 3.2, 0.1, 0.1]])
    draws = torch.stack([gap, torch.zeros_like(gap)], dim=-1)
    counts = pavpu(draws, torch.tensor([0, 1, 0, 1]))
    assert counts == PAvPUCounts(
        accurate_certain=1,
        accurate_uncertain=1,
        inaccurate_certain=1,
        inaccurate_uncertain=1,
        threshold=0.05,
        test="paired",
        values="logits",
        num_samples=3,
        num_zero_spread=0,
    )
    assert counts.pavpu == 0.5


def test_predicted_decides_what_counts_as_accurate():
    draws = random_draws()
    labels = torch.arange(50) % 4
    counts = pavpu(draws, labels, predicted=labels)
    assert counts.inaccurate_certain + counts.inaccurate_uncertain == 0
    assert counts.pavpu == counts.accurate_certain / 50


def test_gap_without_spread_is_certain_and_tie_without_spread_is_not():
    # .1 and .3 are not exact in binary: the computed variance of 20 equal gaps would be rounding noise.
    draws = torch.tensor([[0.3, 0.1], [0.1, 0.1]]).expand(20, 2, 2)
    for test in ("paired", "welch"):
        for values in ("logits", "probabilities"):
            outcome = gap_test(draws, test=test, values=values)
            assert outcome.p_value.tolist() == [0.0, 1.0]
            assert outcome.zero_spread.tolist() == [True, True]
    counts = pavpu(draws, torch.tensor([0, 0]))
    assert (counts.accurate_certain, counts.accurate_uncertain, counts.num_zero_spread) == (1, 1, 2)


def test_half_precision_and_strided_draws_are_accepted():
    draws = random_draws().bfloat16()
    labels = torch.arange(50) % 4
    strided = draws.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert pavpu(draws, labels) == pavpu(draws.double(), labels) == pavpu(strided, labels)


def test_counts_of_batches_add_up_to_those_of_the_whole():
    draws, labels = random_draws(), torch.arange(50) % 4
    assert pavpu(draws[:, :20], labels[:20]) + pavpu(draws[:, 20:], labels[20:]) == pavpu(draws, labels)


def test_counts_of_different_settings_do_not_add_up():
    draws, labels = random_draws(), torch.arange(50) % 4
    with pytest.raises(ValueError, match=r"'paired'.*'welch'.*do not add up"):
        pavpu(draws, labels) + pavpu(draws, labels, test="welch")


def test_more_draws_push_pavpu_to_accuracy():
    labels = torch.arange(50) % 4
    draws = random_draws(num_samples=4000)
    counts = pavpu(draws, labels)
    predicted = draws.softmax(dim=-1).mean(dim=0).argmax(dim=-1)
    # At S = 4000 a gap of 0.1 has t = .1 * sqrt(4000 / 2) = 4.5: all but near-ties are certain.
    assert abs(counts.pavpu - (predicted == labels).double().mean().item()) < 0.15
    assert counts.accurate_uncertain + counts.inaccurate_uncertain < 10


def test_p_values_from_elsewhere_give_the_same_counts():
    draws, labels = random_draws(), torch.arange(50) % 4
    outcome = gap_test(draws)
    counts = pavpu_from_p_value(outcome.p_value, outcome.pair[:, 0] == labels, threshold=0.1, num_samples=20)
    sampled = pavpu(draws, labels, threshold=0.1)
    assert counts.pavpu == sampled.pavpu
    assert (counts.test, counts.num_samples, counts.num_zero_spread) == ("exact", 20, None)


def test_p_value_at_the_threshold_is_uncertain():
    assert pavpu_from_p_value(torch.tensor([0.05], dtype=torch.float64), torch.tensor([True])).accurate_uncertain == 1


def test_released_head_is_reproduced(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "reference_head.safetensors")
    draws = golden["sampled_logits"].permute(2, 0, 1)  # [B, C, S] -> [S, B, C]
    # scipy ran on float32 there, S = 20: relative rounding of 1e-7 in the gap's mean and spread, both of order 1.
    torch.testing.assert_close(gap_test(draws).p_value.float(), golden["p_value"], rtol=1e-5, atol=1e-6)
    for threshold, percent in zip((0.01, 0.05, 0.1), golden["pavpu_percent"].tolist(), strict=True):
        counts = pavpu(draws, golden["labels"], threshold, predicted=golden["mean_logits"].argmax(dim=-1))
        assert 100 * counts.pavpu == pytest.approx(percent, rel=1e-6)  # float32 percentages of 24 images
        assert counts.num_zero_spread == 0

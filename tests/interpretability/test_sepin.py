"""SEPIN is what a naive loop makes of it: every loss anew, in float64, one pair of images at a time."""

import math
import re

import pytest
import torch

from bndl_hf.interpretability import sepin_at_k

N, K = 20, 6


def views(num_images=N, num_factors=K, noise=0.2, seed=0):
    """Two noisy views of sparse non-negative scores, some rows of which are zero altogether."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(num_images, num_factors, generator=generator) * 2
    clean *= torch.rand(num_images, num_factors, generator=generator) < 0.6

    def view():
        return clean + noise * clean * torch.rand(num_images, num_factors, generator=generator)

    return view(), view()


def cosine(x, y):
    norms = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(v * w for v, w in zip(x, y, strict=True)) / norms if norms else 0.0


def naive_loss(a, b, temperature):
    """Mean over both directions and all images of -log softmax over the other view's images."""
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(len(one)):
            logits = [cosine(one[i], other[j]) / temperature for j in range(len(one))]
            total += math.log(sum(math.exp(l) for l in logits)) - logits[i]
    return total / (2 * len(a))


def naive_sepin(view_a, view_b, order, batch_size, temperature):
    """Loss with all factors, and how much larger it is without each."""
    losses = [0.0] * (view_a.shape[1] + 1)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for rows in batches:
        a, b = view_a[rows].double().tolist(), view_b[rows].double().tolist()
        for left_out in range(len(losses)):  # the last leaves out none
            without = [[[v for k, v in enumerate(row) if k != left_out] for row in view] for view in (a, b)]
            losses[left_out] += naive_loss(*without, temperature) / len(batches)
    return losses[-1], [loss - losses[-1] for loss in losses[:-1]]


@pytest.mark.parametrize(("batch_size", "used"), [(7, 14), (10, 20), (256, 20)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_equals_a_naive_loop(batch_size, used, temperature):
    a, b = views()
    a[3] = 0.0  # an image that shows nothing
    a[5], b[5] = torch.eye(K)[2], torch.eye(K)[2] * 0.7  # and one that shows nothing without factor 2
    result = sepin_at_k(a, b, 2, temperature, batch_size, seed=4)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4))[:used]
    loss, expected = naive_sepin(a, b, order, min(batch_size, N), temperature)
    assert result.loss == pytest.approx(loss, abs=1e-12)
    assert result.per_factor.tolist() == pytest.approx(expected, abs=1e-12)
    for k in range(1, K + 1):
        assert result.at(k) == pytest.approx(sum(sorted(expected, reverse=True)[:k]) / k, abs=1e-12)
    assert result.score == result.at(2)
    settings = (result.k, result.temperature, result.batch_size, result.seed, result.num_images)
    assert settings == (2, temperature, min(batch_size, N), 4, used)


def test_a_factor_that_drowns_the_others_can_be_left_out():
    a, b = views(noise=1.0)
    a[:, 0], b[:, 0] = 1e4, 2e4
    loss, expected = naive_sepin(a, b, torch.arange(N), N, 0.1)
    result = sepin_at_k(a, b, 1)
    assert result.loss == pytest.approx(loss, abs=1e-8)
    assert result.per_factor.tolist() == pytest.approx(expected, abs=1e-6)


def test_what_another_factor_repeats_is_worth_less_than_what_is_known_by_one_alone():
    a, b = views(200, 8)
    doubled = [torch.cat([view, view[:, :4]], dim=1) for view in (a, b)]
    deltas = sepin_at_k(*doubled, 4).per_factor
    assert torch.equal(deltas[:4], deltas[8:])
    assert deltas[:4].max() < deltas[4:8].min()


def test_a_dead_factor_is_worth_exactly_nothing():
    a, b = views()
    a[:, 4], b[:, 4] = 0.0, 0.0
    assert sepin_at_k(a, b, 1).per_factor[4] == 0


def test_scores_without_anything_in_common_say_nothing():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(512, 4, generator=generator), torch.rand(512, 4, generator=generator)
    result = sepin_at_k(a, b, 4, temperature=1.0, batch_size=64)
    assert result.loss == pytest.approx(math.log(64), abs=0.1)
    assert abs(result.score) < 0.05


def test_scores_of_either_sign_and_any_dtype_are_compared():
    a, b = (view - 0.5 for view in views())
    expected = sepin_at_k(a.double(), b.double(), 3)
    torch.testing.assert_close(sepin_at_k(a, b, 3).per_factor, expected.per_factor)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": 0}, "k=0 must lie between 1 and the number of factors, 6."),
        ({"k": 7}, "k=7 must lie between 1 and"),
        ({"temperature": 0.0}, "temperature=0.0 must be above zero"),
        ({"batch_size": 1}, "batch_size=1: an image needs another"),
        ({"view_b": torch.rand(N, K + 1)}, "view_a has shape [20, 6], view_b [20, 7]; they must be two views"),
        ({"view_a": torch.rand(N)}, "view_a has shape [20]; [N, K], not empty, fits."),
        ({"view_a": torch.full((N, K), torch.nan)}, "view_a holds 120 values of 120 that are NaN or infinite"),
        ({"view_a": torch.rand(1, K), "view_b": torch.rand(1, K)}, "1 image: telling images apart needs 2 or more."),
        ({"view_a": torch.rand(0, K), "view_b": torch.rand(0, K)}, "view_a has shape [0, 6]"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    a, b = views()
    with pytest.raises(ValueError, match=re.escape(says)):
        sepin_at_k(**{"view_a": a, "view_b": b, "k": 2, **changes})


def test_another_k_is_checked_too():
    with pytest.raises(ValueError, match="k=9 must lie between"):
        sepin_at_k(*views(), 2).at(9)

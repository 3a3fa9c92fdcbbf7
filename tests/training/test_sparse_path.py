"""Sparse layers learned from a dense one: how sparse, what factors are, and the decision layer they make."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bndl_hf import BNDLConfig
from bndl_hf.training.sparse_path import MOST_OVER_SECOND, SparseFactors, layer_of, sparse_path

D, C, K = 8, 4, 12


def rows(count: int = 200, seed: int = 0) -> Tensor:
    """Features of spreads from 0.5 to 4, none of them centred."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, D, generator=generator).abs() * torch.linspace(0.5, 4, D)


def linear_teacher() -> Callable[[Tensor], Tensor]:
    weight = torch.randn(D, C, generator=torch.Generator().manual_seed(3)) / torch.linspace(0.5, 4, D)[:, None]
    return lambda features: (features @ weight).softmax(-1)


def path(weights: Sequence[int] = (6, 3), seed: int = 0, steps: int = 60, shared: bool = False) -> list[SparseFactors]:
    return list(sparse_path(linear_teacher(), rows(), K, weights, seed, shared, first_steps=steps, next_steps=steps))


def test_every_class_has_as_many_loadings_as_asked_for_and_fewer_at_every_step() -> None:
    first, second = path()
    for factors, most in ((first, 6), (second, 3)):
        assert factors.loadings.shape == (K, C)
        assert (factors.loadings >= 0).all()
        assert (factors.loadings > 0).sum(0).max() <= most
    assert ((second.loadings > 0) <= (first.loadings > 0)).all()  # what is pruned stays pruned


def test_no_factor_speaks_for_one_class_alone_where_they_are_shared() -> None:
    first, second = path()[1].loadings.topk(2, dim=1).values.T
    assert (first > MOST_OVER_SECOND * second).any()
    for factors in path(shared=True):
        has_zero = (factors.loadings == 0).any(dim=1)
        first, second = factors.loadings[has_zero].topk(2, dim=1).values.T
        assert (first <= MOST_OVER_SECOND * second + 1e-6).all()


def test_of_two_classes_a_factor_speaks_for_one() -> None:
    weight = torch.randn(D, 2, generator=torch.Generator().manual_seed(0))

    def teacher(features: Tensor) -> Tensor:
        return (features @ weight).softmax(-1)

    (factors,) = sparse_path(teacher, rows(), K, [4], shared=True, first_steps=200)
    assert (factors.loadings > 0).sum(0).tolist() == [4, 4]
    assert (factors.logits(rows(seed=1)).argmax(1) == teacher(rows(seed=1)).argmax(1)).float().mean() > 0.95


def test_a_path_answers_like_its_teacher_on_rows_it_has_not_seen() -> None:
    (factors,) = path([6], steps=600)
    new, teacher = rows(seed=1), linear_teacher()
    divergence = F.kl_div(factors.logits(new).log_softmax(-1), teacher(new), reduction="batchmean")
    entropy = torch.special.entr(teacher(new)).sum(1).mean()
    assert divergence < 0.02 * entropy


def test_a_seed_repeats_and_another_starts_elsewhere() -> None:
    one, again, other = (path([6], seed, steps=5)[0].projection for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("weights", [[3, 3], [3, 5], [2, 0]])
def test_a_path_that_does_not_fall_is_an_error(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="must fall, to no less than 1"):
        path(weights)


@pytest.mark.parametrize(
    "fields", [{}, {"normalize_features": False}, {"score_threshold": 0.5, "loading_threshold": 0.1}], ids=str
)
def test_the_layer_of_a_point_has_its_logits_and_its_zeros(fields: dict[str, Any]) -> None:
    factors = path()[1]
    layer = layer_of(BNDLConfig(preset="interpretable", feature_dim=D, num_labels=C, **fields), factors)
    new = rows(seed=1)
    assert layer.config.num_factors == K
    assert layer.config.loading_density == pytest.approx((factors.loadings > 0).float().mean().item())
    torch.testing.assert_close(layer.scores(new).mean, factors.scores(new), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(new).logits_mean, factors.logits(new), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(layer.factor_loadings, factors.loadings, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(new).logits.softmax(-1), factors.logits(new).softmax(-1), rtol=1e-2, atol=1e-3)


def test_a_configuration_of_other_scores_is_an_error() -> None:
    config = BNDLConfig(feature_dim=D, num_labels=C, projection="none", bias="none")
    with pytest.raises(ValueError, match="not made with projection='none', bias='none'; leave them out"):
        layer_of(config, path([6], steps=5)[0])

"""Covariances of variational last layers: each is the package's own."""

import pytest
import torch

from bndl_hf.baselines import VariationalLastLayer

pytest.importorskip("vbll")
from vbll.layers import DiscClassification


def clusters(count, seed=0):
    """Rows of three classes that overlap, [count, 4], and their labels."""
    labels = torch.arange(count) % 3
    return 1.5 * torch.eye(4)[labels] + torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), labels


@pytest.mark.parametrize("parameterization", ["dense", "diagonal", "lowrank"])
def test_variances_are_the_package_s_and_quadratic_forms_of_its_covariance(parameterization):
    head = VariationalLastLayer(*clusters(120), *clusters(90, seed=1), num_steps=40, parameterization=parameterization)
    features = clusters(10, seed=2)[0]
    own, package = head.layer.logit_predictive(features), DiscClassification.logit_predictive(head.layer, features)
    torch.testing.assert_close(own.mean, package.mean)
    torch.testing.assert_close(own.var, package.var)
    covariance = head.layer.W().covariance  # [C, D, D]
    is_diagonal = torch.allclose(covariance, torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1)))
    assert is_diagonal == (parameterization == "diagonal")
    for c in range(3):
        expected = torch.stack([x @ covariance[c] @ x for x in features]) + head.layer.noise().var[c]
        torch.testing.assert_close(own.var[:, c], expected)

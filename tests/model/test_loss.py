"""Weights and scaling of the loss terms (Eqs. 12-13)."""

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.model.loss import negative_elbo

TERMS = torch.tensor(2.0), torch.tensor(30.0), torch.tensor(500.0)  # nll, local and global KL


def config(**kwargs):
    weights = {"kl_local_weight": 0.1, "kl_global_weight": 0.2, "kl_global_scaling": "per_image"}
    return BNDLConfig(feature_dim=8, num_factors=4, projection="linear", num_labels=3, **{**weights, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "kl_scale", "expected"),
    [
        ({"num_training_images": 50}, 1.0, 2 + 0.1 * 30 + 0.2 * 500 / 50),
        ({"num_training_images": 50}, 0.5, 2 + 0.5 * (0.1 * 30 + 0.2 * 500 / 50)),
        ({"num_training_images": 50}, 0.0, 2.0),
        ({"kl_global_scaling": "per_factor", "num_training_images": 50}, 1.0, 2 + 0.1 * 30 + 0.2 * 500 / 4),
        ({}, 1.0, 2 + 0.1 * 30),  # N unknown: the loadings' KL is left out
        ({"kl_local_weight": 0.0, "kl_global_weight": 0.0, "num_training_images": 50}, 1.0, 2.0),
    ],
)
def test_each_term_has_its_weight_and_scaling(kwargs, kl_scale, expected):
    assert negative_elbo(*TERMS, config(**kwargs), kl_scale).item() == pytest.approx(expected)

"""The examples in the docstrings run and show what they say."""

import doctest
import importlib

import pytest

MODULES = [
    "abstention",
    "calibration",
    "conformal",
    "deciles",
    "measures",
    "ood",
    "ood_scores",
    "pavpu",
    "recalibration",
    "scores",
    "scoring",
    "selective",
    "streaming",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    # import_module and not getattr: `bndl_hf.uncertainty.pavpu` is the function once the package is imported.
    result = doctest.testmod(importlib.import_module(f"bndl_hf.uncertainty.{name}"))
    assert result.attempted > 0
    assert result.failed == 0

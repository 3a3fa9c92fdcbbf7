"""The examples in the docstrings that need no model run and show what they say."""

import doctest

import pytest
import torch

from bndl_hf.interpretability import factor_purity, identifiability_report, map_agreement


@pytest.mark.parametrize("function", [factor_purity, identifiability_report, map_agreement])
def test_docstring_examples(function):
    names = {"torch": torch, function.__name__: function}
    (example,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=names)
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 0
    assert result.failed == 0

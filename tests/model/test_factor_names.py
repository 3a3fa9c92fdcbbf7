"""Names of factors: checked, saved, followed when factors are numbered anew; and the label of one without a name."""

import pytest
import torch

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.interpretability import factor_names, prune
from model.tiny import tiny_model

LABELS = dict(enumerate(("cat", "dog", "owl", "fox", "bee")))


@pytest.fixture
def model():
    """Factor 0 feeds no class, 1 the class "owl" alone, 2 all five, the others "dog" and "cat"."""
    model = tiny_model("resnet", id2label=LABELS, projection="none", loading_threshold=0.0)
    loadings = torch.zeros_like(model.decision_layer.raw_loadings)
    loadings[3:, :2] = torch.tensor([1.0, 2.0])
    loadings[1, 2] = 0.5
    loadings[2] = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3])
    with torch.no_grad():
        model.decision_layer.raw_loadings.copy_(loadings)
    return model


def test_a_factor_without_a_name_is_called_by_its_three_strongest_classes(model):
    assert factor_names(model)[:4] == [
        "feeds no class",
        "feeds owl",
        "feeds dog, fox, bee +2 more",
        "feeds dog, cat",
    ]
    assert len(factor_names(model)) == model.config.num_factors
    assert factor_names(model, [3, 1]) == ["feeds dog, cat", "feeds owl"]
    assert factor_names(model.decision_layer, torch.tensor([1])) == ["feeds owl"]
    with pytest.raises(ValueError, match="Factor 30 is out of range; this model has 30 factors, 0 to 29"):
        factor_names(model, [30])


def test_names_are_said_first_and_travel_with_the_checkpoint(model, tmp_path):
    model.set_factor_names({3: " fins ", "1": "eyes"})
    assert model.config.factor_names == {"1": "eyes", "3": "fins"}
    model.save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(tmp_path)
    assert factor_names(loaded, [1, 2, 3]) == ["eyes", "feeds dog, fox, bee +2 more", "fins"]
    loaded.set_factor_names({})
    assert loaded.config.factor_names is None


def test_names_follow_factors_that_pruning_numbers_anew(model):
    model.set_factor_names({0: "nothing", 1: "eyes", 3: "fins"})
    smaller = prune(model)
    assert smaller.config.factor_names == smaller.decision_layer.config.factor_names == {"0": "eyes", "2": "fins"}
    assert factor_names(smaller)[:3] == ["eyes", "feeds dog, fox, bee +2 more", "fins"]
    assert model.config.factor_names == {"0": "nothing", "1": "eyes", "3": "fins"}


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["fins"], "must map factors to their names"),
        ({"fin": "fins"}, "names 'fin', which is not the number of a factor"),
        ({True: "fins"}, "names True, which is not"),
        ({-1: "fins"}, "names -1, which is not"),
        ({30: "fins"}, "factor 30; this model has 30 factors, 0 to 29"),
        ({0: "two\nlines"}, "a name is one line of text, 1 to 80 characters"),
        ({0: " "}, "a name is one line of text"),
        ({0: "x" * 81}, "a name is one line of text"),
        ({0: None}, "a name is one line of text"),
        ({0: "fins", "0": "eyes"}, "names factor 0 twice: 'fins' and 'eyes'"),
    ],
)
def test_what_is_not_a_name_is_refused_and_changes_nothing(model, names, says):
    model.set_factor_names({1: "eyes"})
    with pytest.raises(ValueError, match=says):
        model.set_factor_names(names)
    assert model.config.factor_names == {"1": "eyes"}
    with pytest.raises(ValueError, match=says):
        BNDLConfig(feature_dim=30, num_factors=30, num_labels=5, factor_names=names)


def test_a_decision_reads_as_a_sentence_that_adds_up(model):
    torch.manual_seed(0)
    features = torch.rand(2, 30)
    why = model.decision_layer.explain(features, target=2, top_k=2, against="runner_up")
    model.set_factor_names({1: "eyes"})
    sentences = why.describe(LABELS, factor_names(model))
    score = model.decision_layer.scores(features).mean
    assert sentences[0].startswith(f"owl {why.total[0]:.2f} = ")
    assert f"{0.5 * score[0, 1]:.2f} eyes (factor 1)" in sentences[0]
    assert sentences[0].endswith("bias")
    assert "owl over " in why.contrast.describe(LABELS)[1]
    assert "- " in why.contrast.describe(LABELS)[1]

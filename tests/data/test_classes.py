"""Classes of a model and of a dataset are matched by name; placeholders match by number, if there are as many."""

import pytest

from bndl_hf import BNDLConfig
from bndl_hf.data.classes import known_classes, load_images_to_judge
from bndl_hf.data.image_dataset import DataArguments


def config_of(**labels):
    return BNDLConfig(feature_dim=4, **labels)


def test_placeholders_are_not_names():
    assert known_classes(config_of(id2label={0: "cat", 1: "dog"})) == ["cat", "dog"]
    assert known_classes(config_of(num_labels=3)) is None


def test_labels_take_the_model_s_order_where_it_has_names_and_the_dataset_s_where_not():
    backwards = [str(9 - i) for i in range(10)]
    digits = load_images_to_judge(DataArguments("digits"), config_of(num_labels=10), "model")
    turned = load_images_to_judge(DataArguments("digits"), config_of(id2label=dict(enumerate(backwards))), "model")
    assert digits.label_names == backwards[::-1]
    assert turned.label_names == backwards
    assert turned.test["label"][:20] == [9 - label for label in digits.test["label"][:20]]


def test_classes_that_cannot_be_matched_are_refused():
    with pytest.raises(ValueError, match="model has 7 classes without names, split 'test' of digits has 10"):
        load_images_to_judge(DataArguments("digits"), config_of(num_labels=7), "model")
    with pytest.raises(ValueError, match="is not a known class; classes here: cat, dog"):
        load_images_to_judge(DataArguments("digits"), config_of(id2label={0: "cat", 1: "dog"}), "model")

"""Every head by name: trained, judged and predicting through the same interface."""

import pytest
import torch

from bndl_hf import BNDLTrainer, BNDLTrainingArguments
from bndl_hf.baselines import HEADS, make_head
from bndl_hf.training import fit_decision_layer
from bndl_hf.training.features import FeatureDataset, keep_batch

OTHERS = ["nmf", "nmf_gelu", "mc_dropout", "belief_matching", "belief_matching_0.003", "ensemble"]


def rows():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 3
    return torch.rand(200, 6, generator=generator) * 0.5 + torch.eye(6)[labels], labels


@pytest.mark.parametrize("name", OTHERS)
def test_a_head_of_others_has_a_citation_and_learns(name):
    assert HEADS[name].citation.startswith("@")
    features, labels = rows()
    torch.manual_seed(0)
    layer, recipe = make_head(name, 6, 3)
    recipe |= {"num_train_epochs": 40, "decision_layer_learning_rate": 0.02, "disable_tqdm": True}
    layer = fit_decision_layer(features, labels, layer.config, layer=layer, **recipe)
    for method in ("exact", "monte_carlo"):
        prediction = layer.predict(features, method, generator=torch.Generator().manual_seed(0))
        # Half of NMF's weights are dead from the start.
        assert (prediction.predicted_labels == labels).float().mean() > (0.6 if name == "nmf" else 0.9)
        torch.testing.assert_close(prediction.probs.sum(-1), torch.ones(200))
        torch.testing.assert_close(prediction.total, prediction.aleatoric + prediction.epistemic)
        assert ((prediction.p_value >= 0) & (prediction.p_value <= 1)).all()
        assert (prediction.logits_samples is None) == (method == "exact")


@pytest.mark.parametrize("name", ["belief_matching", "ensemble"])
def test_the_trainer_logs_terms_that_add_up_and_weighs_classes(name, tmp_path):
    features, labels = rows()
    layer, _ = make_head(name, 6, 3)
    arguments = BNDLTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        logging_steps=1,
        class_weights=[1.0, 2.0, 3.0],
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    dataset = FeatureDataset(features, labels)
    trainer = BNDLTrainer(model=layer, args=arguments, train_dataset=dataset, data_collator=keep_batch)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in logged:
        assert entry["likelihood_loss"] + entry["kl_scores"] + entry["kl_loadings"] == pytest.approx(entry["loss"])
        assert entry["likelihood_loss"] != entry["nll"]
    assert (logged[0]["kl_scores"] > 0) == (name == "belief_matching")

"""The Trainer's own push: the model and what belongs to it, and nothing else of the output folder."""

import json
import logging
import re

import pytest
import torch

from bndl_hf.hub import HubError, pull_from_hub

from .runs import classifier, images, make_trainer

REPO = "alice/vit-bndl"
PIXEL_VALUES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def publishing_trainer(tmp_path, **values):
    # The secrets a TrainingArguments may hold are not for the world.
    return make_trainer(
        tmp_path / "run", push_to_hub=True, hub_model_id=REPO, hub_token="hf_alice", max_steps=4, **values
    )


def commits(api):
    return [commit.title for commit in api.list_repo_commits(REPO)]


def test_a_trained_model_is_published_whole_with_its_evaluation_and_without_the_run_s_files(hub, api, tmp_path):
    trainer = publishing_trainer(tmp_path, eval_dataset=images(8, seed=1), eval_strategy="steps", eval_steps=4)
    trainer.train()
    commit = trainer.push_to_hub(base_model="google/vit-base", dataset_name="uoft-cs/cifar10")
    assert commits(api)[0] == "End of training"
    assert commit.oid == api.model_info(REPO).sha
    files = hub.files(REPO)
    assert "training_args.bin" not in files
    assert not [name for name in files if name.startswith(("checkpoint-", "runs/"))]
    card = files["README.md"].decode()
    assert "base_model: google/vit-base" in card
    assert re.search(r"^\| Steps \| 4 of \d+ images \|$", card, flags=re.M)
    assert ".eval_results/uoft-cs--cifar10.yaml" in files
    for content in files.values():
        assert str(tmp_path).encode() not in content
        assert b"hf_alice" not in content
    pulled = pull_from_hub(REPO, cache_dir=tmp_path / "cache")
    expected = trainer.model.eval().predict(PIXEL_VALUES).probs
    assert torch.equal(pulled.model.predict(PIXEL_VALUES).probs, expected)
    evaluation = next(entry for entry in reversed(trainer.state.log_history) if "eval_accuracy" in entry)
    assert pulled.results["accuracy"] == evaluation["eval_accuracy"]


def test_nothing_is_published_before_the_end_where_that_was_asked(hub, api, tmp_path):
    trainer = publishing_trainer(tmp_path, hub_strategy="end", save_strategy="steps", save_steps=2)
    trainer.train()
    assert commits(api) == ["initial commit"]


def test_every_save_publishes_the_model_as_it_stands(hub, api, tmp_path):
    trainer = publishing_trainer(tmp_path, hub_strategy="every_save", save_strategy="steps", save_steps=2)
    trainer.train()
    assert commits(api) == ["Training in progress, step 4", "Training in progress, step 2", "initial commit"]
    assert "training_args.bin" not in hub.files(REPO)


def test_a_hub_in_trouble_does_not_end_a_training(hub, api, tmp_path, no_waiting, caplog):
    trainer = publishing_trainer(tmp_path, hub_strategy="every_save", save_strategy="steps", save_steps=2)
    hub.fail(403, path_contains="/preupload/")
    with caplog.at_level(logging.WARNING, logger="bndl_hf"):
        trainer.train()
    assert "use a token with write access" in caplog.text
    assert "Training goes on" in caplog.text
    assert commits(api) == ["Training in progress, step 4", "initial commit"]
    hub.fail(500, path_contains="/commit/", times=100)
    with torch.no_grad():
        trainer.model.decision_layer.raw_loadings.mul_(2)
    with pytest.raises(HubError, match="the Hub has trouble of its own"):
        trainer.push_to_hub()


def test_a_token_that_is_not_accepted_is_said_before_anything_is_trained(hub, tmp_path):
    hub.fail(401, path_contains="/api/repos/create")
    with pytest.raises(
        HubError, match="Making alice/vit-bndl failed: the Hub does not accept the access token; log in"
    ):
        publishing_trainer(tmp_path)
    assert hub.store.repos == {}


def test_in_the_background(hub, api, tmp_path):
    trainer = publishing_trainer(tmp_path)
    trainer.train()
    job = trainer.push_to_hub("Later", blocking=False)
    assert job.result().oid == api.model_info(REPO).sha
    assert commits(api)[0] == "Later"


def test_a_branch_and_a_private_repository(hub, api, tmp_path):
    trainer = publishing_trainer(tmp_path, hub_revision="trial", hub_private_repo=True)
    trainer.train()
    trainer.push_to_hub()
    assert api.model_info(REPO).private
    assert "model.safetensors" not in hub.files(REPO)
    assert "model.safetensors" in hub.files(REPO, "trial")


def test_a_name_of_its_own_when_nobody_gave_one(hub, tmp_path):
    trainer = make_trainer(tmp_path / "digits", classifier(), max_steps=1)
    trainer.train()
    trainer.push_to_hub()
    assert json.loads(hub.files("alice/digits")["config.json"])["model_type"] == "bndl"


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategies_that_would_publish_training_args_are_refused(tmp_path, strategy):
    with pytest.raises(ValueError, match=r"training_args\.bin"):
        publishing_trainer(tmp_path, hub_strategy=strategy)

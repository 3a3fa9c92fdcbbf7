"""finetune.py and evaluate.py as a user runs them: from scratch, from a classifier, again after an interruption."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.interpretability import load_factor_thumbnails
from bndl_hf.training.arguments import MIN_STEPS
from jobs import JobServer
from script_modules import TINY_RESNET, load_script

SCRIPTS = Path(__file__).parents[2] / "scripts"
finetune, evaluate = load_script("finetune"), load_script("evaluate")
COMMON = ["--dataset_name", "digits", "--use_cpu", "--disable_tqdm", "True", "--seed", "0", "--decision_fraction", "0"]


def from_scratch(output_dir: Path, *more: str) -> dict:
    overrides = json.dumps(TINY_RESNET)
    argv = ["--model_type", "resnet", "--config_overrides", overrides, "--image_size", "32", *COMMON]
    saving = ["--output_dir", str(output_dir), "--save_strategy", "steps", "--save_steps", "4"]
    return finetune.main([*argv, *saving, "--augmentation", "none", *more])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers classifier with its processor, as if from the Hub."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=7)).save_pretrained(folder)
    make_image_processor(16).save_pretrained(folder)
    return folder


def test_a_run_from_scratch_leaves_model_processor_results_and_card(tmp_path: Path) -> None:
    results = from_scratch(tmp_path, "--max_steps", "8")
    assert results == {**results, **json.loads((tmp_path / "results.json").read_text())}
    for name in ("accuracy", "nll", "brier_score", "pavpu_20_draws", "sparsity", "train_seconds", "evaluated_on"):
        assert name in results
    assert results["evaluated_on"] == "split 'test' of digits"
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.id2label[9] == "9"
    assert (model.config.projection, results["sparsity"]) == ("none", pytest.approx(0.3, abs=0.01))
    assert (tmp_path / "preprocessor_config.json").exists()
    assert f"{results['accuracy']:.4g}"[:4] in (tmp_path / "README.md").read_text()


def test_verdicts_are_fitted_on_images_that_are_not_trained_on_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    deciding = ["--decision_fraction", "0.3", "--decision_risk", "0.3", "--ood_datasets", "more=digits"]
    results = from_scratch(tmp_path, "--max_steps", "20", *deciding, "--max_eval_samples", "60")
    said = capsys.readouterr().out
    assert "431 decision images" in said
    verdicts = results["verdicts"]
    assert verdicts["risk"] == 0.3
    assert verdicts["num_images"] == 60
    assert verdicts["share_sure"] + verdicts["share_torn"] + verdicts["share_unfamiliar"] == pytest.approx(1)
    assert verdicts["num_outsiders"] == {"more": 60}
    assert verdicts["familiarity_auroc"]["more"] == pytest.approx(0.5, abs=0.15)  # other images of the same kind
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.verdict["num_held_out"] == 431
    assert "Of 60 images " in said
    assert "Of 60 images of more " in said
    with pytest.raises(ValueError, match=r"--decision_risk 2.0 is no share of errors in \(0, 1\)"):
        from_scratch(tmp_path / "bad", "--decision_risk", "2")


def test_the_same_command_goes_on_from_the_last_checkpoint_and_ends_the_same(tmp_path: Path) -> None:
    # Schedules that follow the share of the steps would tell four steps from half of eight.
    steady = ("--lr_scheduler_type", "constant", "--loading_density", "1")
    whole = from_scratch(tmp_path / "whole", "--max_steps", "8", *steady)
    from_scratch(tmp_path / "parts", "--max_steps", "4", *steady)
    resumed = from_scratch(tmp_path / "parts", "--max_steps", "8", *steady)
    assert resumed["negative_log_likelihood"] == whole["negative_log_likelihood"]


def test_a_model_trained_whole_gets_the_temperature_of_its_validation_images(tmp_path: Path) -> None:
    argv = [
        "--max_steps",
        "4",
        "--max_train_samples",
        "200",
        "--max_eval_samples",
        "50",
        "--validation_fraction",
        "0.2",
    ]
    fitted = from_scratch(tmp_path / "fitted", *argv)
    plain = from_scratch(tmp_path / "plain", *argv, "--no_fit_temperature")
    assert plain["temperature"] is None
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "plain").config.temperature == 1
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "fitted")
    assert saved.config.temperature == fitted["temperature"] != 1
    assert fitted["accuracy"] == plain["accuracy"]
    assert fitted["negative_log_likelihood"] != plain["negative_log_likelihood"]


def test_a_pretrained_backbone_that_is_trained_has_no_projection_after_it(tmp_path: Path, classifier: Path) -> None:
    few = ["--max_train_samples", "40", "--max_eval_samples", "20", "--max_steps", "2", "--augmentation", "none"]
    argv = ["--model_name_or_path", str(classifier), *COMMON, *few, "--output_dir"]
    for name, more, projection in (
        ("trained", [], "none"),
        ("frozen", ["--freeze_backbone"], "linear"),
        ("said", ["--projection", "linear"], "linear"),
    ):
        finetune.main([*argv, str(tmp_path / name), *more])
        assert AutoModelForImageClassification.from_pretrained(tmp_path / name).config.projection == projection, name


def test_evaluate_finds_what_finetune_wrote(tmp_path: Path) -> None:
    results = from_scratch(tmp_path, "--max_steps", "4")
    output = tmp_path / "judged"
    argv = ["--model_name_or_path", str(tmp_path), "--dataset_name", "digits", "--output_dir", str(output), "--use_cpu"]
    judged = evaluate.main([*argv, "--no_figures", "--num_samples", "0"])
    assert json.loads((output / "results.json").read_text())["num_images"] == 359
    for name in ("accuracy", "negative_log_likelihood", "expected_calibration_error", "pavpu"):
        assert judged[name] == pytest.approx(results[name], abs=1e-6)


def test_a_frozen_backbone_with_cached_features_is_left_as_it_was(tmp_path: Path, classifier: Path) -> None:
    argv = ["--model_name_or_path", str(classifier), *COMMON, "--freeze_backbone", "--cache_features"]
    argv += ["--tune_head", "false", "--num_train_epochs", "1", "--output_dir", str(tmp_path)]
    assert finetune.main(argv)["tuning"] is None
    before = ResNetForImageClassification.from_pretrained(classifier).resnet.state_dict()
    after = AutoModelForImageClassification.from_pretrained(tmp_path).backbone.resnet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "features").is_dir()


def test_views_are_cached_and_need_an_augmentation(tmp_path: Path, classifier: Path) -> None:
    argv = ["--model_name_or_path", str(classifier), *COMMON, "--max_train_samples", "40", "--max_eval_samples", "20"]
    argv += ["--cache_features", "--feature_views", "3", "--max_steps", "2", "--tune_head", "false"]
    argv += ["--output_dir", str(tmp_path)]
    finetune.main(argv)
    assert len(list((tmp_path / "features").iterdir())) == 3, "the plain images and two views, of the digits shifted"
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_training_images == 40
    with pytest.raises(ValueError, match="feature_views=3 keeps several views of each image, but the train dataset"):
        finetune.main([*argv, "--augmentation", "none", "--restart"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "Pass either --model_name_or_path"),
        (["--model_type", "resnett"], "--model_type resnett is unknown"),
        (["--model_type", "resnet", "--config_overrides", "hidden_size=3"], "is not JSON"),
        (["--model_type", "resnet", "--config_overrides", '{"hiden_sizes": [1]}'], "ResNetConfig has no hiden_sizes"),
        (["--model_type", "resnet", "--projection", "cubic"], "projection='cubic' is unknown"),
        (["--model_type", "bert"], "has no image classifier"),
    ],
)
def test_a_wrong_command_line_is_answered_with_a_sentence(argv: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        finetune.main([*argv, *COMMON, "--output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_bndl_checkpoint_with_other_classes_is_refused(tmp_path: Path, classifier: Path) -> None:
    argv = ["--model_name_or_path", str(classifier), *COMMON, "--freeze_backbone", "--cache_features"]
    with pytest.raises(ValueError, match="warm_start starts from a head of 7 classes, but num_labels=10"):
        finetune.main([*argv, "--warm_start", "--output_dir", str(tmp_path)])


def test_a_bndl_checkpoint_keeps_its_classes_in_their_order(tmp_path: Path) -> None:
    from_scratch(tmp_path / "first", "--max_steps", "1")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "first")
    names = [str(9 - i) for i in range(10)]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(tmp_path / "reversed")
    make_image_processor(32).save_pretrained(tmp_path / "reversed")
    argv = ["--model_name_or_path", str(tmp_path / "reversed"), *COMMON, "--learning_rate", "0", "--max_steps", "1"]
    # Frozen: a step at learning rate 0 still moves the running statistics of a ResNet.
    still = ["--decision_layer_learning_rate", "0", "--freeze_backbone", "--augmentation", "none"]
    results = finetune.main([*argv, *still, "--output_dir", str(tmp_path / "second")])
    argv = ["--model_name_or_path", str(tmp_path / "reversed"), "--dataset_name", "digits", "--use_cpu"]
    judged = evaluate.main([*argv, "--output_dir", str(tmp_path / "judged"), "--no_figures"])
    assert results["accuracy"] == judged["accuracy"]


def test_with_cached_features_the_decision_layer_is_chosen_on_held_out_images(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model_name_or_path", str(classifier), *COMMON, "--freeze_backbone", "--cache_features"]
    argv += ["--max_train_samples", "200", "--validation_fraction", "0.3", "--num_train_epochs", "1"]
    results = finetune.main([*argv, "--output_dir", str(tmp_path)])
    tuning = results["tuning"]
    assert [candidate["name"] for candidate in tuning["candidates"]] == ["logistic regression", "trained", "both"]
    (best,) = (candidate for candidate in tuning["candidates"] if candidate["name"] == tuning["chosen"])
    assert (tuning["chosen"], tuning["temperature"]) == (best["name"], best["temperature"])
    assert tuning["num_held_out"] > 0 == tuning["num_folds"]
    assert f"log-likelihood on {tuning['num_held_out']} held-out images\n" in capsys.readouterr().out
    card = (tmp_path / "README.md").read_text()
    assert f"{tuning['num_held_out']} held-out images" in card
    assert f"| Temperature | {tuning['temperature']:.3g}, from held-out images |" in card
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.temperature == tuning["temperature"]
    again = finetune.main([*argv, "--output_dir", str(tmp_path)])
    same = ("tuning", "accuracy", "negative_log_likelihood")
    assert {name: again[name] for name in same} == {name: results[name] for name in same}
    assert again["train_seconds"] is None, "it was searched again"
    with pytest.raises(ValueError, match="holds a tuned decision layer, which is not trained on"):
        finetune.main([*argv, "--output_dir", str(tmp_path), "--tune_head", "false"])


def test_the_flags_of_a_search_belong_to_cached_features(tmp_path: Path) -> None:
    argv = ["--model_type", "resnet", *COMMON, "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="tune_head=True searches on features that do not change; pass"):
        finetune.main([*argv, "--tune_head"])
    cached = [*argv, "--freeze_backbone", "--cache_features"]
    assert finetune.parse(cached)[2].tune_min_steps == MIN_STEPS
    for flags, value in (
        ([], None),
        (["--tune_head"], True),
        (["--tune_head", "no"], False),
        (["--no_tune_head"], False),
    ):
        assert finetune.parse([*cached, *flags])[2].tune_head is value
    assert finetune.parse([*cached, "--num_train_epochs=3"])[2].tune_min_steps == 0


def test_head_only_checkpoints_are_not_taken_for_whole_models(
    tmp_path: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model_name_or_path", str(classifier), *COMMON, "--freeze_backbone", "--output_dir", str(tmp_path)]
    few = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "2", "--class_weights", "balanced"]
    assert finetune.main([*argv, "--cache_features", *few])["tuning"] is None
    assert "is trained, not tuned (--tune_head), because class_weights='balanced'." in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds a decision layer alone, which end-to-end training cannot go on from"):
        finetune.main([*argv, "--max_steps", "4"])


def test_an_unreadable_image_is_named_even_by_a_worker(tmp_path: Path, jobs: JobServer) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / label / "good.png")
    (tmp_path / "images" / "cat" / "bad.jpg").write_bytes(b"no image")
    argv = ["--model_type", "resnet", "--config_overrides", json.dumps(TINY_RESNET), "--image_size", "32", "--use_cpu"]
    more = ["--dataset_name", str(tmp_path / "images"), "--output_dir", str(tmp_path / "out")]
    result = jobs.start_script(SCRIPTS / "finetune.py", *argv, *more, "--dataloader_num_workers", "1")
    assert result.wait() == 1
    assert "bad.jpg" in result.log.strip().splitlines()[-1]
    assert "--skip_bad_images" in result.log.strip().splitlines()[-1]


def test_early_stopping_keeps_the_best_model_and_weighs_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model_type", "resnet", "--config_overrides", json.dumps(TINY_RESNET), "--image_size", "32", *COMMON]
    choosing = ["--validation_fraction", "0.3", "--early_stopping_patience", "1", "--class_weights", "balanced"]
    # Better is impossible, so the second evaluation is the last and the first model is kept.
    never_better = ["--metric_for_best_model", "sparsity", "--learning_rate", "0", "--loading_density", "1"]
    still = ["--decision_layer_learning_rate", "0", "--augmentation", "none", "--num_train_epochs", "9"]
    few = ["--max_train_samples", "200", "--output_dir", str(tmp_path)]
    results = finetune.main([*argv, *choosing, *never_better, *still, *few])
    last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    state = json.loads((last / "trainer_state.json").read_text())
    assert state["epoch"] == 2.0
    assert state["best_global_step"] == state["global_step"] // 2
    assert results["evaluated_on"] == "split 'test' of digits"
    printed = capsys.readouterr()
    assert "training images of 10 classes: 0 " in printed.out
    assert "validation images, 359 test images)" in printed.out
    assert "early stopping" not in printed.err, "the test images decide nothing"
    again = finetune.main([*argv, *choosing, *never_better, *still, *few])
    assert not (tmp_path / f"checkpoint-{state['global_step'] // 2 * 3}").exists(), "a third epoch was trained"
    assert (again["accuracy"], again["train_loss"]) == (results["accuracy"], None)


def test_a_run_without_test_images_says_what_it_was_judged_on_and_names_a_missing_class_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/owl"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (len(name) * 9, i * 20, 0)).save(tmp_path / "images" / name / f"{i}.png")
    argv = ["--model_type", "resnet", "--config_overrides", json.dumps(TINY_RESNET), "--image_size", "32", "--use_cpu"]
    argv += ["--disable_tqdm", "True", "--max_steps", "2", "--augmentation", "none", "--save_strategy", "no"]
    finetune.main([*argv, "--dataset_name", str(tmp_path / "images"), "--output_dir", str(tmp_path / "one")])
    assert caplog.text.count("'owl'") + caplog.text.count("owl.") == 1
    held_out = ["--dataset_name", str(tmp_path / "images/train"), "--validation_fraction", "0.25"]
    results = finetune.main([*argv, *held_out, "--output_dir", str(tmp_path / "two"), "--save_steps", "2"])
    assert results["evaluated_on"] == "2 validation images held out of split 'train' of train"
    assert "On 2 validation images held out of split 'train'" in capsys.readouterr().out
    assert "Measured on the validation split of" in (tmp_path / "two" / "README.md").read_text()


def test_the_best_model_needs_no_flag_beside_the_one_that_asks_for_it() -> None:
    argv = ["--model_type", "resnet", *COMMON, "--validation_fraction", "0.2"]
    for more, strategy, steps in (
        (["--load_best_model_at_end"], "epoch", None),
        (["--load_best_model_at_end", "True", "--save_strategy", "steps", "--save_steps", "40"], "steps", 40),
        (["--early_stopping_patience=3"], "epoch", None),
    ):
        arguments = finetune.parse([*argv, *more])[2]
        assert arguments.load_best_model_at_end
        assert (arguments.eval_strategy, arguments.eval_steps) == (strategy, steps)
        assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("loss", False)
    arguments = finetune.parse([*argv, "--eval_strategy", "steps", "--eval_steps", "7"])[2]
    assert (arguments.eval_strategy, arguments.eval_steps, arguments.load_best_model_at_end) == ("steps", 7, False)
    assert finetune.parse(["--model_type", "resnet", *COMMON])[2].eval_strategy == "no"


def test_choosing_without_validation_images_is_answered_with_a_sentence(tmp_path: Path) -> None:
    argv = ["--model_type", "resnet", *COMMON, "--early_stopping_patience", "3", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=r"digits has no validation images, .* pass --validation_fraction 0\.1 to"):
        finetune.main(argv)
    with pytest.raises(ValueError, match="--early_stopping_patience 0 would stop before it starts; pass 1 or more"):
        finetune.main([*argv, "--early_stopping_patience", "0"])


def test_thumbnails_of_training_images_are_kept_only_where_it_is_asked_for(tmp_path: Path) -> None:
    from_scratch(tmp_path, "--max_steps", "1")
    assert not (tmp_path / "factor_thumbnails").exists()
    from_scratch(tmp_path, "--max_steps", "1", "--restart", "--publish_thumbnails", "--max_train_samples", "30")
    thumbnails = load_factor_thumbnails(tmp_path)
    assert thumbnails is not None
    assert {image.size for k in thumbnails.factors for image in thumbnails.images(k)} == {(64, 64)}
    assert 1 <= len(thumbnails) <= thumbnails.num_factors


def test_a_token_is_not_written_into_the_results(tmp_path: Path) -> None:
    results = from_scratch(tmp_path, "--max_steps", "1", "--hub_token", "hf_secret")
    assert "hf_secret" not in (tmp_path / "results.json").read_text()
    assert "--max_steps 1" in results["command"]

"""images.py: recipes with every key checked, systems on one start, interrupted trainings that go on, merged results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from script_modules import load_script

images = load_script("benchmarks/images")
judging, training = __import__("image_judging"), __import__("image_training")
Recipe = images.Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as CIFAR-10 is laid out: parquet files of 32-pixel images, three classes told apart by their colour."""
    folder = tmp_path_factory.mktemp("small_cifar")
    generator = np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog", "frog"])})
    for split, n in (("train", 96), ("test", 30)):
        labels = np.arange(n) % 3
        pixels = generator.integers(0, 120, size=(n, 32, 32, 3))
        pixels[np.arange(n), :, :, labels] += 100
        rows = {"img": list(pixels.astype(np.uint8)), "label": labels.tolist()}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


TINY = {"width": 1 / 16, "depths": [1, 1], "batch_size": 16, "compile": "none"}


def networks(folder: Path, work: Path, task: type = training.ImageTask, **changes: object) -> object:
    recipe = Recipe.read("paper", **TINY, hold_out=6, epochs=4, **changes)
    return training.Networks(
        recipe, task(recipe, training.DataArguments(str(folder)), [], work / "images"), work, quiet=True
    )


def test_every_system_runs_by_the_paper_s_recipe_and_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_TIMINGS", 1)  # of an answer's cost, whose median is of 15
    output = tmp_path / "out.json"
    argv = ["--recipe", "paper", "--max_steps", "3", "--width", "0.0625", "--compile", "none", "--quiet"]
    argv += ["--change", '{"batch_size": 16, "depths": [1, 1]}', "--dataset_name", str(folder)]
    argv += ["--ood_datasets", f"same={folder}", "--output", str(output)]
    images.main(argv)
    found = json.loads(output.read_text())
    assert found["settings"]["recipe"]["learning_rate"] == 0.1
    runs = {one["system"]: one for one in found["runs"]}
    assert list(runs) == list(images.SYSTEMS)
    assert len(runs["ensemble"]["training"]) == 3
    for system, one in runs.items():
        assert [kept["steps"] for kept in one["training"]] == [3] * len(one["training"])
        assert one["tempered"]["images"] == 15, "half of the test images: none are held out"
        assert one["ood"]["entropy"]["same"] == pytest.approx(0.5), "the same images are not out of distribution"
        assert set(one["cost"]) == (
            {"draws"}
            if system in ("ensemble", "mc_dropout")
            else {"exact"} | (set() if system == "plain" else {"draws"})
        )
    assert runs["plain"]["pavpu_20_draws"] == pytest.approx(runs["plain"]["accuracy"]), "no draw differs"
    images.main(argv)
    assert json.loads(output.read_text())["runs"] == found["runs"], "nothing was trained again"


def test_all_systems_start_from_the_same_backbone() -> None:
    recipe = Recipe.read("paper", **TINY)
    start = training.build("plain", recipe, 3, seed=1).state_dict()
    assert not torch.equal(start["classifier.1.weight"], training.build("plain", recipe, 3, 2).classifier[1].weight)
    for system in set(training.TRAINED) - {"plain"}:
        weights = training.build(system, recipe, 3, seed=1).state_dict()
        for name, value in start.items():
            if not name.startswith("classifier"):
                kept = weights[name if name in weights else f"backbone.{name}"]
                assert torch.equal(kept, value), (system, name)


class Interrupted(Exception):
    """What a machine that goes away looks like."""


class StopsInThirdEpoch(training.ImagesInMemory):
    def set_epoch(self, epoch: int) -> None:
        if epoch == 2:
            raise Interrupted
        super().set_epoch(epoch)


class StoppingTask(training.ImageTask):
    def in_memory(self, part: str, device: str, **more: object) -> training.ImagesInMemory:
        return StopsInThirdEpoch(self.parts[part][0], self.parts[part][1], *self.statistics, **more)


@pytest.mark.parametrize("system", ["plain", "nmf", "bndl"])
def test_a_training_that_was_interrupted_ends_where_it_would_have(folder: Path, tmp_path: Path, system: str) -> None:
    whole, _ = networks(folder, tmp_path / "whole").get(system, 0)
    with pytest.raises(Interrupted):
        networks(folder, tmp_path / "parts", StoppingTask).get(system, 0)
    resumed, kept = networks(folder, tmp_path / "parts").get(system, 0)
    assert kept["resumed_from_step"] == 10
    assert kept["steps"] == 20
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_another_recipe_in_the_same_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    networks(folder, tmp_path)._claim(tmp_path / "plain-seed0", "plain", 0)
    with pytest.raises(ValueError, match="holds a training of another recipe or other steps; pass another --work_dir"):
        networks(folder, tmp_path, learning_rate=0.05)._claim(tmp_path / "plain-seed0", "plain", 0)


@pytest.mark.parametrize("name", ["paper", "released", "best", "cpu"])
def test_named_recipes_are_whole(name: str) -> None:
    assert Recipe.read(name).about


def test_the_paper_s_schedule_and_a_cosine() -> None:
    paper = Recipe.read("paper")
    assert [paper.rate_factor(e) for e in (0, 49.99, 50, 100, 149)] == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    best = Recipe.read("best")
    middle = best.warmup_epochs + (best.epochs - best.warmup_epochs) / 2
    assert [best.rate_factor(e) for e in (0, 2.5, 5, middle, 150)] == pytest.approx([0, 0.5, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "paper.yaml: learning_rat unknown; a recipe has about, augmentation"),
        ({"epochs": "many"}, "paper.yaml: epochs='many' is not of the kind float"),
        ({"nesterov": 1}, "nesterov=1 is not of the kind bool"),
        ({"schedule": "linear"}, "schedule='linear' is unknown; choose one of step, cosine, constant"),
        ({"batch_size": 0}, "batch_size=0 must be above zero"),
    ],
)
def test_a_recipe_s_keys_and_values_are_checked(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.read("paper", **change)


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    text = (images.Path(training.__file__).parents[1] / "recipes/images/paper.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("momentum: 0.9", ""))
    with pytest.raises(ValueError, match=r"mine.yaml: momentum missing; a recipe has"):
        Recipe.read(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recipe", "quick", "--dataset_name", "x"], "--recipe quick: there is none of that name; recipes are best"),
        (["--systems", "magic", "--dataset_name", "x"], "--systems magic: unknown; systems are plain, mc_dropout"),
        (["--systems", "plain"], "--dataset_name is missing; pass a Hub id or a folder of parquet files"),
        (["--merge", "none.json"], "--merge none.json: there is no such file"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.main(argv)


def test_results_of_several_processes_become_one(tmp_path: Path) -> None:
    figures = {name.removeprefix("tempered_"): 0.5 for name in images.FIGURES}
    for number, system in enumerate(("bndl", "plain")):
        run = {"system": system, "seed": 0, **figures, "tempered": figures}
        machine = {"command": f"python images.py {number}", "environment": {"cpu_count": number}}
        written = {**machine, "settings": {"a": 1}, "runs": [{**run, "cost": {"exact": 1.1}}]}
        (tmp_path / f"{number}.json").write_text(json.dumps(written))
    argv = ["--merge", str(tmp_path / "0.json"), str(tmp_path / "1.json"), "--output", str(tmp_path / "all.json")]
    images.main(argv)
    merged = json.loads((tmp_path / "all.json").read_text())
    assert [one["system"] for one in merged["runs"]] == ["plain", "bndl"]
    assert not any("cost" in one for one in merged["runs"])
    assert [part["command"] for part in merged["parts"]] == ["python images.py 0", "python images.py 1"]
    assert merged["environment"] == {"cpu_count": 0}
    (tmp_path / "1.json").write_text(json.dumps({"settings": {"a": 2}, "runs": []}))
    with pytest.raises(ValueError, match="holds runs with other settings"):
        images.main(argv)


def test_a_temperature_is_fitted_on_one_half_of_the_test_images_and_judged_on_the_other() -> None:
    labels = torch.arange(40) % 2
    logits = torch.where(torch.arange(2) == labels[:, None], 3.0, 0.0) * torch.where(torch.rand(40, 1) < 0.7, 1, -1)
    answers = judging.DrawnAnswers(sparsity=1.0)
    rows = torch.stack([logits, logits], dim=1)  # [N, S, C]
    figures = judging.judge(answers, {"test": rows, "ood_same": rows}, {"test": labels})
    assert figures["tempered"]["images"] == 20
    held_out = judging.judge(answers, {"test": rows, "held_out": rows}, {"test": labels, "held_out": labels})
    assert held_out["tempered"]["images"] == 40
    assert held_out["tempered"]["negative_log_likelihood"] <= figures["negative_log_likelihood"]
    assert figures["ood"]["entropy"] == {"same": 0.5}
    assert answers.temperature == 1.0, "left as it was"

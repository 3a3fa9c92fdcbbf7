"""benchmarks/tasks.py: which rows a declared task has, how heads stand against each other, one run on the digits."""

import json

import pytest
import torch
from safetensors.torch import save_file

from script_modules import SCRIPTS, load_script

declared = load_script("benchmarks/declared")
standings = load_script("benchmarks/standings")
tasks = load_script("benchmarks/tasks")


def tensors(num_train=30, num_test=12):
    return {
        "train.features": torch.arange(num_train).float()[:, None],
        "train.labels": torch.arange(num_train) % 3,
        "test.features": 100 + torch.arange(num_test).float()[:, None],
        "test.labels": torch.arange(num_test) % 3,
        "far.features": torch.zeros(2, 1),
        "human_probs": torch.eye(3)[torch.arange(num_test) % 3],
    }


def numbers(part):
    return part[0].flatten().tolist()


# ---- rows ----


def test_the_declared_file_lists_small_tasks_first_and_can_be_read():
    found = declared.read_declarations(SCRIPTS / "benchmarks" / "tasks.json")
    assert next(iter(found)) == "digits"
    assert {"caltech101_8", "cifar10_45000", "resnet56_50000", "cifar10n_worse"} < set(found)
    assert found["cifar10n_worse"].files() == ["cifar10_resnet_cifar100.safetensors", "cifar10n.safetensors"]


def test_held_out_and_training_rows_of_train_never_meet_and_depend_on_the_seed():
    task = declared.Declaration("file", train=10, held_out=5)
    rows, others = (declared.draw_rows(task, tensors(), seed) for seed in (0, 1))
    assert (len(rows.task.train[1]), len(rows.task.choosing[1]), len(rows.task.reporting[1])) == (10, 5, 12)
    assert not set(numbers(rows.task.train)) & set(numbers(rows.task.choosing))
    assert numbers(rows.task.train) != numbers(others.task.train)
    assert list(rows.task.ood) == ["far"]
    assert len(rows.human_probs) == 12


def test_a_memorised_backbone_is_chosen_for_on_test_rows_of_every_class_the_same_for_every_seed():
    ordered = tensors(num_test=60)
    ordered["test.labels"] = ordered["test.labels"].sort().values  # as files of test images often are
    ordered["human_probs"] = torch.eye(3)[ordered["test.labels"]]
    task = declared.Declaration("file", held_out=30, held_out_from="test")
    rows, others = (declared.draw_rows(task, ordered, seed) for seed in (0, 1))
    assert numbers(rows.task.choosing) == numbers(others.task.choosing)
    assert sorted(numbers(rows.task.choosing) + numbers(rows.task.reporting)) == list(range(100, 160))
    assert numbers(rows.task.reporting) == sorted(numbers(rows.task.reporting))
    for part in (rows.task.choosing, rows.task.reporting):
        assert part[1].unique().tolist() == [0, 1, 2]
    assert sorted(numbers(rows.task.train)) == list(range(30))
    assert rows.human_probs.argmax(-1).tolist() == rows.task.reporting[1].tolist()


def test_images_a_class_are_as_many_of_each():
    rows = declared.draw_rows(declared.Declaration("file", per_class=4, held_out=9), tensors(), 3)
    assert rows.task.train[1].bincount().tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match=r"per_class=20 images are asked for; .* of class 0 are left"):
        declared.draw_rows(declared.Declaration("file", per_class=20, held_out=9), tensors(), 3)


def test_some_classes_are_numbered_anew():
    rows = declared.draw_rows(declared.Declaration("file", held_out=5, classes=[2, 0]), tensors(), 0)
    assert numbers(rows.task.reporting) == [100, 102, 103, 105, 106, 108, 109, 111]
    assert rows.task.reporting[1].tolist() == [1, 0] * 4
    assert rows.human_probs.shape == (8, 2)


def test_other_labels_must_lie_row_by_row_with_the_features(tmp_path):
    found = {name: value for name, value in tensors().items() if name != "human_probs"}
    save_file(found, tmp_path / "features.safetensors")
    noisy = (found["train.labels"] + 1) % 3
    save_file({"label": found["train.labels"], "noisy": noisy}, tmp_path / "columns.safetensors")
    task = declared.Declaration("features.safetensors", held_out=1, labels="columns.safetensors:noisy")
    assert torch.equal(declared.read_tensors(task, tmp_path)["train.labels"], noisy)
    save_file({"label": noisy, "noisy": noisy.clone()}, tmp_path / "columns.safetensors")
    with pytest.raises(ValueError, match=r"does not lie row by row with train: its column label differs"):
        declared.read_tensors(task, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"features": "f", "held_out": 1, "rows": 3}, "Task mine has the fields rows; fields are"),
        ({"features": "f"}, "Task mine has held_out=0 and held_out_from='train'; one row or more"),
        ({"held_out": 1}, "Task mine names no features"),
        ({"features": "f", "held_out": 1, "train": 3, "per_class": 2}, "Task mine has both train and per_class"),
    ],
)
def test_a_declaration_that_cannot_be_is_named(tmp_path, entry, message):
    (tmp_path / "mine.json").write_text(json.dumps({"mine": entry}))
    with pytest.raises(ValueError, match=message):
        declared.read_declarations(tmp_path / "mine.json")


# ---- standings ----


def made(task, head, seed, nll, tempered, aurc=0.1):
    figures = {"negative_log_likelihood": nll, "area_under_risk_coverage": aurc}
    return {
        **{"task": task, "head": head, "seed": seed, **figures},
        "tempered": {**figures, "negative_log_likelihood": tempered},
    }


def test_ratios_are_to_the_better_rival_with_its_temperature_and_ranks_average_over_tasks():
    runs = [
        *(made("a", "bndl", seed, 0.9 + 0.2 * seed, 0.5) for seed in (0, 1)),  # 1.0 on average
        *(made("a", "dense", seed, 4.0, 2.0) for seed in (0, 1)),
        *(made("b", head, 0, nll, tempered) for head, nll, tempered in (("bndl", 8.0, 0.5), ("dense", 3.0, 2.0))),
        made("c", "dense", 0, 1.0, 1.0),  # bndl was not run there
    ]
    found = standings.standings(runs)
    assert found["entries"] == ["bndl", "dense", "dense + T"]
    assert found["tasks"] == ["a", "b"]
    assert found["ratios"]["a"] == pytest.approx({"bndl": 0.5, "dense": 2.0, "dense + T": 1.0})
    bndl, dense, tempered = found["heads"]
    assert bndl["mean_ratio"] == pytest.approx((0.5 * 4.0) ** 0.5)
    assert (bndl["worst_ratio"], bndl["worst_task"]) == (4.0, "b")
    assert [one["rank_nll"] for one in (bndl, dense, tempered)] == [2.0, 2.5, 1.5]
    assert bndl["rank_aurc"] == 2.0  # ties share their ranks


def test_without_a_rival_nothing_stands():
    assert standings.standings([made("a", "bndl", 0, 1.0, 1.0)])["heads"] == []


# ---- judging ----


def test_answers_of_people_are_compared_by_entropy_and_cross_entropy():
    human = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5]]).double()
    probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    figures = tasks.judge_probs(probs, torch.tensor([0, 0, 1]), human)
    assert figures["human_entropy_spearman"] == pytest.approx(1)
    by_hand = -(human * probs.double().log()).sum(-1).mean().item()
    assert figures["human_cross_entropy"] == pytest.approx(by_hand)


def test_a_run_skips_what_has_no_file_and_goes_on_where_it_was(tmp_path, capsys):
    output = tmp_path / "out.json"
    command = ["run", "--tasks", "digits", "caltech101", "--seeds", "0", "--quiet", "--features_dir", str(tmp_path)]
    tasks.main([*command, "--heads", "dense", "--output", str(output)])
    assert "caltech101 is skipped" in capsys.readouterr().out
    first = json.loads(output.read_text())["runs"]
    tasks.main([*command, "--heads", "dense", "logreg", "--output", str(output)])
    assert "logreg + T" in capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["runs"][0] == first[0]
    assert [one["head"] for one in found["standings"]["heads"]] == ["dense", "dense + T", "logreg + T"]
    assert (tmp_path / "out.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="elastic_net gets as many weights a class as bndl kept, which was not run"):
        tasks.main([*command, "--heads", "elastic_net", "--output", str(output)])

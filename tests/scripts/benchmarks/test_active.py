"""benchmarks/active.py: labels bought round by round."""

import json

import pytest
import torch

from script_modules import load_script

active = load_script("benchmarks/active")


def test_the_first_rows_are_the_same_share_of_every_class():
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2])
    assert sorted(active.first_rows(labels, 6, 3).tolist()) == [0, 1, 4, 5, 6, 7]
    assert labels[active.first_rows(labels, 4, 3)].bincount().tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match="starts at 2 rows for 3 classes"):
        active.first_rows(labels, 2, 3)


def test_the_rows_of_highest_score_are_bought(monkeypatch):
    class Known:
        """Unsure in proportion to the one feature."""

        def probs(self, features):
            return torch.full((len(features), 2), 0.5)

        def ood_scores(self, features):
            return {"entropy": features[:, 0]}

    taught = []
    monkeypatch.setattr(
        active, "fit", lambda head, task, seed, max_steps: taught.append(task.train[0][:, 0]) or Known()
    )
    pool = (torch.arange(10.0)[:, None], torch.arange(10) % 2)
    task = active.FeatureTask(pool, pool, pool)
    rounds = active.buy(task, "logreg", "entropy", 0, [2, 4, 5], 10)
    assert [one["labels"] for one in rounds] == [2, 4, 5]
    assert [sorted(rows.tolist()) for rows in taught] == [[0, 1], [0, 1, 8, 9], [0, 1, 7, 8, 9]]
    assert rounds[0]["accuracy"] == 0.5


def test_digits_are_learned_from_bought_labels(tmp_path, capsys):
    output, figure = tmp_path / "active.json", tmp_path / "active.png"
    argv = ["run", "--pool", "200", "--labels", "20", "60", "--seeds", "0", "--max_steps", "5", "--quiet"]
    argv += [
        "--pairs",
        "bndl_short:mutual_information",
        "logreg:random",
        "--output",
        str(output),
        "--figure",
        str(figure),
    ]
    active.main(argv)
    report = json.loads(output.read_text())
    assert [(one["head"], one["strategy"]) for one in report["runs"]] == [
        ("bndl_short", "mutual_information"),
        ("logreg", "random"),
    ]
    first, last = report["runs"][1]["rounds"]
    assert (first["labels"], last["labels"]) == (20, 60)
    assert 0.5 < first["accuracy"] < last["accuracy"]
    assert figure.stat().st_size > 10_000
    assert "Accuracy by labels bought" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--pairs", "bndl:luck"], "--pairs bndl:luck: write HEAD:STRATEGY; strategies are mutual_information"),
        (["--tasks", "digits", "cifar10_200"], "one task fits"),
        (["--labels", "200", "100"], "rising numbers up to --pool 5000 fit"),
    ],
)
def test_what_does_not_fit_is_named(argv, message):
    with pytest.raises(ValueError, match=message):
        active.main(["run", *argv])

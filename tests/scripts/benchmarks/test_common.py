"""benchmarks/common.py: what every benchmark's table, arguments and finished runs have in common."""

import json
from dataclasses import dataclass

import pytest

from script_modules import load_script

common = load_script("benchmarks/common")


def test_the_table_has_labels_for_measures_and_four_digits_for_fractions():
    rows = [{"head": "bndl", "negative_log_likelihood": 0.25, "tempered_brier_score": 1 / 3, "num_samples": 20}]
    assert common.table(rows).splitlines() == [
        "| head | NLL | Brier score (temperature) | num samples |",
        "|---|---|---|---|",
        "| bndl | 0.2500 | 0.3333 | 20 |",
    ]


def test_means_are_over_runs_that_agree_in_what_tells_them_apart():
    runs = [{"head": head, "seed": seed, "ood": {"joint": seed + 0.5}} for head in ("a", "b") for seed in (0, 1)]
    means = common.mean_over_seeds(runs, by=("head",), of=("ood_joint",))
    assert means == [{"head": "a", "ood_joint": 1.0}, {"head": "b", "ood_joint": 1.0}]


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path):
    arguments = common.Arguments(output=str(tmp_path / "out.json"), quiet=True)
    wanted, made = [{"seed": seed} for seed in range(3)], []

    def one_run(seed):
        if seed == 1 and not made[1:]:
            made.append("interrupted")
            raise KeyboardInterrupt
        made.append(seed)
        return {"accuracy": seed / 10}

    with pytest.raises(KeyboardInterrupt):
        common.finish_runs(arguments, {"epochs": 1}, wanted, one_run)
    runs = common.finish_runs(arguments, {"epochs": 1}, wanted, one_run)
    assert made == [0, "interrupted", 1, 2]
    assert [run["accuracy"] for run in runs] == [0.0, 0.1, 0.2]
    assert json.loads((tmp_path / "out.json").read_text())["runs"] == runs


def test_commands_are_told_apart_by_the_class_of_their_arguments(capsys):
    @dataclass
    class Timings(common.Arguments):
        """Seconds of something."""

        repeats: int = 3

    found = common.parse_command({"time": Timings}, "A benchmark.", ["time", "--repeats", "5"])
    assert (type(found), found.repeats, found.argv) == (Timings, 5, ["time", "--repeats", "5"])
    with pytest.raises(SystemExit):
        common.parse_command({"time": Timings}, "A benchmark.", ["--help"])
    assert "Seconds of something." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "3"])
def test_what_is_not_a_json_object_is_said(text):
    with pytest.raises(ValueError, match=r"--config '.*' is not a JSON object"):
        common.json_object(text, "--config")


def test_unknown_heads_are_named_before_anything_is_trained():
    with pytest.raises(ValueError, match="--heads none: unknown; heads are bndl, released"):
        common.HeadsArguments(heads=["bndl", "none"])

"""benchmarks/heads_compared.py: what is beyond the noise, by hand."""

import json
import math
from pathlib import Path

import pytest

from script_modules import load_script

benchmark = load_script("benchmarks/heads_compared")


def runs(head, accuracies):
    return [
        {
            "head": head,
            "seed": seed,
            "sparsity": 0.5,
            "all_rows": {"accuracy": accuracy, "ood": {"entropy": {"far": 0.9}}},
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def test_a_difference_is_judged_by_the_spread_of_seeds_and_the_last_digit():
    found = runs("dense", [0.92, 0.94]) + runs("laplace", [0.9])
    spread = 0.02 / math.sqrt(2)  # standard deviation of the two
    noise = 2 * spread * math.sqrt(1 / 2 + 1) + 0.0005
    reference = {
        "dense": {"accuracy": [round(0.93 + noise, 3)]},
        "laplace": {"accuracy": [0.8], "ood_entropy_far": [0.9]},
    }
    dense, laplace, far = benchmark.compare(found, reference)
    assert dense["mean"] == pytest.approx(0.93)
    assert dense["sd"] == pytest.approx(spread)
    assert dense["is_within_noise"] == (abs(dense["difference"]) <= noise)
    (beyond,) = benchmark.compare(found, {"dense": {"accuracy": [0.97]}})
    assert not beyond["is_within_noise"]
    assert (laplace["sd"], laplace["is_within_noise"]) == (None, None)
    assert far["difference"] == pytest.approx(0.0)
    lines = benchmark.as_table([beyond, laplace, far]).splitlines()
    assert lines[2].startswith("| dense | 2 | **0.9300 (0.0141) / 0.9700** | - |")
    assert lines[3].startswith("| laplace | 1 | 0.9000 / 0.8000 | 0.9000 / 0.9000 |")


def test_results_of_reporting_rows_alone_are_refused(tmp_path: Path):
    results = tmp_path / "heads.json"
    results.write_text(json.dumps({"runs": [{"head": "dense", "seed": 0, "accuracy": 0.9}]}))
    with pytest.raises(
        ValueError, match=r"No run was judged on all test rows; make them with: heads\.py heads --all_rows"
    ):
        benchmark.main(["--results", str(results), "--output", str(tmp_path / "out.json")])


def test_figures_from_elsewhere_are_of_known_heads_and_measures():
    from bndl_hf.baselines import head_names

    reference = json.loads(Path(benchmark.__file__).with_name("heads_elsewhere.json").read_text())
    assert set(reference["heads"]) <= set(head_names())
    assert all(
        0 <= value <= 1 for figures in reference["heads"].values() for ours in figures.values() for value in ours
    )

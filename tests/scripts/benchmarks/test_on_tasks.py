"""benchmarks/on_tasks.py: what the field's own tests share."""

import pytest

from script_modules import load_script

on_tasks = load_script("benchmarks/on_tasks")
ROWS = [
    {"head": "a", "seed": seed, "severity": severity, "nll": seed + severity + extra}
    for seed in (0, 1)
    for severity in (2, 1)
    for extra in (0.0, 1.0)
]


def test_curves_are_means_over_seeds_with_their_spread():
    found = on_tasks.curves(ROWS, "head", "severity", "nll", scale=10)
    assert found["a"]["x"] == [1, 2]
    assert found["a"]["y"] == pytest.approx([20.0, 30.0])  # of seeds 15 and 25, 25 and 35
    assert found["a"]["sd"] == pytest.approx([50**0.5, 50**0.5])
    assert on_tasks.curves(ROWS[:4], "head", "severity", "nll")["a"]["sd"] == [0.0, 0.0]


def test_figures_stand_side_by_side():
    means = [{"head": head, "severity": s, "nll": s + 0.5} for head in ("a", "b") for s in (0, 1)]
    assert on_tasks.side_by_side(means, ("head",), "severity", "nll") == [
        {"head": "a", "0": 0.5, "1": 1.5},
        {"head": "b", "0": 0.5, "1": 1.5},
    ]


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match=r"--tasks shapes: unknown; .*tasks\.json has digits"):
        on_tasks.TaskArguments(tasks=["shapes"]).declarations()

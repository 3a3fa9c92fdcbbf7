"""benchmarks/deciles.py: accuracy of ten groups for each head, by entropy and by p-value."""

import json

import numpy as np

from script_modules import load_script

benchmark = load_script("benchmarks/deciles")


def test_groups_hold_all_images_and_a_head_without_a_posterior_has_one_p_value(tmp_path, capsys):
    output = tmp_path / "deciles.json"
    benchmark.main(["--heads", "dense", "bndl", "--seeds", "0", "--epochs", "40", "--quiet", "--output", str(output)])
    dense, bndl = json.loads(output.read_text())["runs"]
    for run in (dense, bndl):
        for score in ("entropy", "p_value"):
            assert len(run[score]["accuracy"]) == 10
            assert np.diff(run[score]["uncertainty"]).min() >= 0
            # 300 reported rows: groups of 30 each, so that their mean is the accuracy
            np.testing.assert_allclose(np.mean(run[score]["accuracy"]), run["accuracy"], rtol=1e-6)
        assert run["entropy"]["first"] > run["entropy"]["last"]
    np.testing.assert_allclose(dense["p_value"]["accuracy"], dense["accuracy"], rtol=1e-6)
    assert bndl["p_value"]["first"] > bndl["p_value"]["last"]
    assert "| bndl |" in capsys.readouterr().out

"""scripts/benchmarks/decisions.py on a small features file: every figure is there and adds up."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmarks/decisions.py"


def test_the_figures_of_two_heads_are_written_and_printed(tmp_path, jobs):
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.eye(3, 8)
    labels = torch.randint(3, (4600,), generator=generator)
    features = centres[labels] + torch.rand(4600, 8, generator=generator)
    tensors = {"train.features": features[:4000], "train.labels": labels[:4000]}
    save_file({**tensors, "test.features": features[4000:], "test.labels": labels[4000:]}, tmp_path / "features")
    flags = ["--features", tmp_path / "features", "--output", tmp_path / "out.json", "--seeds", 0]
    flags += ["--epochs", 40, "--risk", 0.3]
    done = jobs.start_script(SCRIPT, *flags, "--report_from", 300)
    assert done.wait() == 0, done.log[-2000:]
    assert all(f"| {head} | guaranteed | " in done.log for head in ("bndl", "dense"))
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [entry["head"] for entry in runs] == ["bndl", "dense"]
    for entry in runs:
        assert entry["recalibration"]["T, v = 0"]["variance_scale"] == 0
        assert {sets["method"] for sets in entry["sets"]} == {"lac", "aps", "raps"}
        assert all(sets["size"] >= 1 for sets in entry["sets"])
        assert 0 < entry["abstention"]["guaranteed"]["answered"] <= entry["abstention"]["empirical"]["answered"] <= 1
    refused = jobs.start_script(SCRIPT, *flags, "--report_from", 600)
    assert refused.wait() == 1
    assert "report_from=600 leaves none of 600 test rows" in refused.log

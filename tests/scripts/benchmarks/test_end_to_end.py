"""end_to_end.py: both heads on one backbone, from images to figures, and runs that are kept."""

import json
from pathlib import Path

import pytest
import torch

from script_modules import load_script

end_to_end = load_script("benchmarks/end_to_end")


def test_both_heads_are_trained_whole_judged_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    argv = ["--dataset_name", "digits", "--train_images", "100", "--test_images", "50", "--validation_fraction", "0.05"]
    argv += ["--image_size", "16", "--epochs", "1", "--augmentation", "none", "--quiet", "--output", str(output)]
    end_to_end.main([*argv, "--seeds", "0"])
    found = json.loads(output.read_text())
    assert found["settings"]["model"] == "from scratch"
    plain, bndl = found["runs"]
    assert (plain["head"], plain["density"]) == ("plain", 1)
    assert (bndl["head"], bndl["density"]) == ("bndl", pytest.approx(0.3, abs=0.01))
    for one in found["runs"]:
        held_out = one["validation"]
        assert held_out["tempered"]["negative_log_likelihood"] <= held_out["negative_log_likelihood"]
        assert held_out["tempered"]["accuracy"] == held_out["accuracy"]
    end_to_end.main([*argv, "--seeds", "0"])
    assert json.loads(output.read_text())["runs"] == found["runs"], "nothing was trained again"
    assert "| plain | " in capsys.readouterr().out


def test_figures_of_known_probabilities() -> None:
    probs = torch.tensor([[0.5, 0.5 - 1e-6, 1e-6], [0.2, 0.7, 0.1]]).double()
    found = end_to_end.figures(probs, torch.tensor([1, 1]))
    assert found["accuracy"] == 0.5
    assert found["negative_log_likelihood"] == pytest.approx(-(torch.tensor(0.5 * 0.7).log().item()) / 2, abs=1e-5)


def test_an_unknown_head_is_named() -> None:
    with pytest.raises(ValueError, match="--heads none: unknown; heads are plain, bndl"):
        end_to_end.EndToEndArguments(dataset_name="digits", heads=["none"])

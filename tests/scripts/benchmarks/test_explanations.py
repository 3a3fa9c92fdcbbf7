"""scripts/benchmarks/explanations.py on a tiny classifier: every figure is there."""

import json
from pathlib import Path

from model.architectures import SUPPORTED
from model.test_architectures import classifier_of

SCRIPT = Path(__file__).parents[3] / "scripts" / "benchmarks/explanations.py"


def test_the_cost_of_maps_in_forward_passes_is_written_and_printed(tmp_path, jobs):
    classifier_of(SUPPORTED["convnext"]).save_pretrained(tmp_path / "tiny")
    flags = ["--model", tmp_path / "tiny", "--image_size", 32, "--batch_size", 2, "--repeats", 2]
    flags += ["--sepin_images", 64, "--sepin_factors", 16]
    done = jobs.start_script(SCRIPT, *flags, "--output", tmp_path / "out.json")
    assert done.wait() == 0, done.log[-2000:]
    assert "pooled_average" in done.log
    written = json.loads((tmp_path / "out.json").read_text())
    (entry,) = written["runs"]
    assert (entry["backbone"], entry["method"], entry["grid"]) == ("tiny", "pooled_average", [4, 4])
    assert entry["forward_seconds"] > 0
    for name in ("factor_maps", "class_maps", "gradcam"):
        assert entry[f"{name}_passes"] > 0
    assert (written["sepin"]["factors"], written["sepin"]["images"]) == (16, 64)
    assert written["environment"]["torch_threads"] >= 1

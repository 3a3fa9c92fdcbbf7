"""benchmarks/photo_maps.py: the factor behind every answer, and a figure for each method."""

import json

import pytest
from PIL import Image

from script_modules import load_script

from .pictures_and_features import arguments, make

benchmark = load_script("benchmarks/photo_maps")


def test_every_photograph_is_explained_by_both_methods_and_drawn(tmp_path):
    folder = make(tmp_path, image_size=32)
    argv = [*arguments(folder, tmp_path / "out.json"), "--num_photos", "2", "--num_samples", "20"]
    figures = ["--lime_figure", str(tmp_path / "lime.png"), "--gradcam_figure", str(tmp_path / "cam.png")]
    benchmark.main([*argv, *figures])
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    # 359 test rows: places 1/4 and 3/4
    assert [(run["head"], run["row"]) for run in runs] == [("dense", 89), ("dense", 269), ("bndl", 89), ("bndl", 269)]
    for run in runs:
        assert 0 < run["lime_area"] <= 1
        assert -1 <= run["rank_correlation"] <= 1
        assert run["is_right"] == float(run["answer"] == run["label"])
    for name in ("lime.png", "cam.png"):
        assert Image.open(tmp_path / name).width > 300
    with pytest.raises(ValueError, match="--rows 9999 is not there; the test part has rows 0 to 358"):
        benchmark.main([*argv, "--rows", "9999"])

"""benchmarks/sepin.py: every estimator for every head, and the same features for heads that read them as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bndl_hf.interpretability import sepin_at_k
from script_modules import load_script

from .pictures_and_features import arguments, make

benchmark = load_script("benchmarks/sepin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sepin"), image_size=8)


def test_every_head_and_estimator_is_measured_on_views_that_are_kept(folder, tmp_path, capsys):
    argv = [
        *arguments(folder, tmp_path / "out.json"),
        "--views",
        str(tmp_path / "views.safetensors"),
        "--hold_out",
        "100",
    ]
    argv += ["--heads", "nmf", "bndl", "--seeds", "0", "--num_images", "64", "--estimators", "0.1/32", "0.5/16"]
    benchmark.main([*argv, "--thresholds", "0", "0.9"])
    found = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [(one["head"], one.get("threshold")) for one in found] == [
        ("features", 0.0),
        ("features", 0.9),
        ("nmf", None),
        ("bndl", None),
    ]
    views = load_file(tmp_path / "views.safetensors")
    plain, cut, nmf, bndl = found
    # features without a threshold: SEPIN of the views themselves
    expected = sepin_at_k(views["a"], views["b"], 1, 0.5, 16)
    assert plain["scores"]["0.5/16"] == {
        "@1": expected.at(1),
        "@10": expected.at(10),
        "@all": expected.at(views["a"].shape[1]),
        "nt_xent": expected.loss,
    }
    assert cut["zero_scores"] > plain["zero_scores"]
    assert set(nmf["weighted"]) == set(bndl["scores"]) == {"0.1/32", "0.5/16"}
    shown = capsys.readouterr().out
    assert "| nmf | - |" in shown
    assert "| features | 0.9000 |" in shown


def test_kept_views_of_other_images_are_refused(folder, tmp_path):
    argv = [*arguments(folder, tmp_path / "out.json"), "--views", str(tmp_path / "v.safetensors"), "--heads", "nmf"]
    argv += ["--hold_out", "100", "--estimators", "0.1/8", "--thresholds", "0"]
    benchmark.read_views(benchmark.SepinArguments(**fields(argv, num_images=8)))
    with pytest.raises(ValueError, match=r"holds views made with .*\"num_images\": 8.*name another file"):
        benchmark.read_views(benchmark.SepinArguments(**fields(argv, num_images=16)))


def fields(argv, **more):
    known = dict(zip(argv[::2], argv[1::2], strict=False))
    named = ("--features", "--model_name_or_path", "--dataset_name")
    views = argv[argv.index("--views") + 1]
    return {**{name[2:]: known[name] for name in named}, "views": views, "quiet": True, **more}


@pytest.mark.parametrize("setting", ["0.1", "0/64", "0.1/1", "a/b", "0.1/x"])
def test_an_estimator_that_is_none_is_named(setting):
    with pytest.raises(ValueError, match=r"is not TEMPERATURE/BATCH.*write 0\.1/256, say"):
        benchmark.read_estimator(setting)


def test_a_share_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"--thresholds 1\.5 is not a share"):
        benchmark.SepinArguments(model_name_or_path="m", dataset_name="d", thresholds=[0.5, 1.5])


def test_zeros_are_counted():
    assert benchmark.share_of_zeros(torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == 0.75

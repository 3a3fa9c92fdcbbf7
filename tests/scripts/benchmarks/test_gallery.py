"""gallery.py from features and photographs to its JSON, small."""

import json

import datasets
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from model.tiny import tiny_backbone_config
from script_modules import load_script


def test_it_measures_a_gallery_and_thumbnails(tmp_path):
    gallery = load_script("benchmarks/gallery")
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(tiny_backbone_config("resnet")).save_pretrained(tmp_path / "backbone")
    make_image_processor(32).save_pretrained(tmp_path / "backbone")
    features = {"train.features": torch.rand(40, 30), "train.labels": torch.arange(40) % 2}
    save_file(features, tmp_path / "features.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    rows = [{"image": Image.fromarray(image), "label": i % 2} for i, image in enumerate(pixels)]
    data = datasets.Dataset.from_list(rows).cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    data.to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    paths = ["--features", tmp_path / "features.safetensors", "--model_name_or_path", tmp_path / "backbone"]
    paths += ["--dataset", tmp_path / "data", "--output", tmp_path / "out.json", "--keep", tmp_path / "kept"]
    argv = [*map(str, paths), "--num_images", "6", "--presets", "default", "--top", "2", "--quiet"]
    gallery.main(argv)
    result = json.loads((tmp_path / "out.json").read_text())
    (run,) = result["runs"]
    assert (run["preset"], run["images"]) == ("default", 6)
    assert 1 <= run["cards"] <= run["factors"]
    assert run["files"] == 1  # a small gallery is one file
    assert run["thumbnail_files"] == 2
    kept = {path.name for path in (tmp_path / "kept" / "default").iterdir()}
    assert {"config.json", "gallery.html", "factor_thumbnails"} <= kept
    before = (tmp_path / "kept" / "default" / "model.safetensors").read_bytes()
    gallery.main(argv)  # the model that is there is not trained again
    assert (tmp_path / "kept" / "default" / "model.safetensors").read_bytes() == before

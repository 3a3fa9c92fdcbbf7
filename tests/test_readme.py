"""README's lines run as they stand: wrap, push to a Hub, load from it with this package and without."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.hub import pull_from_hub

README = (Path(__file__).parents[1] / "README.md").read_text()


def lines_under(heading):
    return re.search(rf"^## {heading}$.*?^```python\n(.*?)^```", README, flags=re.S | re.M)[1]


def test_look_inside(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3)
    model = BNDLForImageClassification(BNDLConfig.from_backbone_config(config)).eval()
    processor, generator = make_image_processor(16), np.random.default_rng(0)
    pictures = [Image.fromarray(one) for one in generator.integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)]
    names = {
        "model": model,
        "processor": processor,
        "pixel_values": processor(pictures, return_tensors="pt")["pixel_values"],
        "test_images": [{"image": one, "label": i % 3} for i, one in enumerate(pictures)],
    }
    monkeypatch.chdir(tmp_path)
    exec(lines_under("Look inside"), names)
    assert names["maps"].exact
    assert names["gallery"].page.is_file()
    assert len(names["figure"].axes) == 6 * 4


@pytest.mark.parametrize("heading", ["Load from the Hub", "Wrap your own", "Push"])
def test_ten_lines_each(heading):
    assert len([line for line in lines_under(heading).splitlines() if line]) <= 10


def test_wrap_push_and_load(hub, tmp_path, run_python):
    hub.add_user("microsoft", token="hf_microsoft")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).push_to_hub("microsoft/resnet-50", token="hf_microsoft")
    make_image_processor(16).push_to_hub("microsoft/resnet-50", token="hf_microsoft")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / "image.png")

    online = {**hub.environment("hf_alice", tmp_path), "HF_HUB_OFFLINE": "0", "TQDM_DISABLE": "1"}
    load = lines_under("Load from the Hub")
    ours = load.replace("trust_remote_code=True", "pipeline_class=Ours", 1).replace(", trust_remote_code=True", "")
    with_package = f"from bndl_hf.model.pipeline_bndl import BNDLImageClassificationPipeline as Ours\n{ours}"
    done = run_python(["-c", lines_under("Wrap your own") + lines_under("Push") + with_package], tmp_path, **online)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{hub.url}/alice/resnet-bndl/commit/" in done.stdout
    card = hub.files("alice/resnet-bndl")["README.md"].decode()
    assert "base_model: microsoft/resnet-50" in card
    pulled = pull_from_hub("alice/resnet-bndl", cache_dir=tmp_path / "cache")
    assert pulled.results["accuracy"] > 0.3
    answers = done.stdout.splitlines()[-3:]
    assert answers[0].count("answered: ") == answers[1].count("answered: ") == 1
    assert "'contribution'" in answers[2]

    stranger = hub.environment(None, tmp_path / "stranger") | {"HF_HUB_OFFLINE": "0"}
    done = run_python(["-c", load], tmp_path, installed=False, **stranger)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == answers

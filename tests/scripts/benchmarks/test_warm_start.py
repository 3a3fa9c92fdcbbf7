"""scripts/benchmarks/warm_start.py: the map towards the old weights, and every method judged on the other half."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from script_modules import TINY_RESNET, load_script

benchmark = load_script("benchmarks/warm_start")


@pytest.mark.parametrize("precision", [1.0, 30.0])
def test_the_change_of_the_weights_is_the_optimum_of_the_penalised_likelihood(precision: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, logits = torch.randn(20, 7, generator=generator), torch.randn(20, 3, generator=generator)
    labels = torch.arange(20) % 3
    scale, change = benchmark._map(x, logits, labels, precision)
    # at the optimum the gradient of the summed loss is that of the prior, precision times the change, in float64
    weights = change.double().requires_grad_()
    loss = F.cross_entropy(scale.double() * logits.double() + x.double() @ weights, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(gradient, -precision * change.double(), atol=0.02, rtol=0)


def test_figures_count_every_class_that_is_right() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    right = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    images = benchmark.Images(torch.zeros(3, 2), torch.tensor([1, 1, 2]), right)
    figures = benchmark.judge(probs.log(), images)
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["real_accuracy"] == 0.5  # of the two images for which a class is right
    assert figures["real_log_loss"] == pytest.approx(-(torch.tensor([0.8, 0.2]).log().mean().item()))


def test_every_method_and_half_gets_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=2))
    model.save_pretrained(tmp_path / "model")
    make_image_processor(16).save_pretrained(tmp_path / "model")
    for i in range(40):
        folder = tmp_path / "photos" / "test" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(0, 128, (16, 16, 3), dtype=torch.uint8) + 100 * (i % 2)
        Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    argv = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", str(tmp_path / "photos"), "--quiet"]
    benchmark.main([*argv, "--seeds", "0", "1", "--densities", "0.5", "--output", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    methods = list(report["summary"])
    assert methods[:3] == ["old head", "warm start", "temperature"]
    assert methods[-2:] == ["posterior", "posterior, density 0.5"]
    assert report["summary"]["temperature"]["differences"] == [0, 0]
    assert report["summary"]["posterior, density 0.5"]["density"] <= 0.5
    assert "| temperature |" in capsys.readouterr().out

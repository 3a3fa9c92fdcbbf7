"""Every `>>>` example of the package runs as it stands in its docstring and shows what it says.

Examples may use the names of `made` below without making them: a tiny model, images and their labels, and the public
names of the rooms. They run in a folder that holds checkpoints and a picture under the names the docstrings use.
"""

import ast
import copy
import doctest
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModelForImageClassification, Dinov2WithRegistersConfig, pipeline

import bndl_hf
from bndl_hf.data import make_image_processor
from model.tiny import NUM_LABELS, tiny_backbone_config, tiny_model

SOURCE = Path(bndl_hf.__file__).parent
ROOMS = ("data", "hub", "interpretability", "metrics", "plots", "training", "uncertainty")
SKIPPED = (
    "bndl_hf.hub.publish:push_to_hub",
    "bndl_hf.hub.pull:pull_from_hub",
    "bndl_hf.hub.static_space:push_gradio_space",
    "bndl_hf.hub.static_space:push_space",
)  # they need a Hub: test_readme.py has one


def examples():
    """("module:object", text, line) of every docstring, or usage text of a metric, with an example."""
    for file in sorted(SOURCE.rglob("*.py")):
        module = ".".join(["bndl_hf", *file.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
        yield from _examples_below(ast.parse(file.read_text(encoding="utf-8")), module, "")


def _examples_below(node, module, path):
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            name = f"{path}.{child.name}" if path else child.name
            if ">>>" in (text := ast.get_docstring(child) or ""):
                yield f"{module}:{name}", text, child.lineno
            yield from _examples_below(child, module, name)
        elif (
            isinstance(child, ast.Assign) and isinstance(child.value, ast.Constant) and ">>>" in str(child.value.value)
        ):
            yield f"{module}:{child.targets[0].id}", child.value.value, child.lineno


EXAMPLES = {name: (text, line) for name, text, line in examples()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with org/vit-bndl, google/vit-base-patch16-224 and parrot.png."""
    folder = tmp_path_factory.mktemp("examples")
    processor = make_image_processor(30)
    for name, model in {
        "org/vit-bndl": tiny_model("vit"),
        "google/vit-base-patch16-224": AutoModelForImageClassification.from_config(tiny_backbone_config("vit")),
    }.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "parrot.png")
    return folder


@pytest.fixture(scope="module")
def made():
    """What an example may use without making it: eight images of 64 pixels, and what a model says of them."""
    torch.manual_seed(0)
    model = tiny_model("resnet", num_factors=6)
    pixel_values = functional.interpolate(torch.rand(8, 3, 8, 8), 64)  # 64 plain squares each
    labels = torch.arange(8) % NUM_LABELS
    with torch.no_grad():
        features = model.extract_features(pixel_values)
        scores = model.decision_layer(features).factor_scores
    rows = {"pixel_values": pixel_values, "labels": labels}
    pictures = [Image.new("L", (30, 30), 30 * i) for i in range(8)]
    card = {"pictures": np.zeros((3, 30, 30, 3)), "maps": np.ones((3, 30, 30))}
    prediction = model.decision_layer.predict(features)
    public = {}
    for room in ROOMS:
        module = importlib.import_module(f"bndl_hf.{room}")
        public |= {name: getattr(module, name) for name in module.__all__}
    return public | {
        "torch": torch,
        "Image": Image,
        "pipeline": pipeline,
        "BNDLConfig": bndl_hf.BNDLConfig,
        "Dinov2WithRegistersConfig": Dinov2WithRegistersConfig,
        "model": model,
        "processor": make_image_processor(30),
        **rows,
        "images": pixel_values.movedim(1, -1).numpy(),
        "features": features,
        "scores": scores,
        "scores_of_one_view": torch.rand(64, 128),
        "scores_of_another": torch.rand(64, 128),
        "factors": scores.argmax(dim=1),
        "maps": torch.rand(8, 64, 64),
        "prediction": prediction,
        "probs": prediction.probs,
        "on_cifar10": model.decision_layer.predict(features[:4]),
        "on_mnist": model.decision_layer.predict(features[4:]),
        "batches": [{name: column[i : i + 4] for name, column in rows.items()} for i in (0, 4)],
        "held_out": torch.utils.data.StackDataset(**rows),
        "cards": [SimpleNamespace(factor=k, **card) for k in range(2)],
        "cifar10": {"test": datasets.Dataset.from_dict({"img": pictures, "label": labels.tolist()})},
    }


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SKIPPED])
def test_the_example_shows_what_it_says(name, made, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = made | {"model": copy.deepcopy(made["model"])}  # an example may set its temperature
    module_name, _, path = name.partition(":")
    module = importlib.import_module(module_name)
    if path == "_KWARGS_DESCRIPTION":  # of an `evaluate` module, whose users have loaded it
        names["metric"] = bndl_hf.metrics.load(module_name.rsplit(".", 1)[1])
    text, line = EXAMPLES[name]
    example = doctest.DocTestParser().get_doctest(text, names | vars(module), name, inspect.getfile(module), line)
    report = []
    torch.manual_seed(0)
    failed, attempted = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
        example, out=report.append
    )
    assert attempted > 0
    assert failed == 0, "".join(report)


def test_the_examples_are_found_in_every_place_they_may_stand():
    assert "bndl_hf.uncertainty.calibration:expected_calibration_error" in EXAMPLES  # a function
    assert "bndl_hf.uncertainty.streaming:StreamingMetrics" in EXAMPLES  # a class
    assert "bndl_hf.metrics.accuracy.accuracy:_KWARGS_DESCRIPTION" in EXAMPLES  # a metric's usage text
    assert all(name in EXAMPLES for name in SKIPPED)

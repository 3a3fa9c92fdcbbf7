"""Uses an installed bndl-hf from beginning to end: fit a layer, predict, save, load. `make wheel` and the CI run it.

    python -I tests/use_installed.py

-I keeps the working folder off Python's path, so that what is imported is what was installed.
"""

import tempfile
from importlib import metadata
from importlib.resources import files

import torch

import bndl_hf
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import fit_decision_layer


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` features [count, 8] of three classes, each class bright in features of its own, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.rand(count, 8, generator=generator)
    features[torch.arange(count), labels] += 2.0
    return features, labels


assert bndl_hf.__version__ == metadata.version("bndl-hf"), (bndl_hf.__version__, metadata.version("bndl-hf"))
for name in ("py.typed", "hub/card_template.md", "metrics/pavpu/README.md"):
    assert (files("bndl_hf") / name).is_file(), f"the wheel lacks {name}"

features, labels = blobs(600, seed=0)
config = bndl_hf.BNDLConfig(feature_dim=8, num_labels=3)
settings = {"num_train_epochs": 20, "per_device_train_batch_size": 32, "disable_tqdm": True}
layer = fit_decision_layer(features, labels, config, **settings)
test_features, test_labels = blobs(300, seed=1)
prediction = layer.predict(test_features)
accuracy = (prediction.predicted_labels == test_labels).float().mean().item()
assert accuracy > 0.95, accuracy

with tempfile.TemporaryDirectory() as folder:
    state = f"{folder}/layer.pt"
    torch.save(layer.state_dict(), state)
    layer.config.save_pretrained(folder)
    loaded = BNDLDecisionLayer(bndl_hf.BNDLConfig.from_pretrained(folder))
    loaded.load_state_dict(torch.load(state, weights_only=True))
    assert torch.equal(loaded.eval().predict(test_features).probs, prediction.probs)

print(f"bndl-hf {bndl_hf.__version__} from {bndl_hf.__file__}: accuracy {accuracy:.3f}, saved and loaded bit for bit")

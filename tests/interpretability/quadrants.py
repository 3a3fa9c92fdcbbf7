"""A classifier whose every feature is known: feature f is the mean, over the image, of the edges in quadrant f alone.

An edge is a 4x4 block whose left half is redder than its right half. Super-pixels of one colour have none, which is
what LIME needs; the backbone's map has one position a block.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from bndl_hf import BNDLForImageClassification

SIZE, BLOCK = 32, 4  # pixels
GRID = SIZE // BLOCK
HALF = GRID // 2
LOADINGS = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 3.0]])  # [K, C]


class QuadrantsConfig(PretrainedConfig):
    model_type = "quadrants"
    image_size: int = SIZE


class Edges(nn.Module):
    """[B, 3, 32, 32] -> [B, 4, 8, 8]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, BLOCK, stride=BLOCK, bias=False)
        mask = torch.zeros(4, GRID, GRID)
        for f in range(4):
            rows, columns = quadrant(f, GRID)
            mask[f, rows, columns] = 1
        self.register_buffer("mask", mask)

    def forward(self, pixel_values):
        return torch.relu(self.conv(pixel_values)) * self.mask


class QuadrantsForImageClassification(PreTrainedModel):
    config_class = QuadrantsConfig

    def __init__(self, config):
        super().__init__(config)
        self.edges = Edges()
        self.classifier = nn.Linear(4, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, output_hidden_states=False, return_dict=True):
        edges = self.edges(pixel_values)
        logits = self.classifier(edges.mean(dim=(2, 3)))
        return ImageClassifierOutputWithNoAttention(
            logits=logits, hidden_states=(edges,) if output_hidden_states else None
        )


def quadrant(f, size):
    """Rows and columns of quadrant f on a square of `size`: top left, top right, bottom left, bottom right."""
    half = size // 2
    return slice(half * (f // 2), half * (f // 2 + 1)), slice(half * (f % 2), half * (f % 2 + 1))


def quadrants_model(**bndl_config_kwargs):
    """K = D = 4, theta_f = feature f, C = 2."""
    AutoConfig.register("quadrants", QuadrantsConfig, exist_ok=True)
    AutoModelForImageClassification.register(QuadrantsConfig, QuadrantsForImageClassification, exist_ok=True)
    classifier = QuadrantsForImageClassification(QuadrantsConfig(num_labels=2))
    with torch.no_grad():
        kernel = torch.zeros(4, 3, BLOCK, BLOCK)
        kernel[:, 0, :, :2], kernel[:, 0, :, 2:] = 1 / 8, -1 / 8
        classifier.edges.conv.weight.copy_(kernel)
    options = {"projection": "none", "score_threshold": 0.0, "loading_threshold": 0.0, **bndl_config_kwargs}
    model = BNDLForImageClassification.from_backbone_pretrained(classifier, num_labels=2, **options)
    with torch.no_grad():
        model.decision_layer.raw_loadings.copy_(LOADINGS)
    return model.eval()


def striped_images(num_images=3, seed=0):
    """Images whose blocks have edges of random strength, [B, 3, 32, 32] in [0, 1], and those strengths, [B, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(num_images, GRID, GRID, generator=generator)
    red = strength.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    red = red * (torch.arange(SIZE) % BLOCK < BLOCK // 2)
    others = torch.rand(num_images, 2, SIZE, SIZE, generator=generator)  # which the model does not look at
    return torch.cat([red[:, None], others], dim=1), strength

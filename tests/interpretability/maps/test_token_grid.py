"""Where positions lie: by shape and configuration, for every architecture and for image sizes that do not divide."""

import pytest
import torch
from transformers import (
    Dinov2WithRegistersConfig,
    HieraConfig,
    LevitConfig,
    PvtConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from bndl_hf.interpretability.maps.token_grid import TokenGrid, spread_over_image, token_grid
from model.architectures import SUPPORTED
from model.test_architectures import classifier_of


def numbers(*shape):
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


@pytest.mark.parametrize(
    ("config", "shape", "image_size", "grid"),
    [
        (ResNetConfig(), (2, 64, 7, 7), (224, 224), TokenGrid(7, 7)),
        (ResNetConfig(), (2, 7, 7, 64), (224, 224), TokenGrid(7, 7, channels_last=True)),
        (ResNetConfig(), (2, 64, 7, 5), (224, 160), TokenGrid(7, 5)),
        (ResNetConfig(), (2, 7, 5, 64), (224, 160), TokenGrid(7, 5, channels_last=True)),
        (ViTConfig(patch_size=16), (2, 197, 32), (224, 224), TokenGrid(14, 14, 1)),
        (ViTConfig(patch_size=16), (2, 198, 32), (224, 224), TokenGrid(14, 14, 2)),  # DeiT: and a distillation token
        (ViTConfig(patch_size=16), (2, 7, 32), (40, 56), TokenGrid(2, 3, 1)),  # pixels left over
        (ViTConfig(patch_size=(16, 8)), (2, 9, 32), (32, 32), TokenGrid(2, 4, 1)),
        (Dinov2WithRegistersConfig(patch_size=14), (2, 261, 32), (224, 224), TokenGrid(16, 16, 5)),
        (SwinConfig(patch_size=4), (2, 3136, 32), (224, 224), TokenGrid(56, 56)),
        (SwinConfig(patch_size=4), (2, 49, 32), (224, 224), TokenGrid(7, 7)),
        (SwinConfig(patch_size=4), (2, 9, 32), (36, 36), TokenGrid(3, 3)),  # 9, padded: 5, 3
        (PvtConfig(), (2, 50, 32), (224, 224), TokenGrid(7, 7, 1)),
        (LevitConfig(), (2, 16, 32), (224, 224), TokenGrid(4, 4)),  # 14, 7, 4
        (HieraConfig(), (2, 49, 32), (224, 224), TokenGrid(7, 7)),  # overlapping patches: their stride counts
    ],
)
def test_grid_of_a_hidden_state(config, shape, image_size, grid):
    assert token_grid(torch.empty(shape), image_size, config) == grid


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ViTConfig(patch_size=16), (2, 300, 32)),  # more tokens than patches and what may stand before them
        (ViTConfig(patch_size=16), (2, 32)),
        (ResNetConfig(), (2, 49, 32)),  # a sequence, but the image is not cut into patches
        (ResNetConfig(), (2, 12, 49, 32)),  # heads of attention
    ],
)
def test_what_is_no_map_of_the_image_has_no_grid(config, shape):
    assert token_grid(torch.empty(shape), (224, 224), config) is None


@pytest.mark.parametrize(
    ("grid", "hidden_state"),
    [
        (TokenGrid(2, 3), numbers(2, 3, 4).permute(2, 0, 1)[None]),
        (TokenGrid(2, 3, channels_last=True), numbers(2, 3, 4)[None]),
        (TokenGrid(2, 3, 2), torch.cat([torch.zeros(1, 2, 4), numbers(1, 6, 4)], dim=1)),
    ],
)
def test_positions_are_read_row_by_row_whatever_the_layout(grid, hidden_state):
    assert torch.equal(grid.positions(hidden_state), numbers(1, 6, 4))


@pytest.mark.parametrize("model_type", ["swin", "swinv2", "donut-swin", "focalnet", "hiera"])
def test_grids_of_sequences_are_where_transformers_itself_reshapes_them_to(model_type):
    classifier = classifier_of(SUPPORTED[model_type])
    output = classifier(torch.randn(2, 3, 32, 32), output_hidden_states=True)
    sequence, image = output.hidden_states[-1], output.reshaped_hidden_states[-1]
    grid = token_grid(sequence, (32, 32), classifier.config)
    expected = token_grid(image, (32, 32), classifier.config).positions(image)
    torch.testing.assert_close(grid.positions(sequence), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(6, 8), (7, 13), (2, 4), (224, 224)])
def test_spreading_keeps_every_sum(size):
    evidence = torch.randn(3, 2, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = spread_over_image(evidence, size)
    assert spread.shape == (3, 2, *size)
    torch.testing.assert_close(spread.sum(dim=(-2, -1)), evidence.sum(dim=(-2, -1)), rtol=0, atol=1e-6)


def test_spreading_over_whole_multiples_is_bilinear_interpolation():
    evidence = torch.randn(1, 1, 3, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(evidence, size=(12, 10), mode="bilinear") / (4 * 5)
    torch.testing.assert_close(spread_over_image(evidence, (12, 10)), expected)
    assert torch.equal(spread_over_image(evidence, (3, 2)), evidence)


def test_an_image_smaller_than_the_grid_is_an_error():
    with pytest.raises(ValueError, match="An image of 2x8 pixels is smaller than the grid of 3x4 positions"):
        spread_over_image(torch.zeros(1, 3, 4), (2, 8))

"""Where in the image the positions of a hidden state lie: feature maps, token sequences and what goes before them.

Nothing is known by the name of a model. A hidden state of four axes is a map; its two spatial axes are those in the
image's proportions. A sequence is a map read row by row if the configuration cuts the image into patches: as many
tokens as patches, or as are left after halving both sides again and again (Swin, PVT, LeViT), with the CLS,
distillation and register tokens in front. What fits neither has no grid. Read factor_maps.py next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig


@dataclass(frozen=True)
class TokenGrid:
    """The positions of one hidden state, row by row from the top left.

    Attributes:
        height, width: positions down and across.
        num_prefix_tokens: tokens of a sequence that stand before the positions and belong to none.
        channels_last: whether a hidden state of four axes is [B, height, width, D] instead of [B, D, height, width].
    """

    height: int
    width: int
    num_prefix_tokens: int = 0
    channels_last: bool = False

    @property
    def num_positions(self) -> int:
        """P = height * width."""
        return self.height * self.width

    def positions(self, hidden_state: Tensor) -> Tensor:
        """`hidden_state` as [B, P, D], without the tokens that belong to no position."""
        if hidden_state.ndim == 3:
            return hidden_state[:, self.num_prefix_tokens :]
        return hidden_state.flatten(1, 2) if self.channels_last else hidden_state.flatten(2).transpose(1, 2)


def token_grid(hidden_state: Tensor, image_size: tuple[int, int], config: PretrainedConfig) -> TokenGrid | None:
    """The grid of a hidden state, or None where its positions are not a map of the image.

    Args:
        hidden_state: [B, D, h, w], [B, h, w, D] or [B, N, D].
        image_size: (height, width) of the image in pixels.
        config: the backbone's; its patch size and its number of registers are read.

    Example:
        >>> token_grid(torch.empty(2, 201, 384), (224, 224), Dinov2WithRegistersConfig(patch_size=16))
        TokenGrid(height=14, width=14, num_prefix_tokens=5, channels_last=False)
    """
    if hidden_state.ndim == 4:
        _, first, second, third = hidden_state.shape
        if _is_in_proportion(second, third, image_size):
            return TokenGrid(second, third)
        return TokenGrid(first, second, channels_last=True) if _is_in_proportion(first, second, image_size) else None
    patch_size = _patch_size(config)
    if hidden_state.ndim != 3 or patch_size is None:
        return None
    num_tokens, registers = hidden_state.shape[1], getattr(config, "num_register_tokens", None) or 0
    rows, columns = image_size[0] // patch_size[0], image_size[1] // patch_size[1]
    for halvings in range(max(rows, columns).bit_length()):
        num_prefix_tokens = 2 + registers if halvings == 0 else 1  # at most: CLS, distillation, registers; CLS
        # An odd side loses its last row (PVT) or is padded (Swin, LeViT).
        cut = rows >> halvings, columns >> halvings
        padded = -(-rows >> halvings), -(-columns >> halvings)
        for height, width in (cut, padded):
            if height * width and 0 <= num_tokens - height * width <= num_prefix_tokens:
                return TokenGrid(height, width, num_tokens - height * width)
    return None


def spread_over_image(evidence: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Evidence per position as evidence per pixel: bilinear, and its sum stays the same.

    Each position's amount is shared out among the pixels around its centre by the weights of bilinear interpolation,
    divided by their sum. Where the grid divides the image evenly this is plain bilinear interpolation divided by the
    pixels of a position.

    Args:
        evidence: [..., height, width] of the grid, which is taken to cover the image from edge to edge.
        image_size: (height, width) in pixels, at least those of the grid.

    Returns:
        [..., *image_size].

    Raises:
        ValueError: the image has fewer pixels than the grid has positions, down or across.
    """
    height, width = evidence.shape[-2:]
    if image_size[0] < height or image_size[1] < width:
        raise ValueError(
            f"An image of {image_size[0]}x{image_size[1]} pixels is smaller than the grid of {height}x{width} "
            "positions; maps are enlarged, never reduced. Pass the size of the image the grid was computed from."
        )
    rows, columns = (
        _interpolation(positions, pixels).to(evidence)
        for positions, pixels in zip((height, width), image_size, strict=True)
    )
    return rows @ evidence @ columns.T  # [H, h] @ [..., h, w] @ [w, W]


def _interpolation(positions: int, pixels: int) -> Tensor:
    """Bilinear weights along one axis, [pixels, positions], each position's adding up to one."""
    weights = F.interpolate(torch.eye(positions)[None], size=pixels, mode="linear")[0].T
    return weights / weights.sum(dim=0)


def _is_in_proportion(height: int, width: int, image_size: tuple[int, int]) -> bool:
    """Whether a map of this size has the image's proportions, up to one position, and no more positions than pixels."""
    fits = height <= image_size[0] and width <= image_size[1]
    return fits and abs(height * image_size[1] - width * image_size[0]) < max(image_size)


def _patch_size(config: PretrainedConfig) -> tuple[int, int] | None:
    """(height, width) in pixels of the steps in which the image is cut into tokens; None where it is not."""
    vision = getattr(config, "vision_config", None) or config
    # Hiera's patches overlap: their stride counts. PVT and its like have one size for each stage.
    for name in ("patch_stride", "patch_size", "patch_sizes"):
        size = getattr(vision, name, None)
        if size is not None:
            first, *others = [size] if isinstance(size, int) else size
            return (first, others[0]) if others and name != "patch_sizes" else (first, first)
    return None

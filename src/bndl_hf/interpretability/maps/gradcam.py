"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of a class or a factor, for every backbone with a map.

The map is the last hidden state on whose positions the features depend: for a pooled backbone the last stage, for a
CLS-token ViT what its last block reads, because the patches it writes go nowhere. factor_maps.py needs no gradient and
is exact where the features are an average; this is for comparison, and for all others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bndl_hf.interpretability.choices import check_sees_images, chosen_factors, largest_parts
from bndl_hf.interpretability.maps.token_grid import token_grid
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.logit_posterior import Posterior
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel


def gradcam(
    model: BNDLPreTrainedModel,
    pixel_values: Tensor,
    target: Tensor | int | None = None,
    factor: Tensor | int | None = None,
    **backbone_inputs: Tensor | bool | None,
) -> Tensor:
    """Grad-CAM at the image's size, each image's largest value 1.

    The gradient is that of the posterior means: of the logit sum_k E[theta_k] E[Phi_kc], or of E[theta_k].

    Args:
        model: a `BNDLForImageClassification` or a `BNDLModel`; it keeps its mode, and no parameter gets a gradient.
        pixel_values: [B, channels, height, width].
        target: class per image [B], one class for all, or None for each image's top class.
        factor: a factor for all images, or one for each [B], instead of a class.
        **backbone_inputs: what else the backbone reads, see `extract_features`.

    Returns:
        [B, height, width] in [0, 1]; zero everywhere where the gradient is, as for a factor whose score is zero.

    Raises:
        TypeError: for a decision layer alone.
        ValueError: for images of another shape, a class or factor out of range, both at once, or a backbone without a
            map of two positions or more.

    Example:
        >>> gradcam(model, pixel_values).shape
        torch.Size([8, 64, 64])
    """
    check_sees_images(model, pixel_values)
    if target is not None and factor is not None:
        raise ValueError(f"target={target} and factor={factor}: Grad-CAM explains a class or a factor; pass one.")
    layer = model.decision_layer

    def coefficients(scores: Posterior) -> Tensor:  # [B, 1, K]
        if factor is None:
            return layer.factor_loadings.T[largest_parts(scores, layer, target, top_k=1).target][:, None]
        factors = torch.as_tensor(factor)
        if factors.ndim > 1:
            raise ValueError(f"factor has shape {list(factors.shape)}; pass one, or one for each image.")
        chosen = chosen_factors(factors[:, None] if factors.ndim else factors, len(pixel_values), layer)
        return F.one_hot(chosen, scores.mean.shape[1]).float()

    cam = gradcam_on_grid(model, coefficients, pixel_values, **backbone_inputs)
    cam = F.interpolate(cam, size=pixel_values.shape[-2:], mode="bilinear")[:, 0]
    largest = cam.amax(dim=(-2, -1), keepdim=True)
    return torch.where(largest > 0, cam / largest, 0.0)


def gradcam_on_grid(
    model: BNDLPreTrainedModel,
    coefficients: Callable[[Posterior], Tensor],
    pixel_values: Tensor,
    **backbone_inputs: Tensor | bool | None,
) -> Tensor:
    """Grad-CAM of k sums of factor scores per image, on the grid of the hidden state, [B, k, h, w] >= 0, any scale.

    Args:
        model: the BNDL model.
        coefficients: from the posterior of the scores, [B, K], the k sums [B, k, K].
        pixel_values: [B, channels, height, width].
        **backbone_inputs: what else the backbone reads.

    Raises:
        ValueError: for a backbone without a map of two positions or more.
    """
    model = evaluation_view(model)
    device_type, layer = pixel_values.device.type, model.decision_layer
    with torch.inference_mode(False), torch.enable_grad():
        pixel_values = pixel_values.detach().clone().requires_grad_()  # a frozen backbone has no other gradient
        output = model._run_backbone(pixel_values, output_hidden_states=True, **backbone_inputs)
        with torch.autocast(device_type=device_type, enabled=False):
            scores = layer.score_posterior(output["logits"])
            with torch.no_grad():
                sums = coefficients(scores)
            values = torch.einsum("bkf,bf->k", sums, scores.mean)  # images do not see each other: their sum will do
        image_size, config = (pixel_values.shape[-2], pixel_values.shape[-1]), model.backbone.config
        states = output.get("hidden_states") or ()
        grids = [(state, token_grid(state, image_size, config)) for state in states]
        maps = [(state, grid) for state, grid in grids if grid is not None and grid.num_positions > 1]
        if not maps:
            raise ValueError(
                f"{type(model.backbone).__name__} makes no map of two positions or more of an image of {image_size[0]}x"
                f"{image_size[1]} pixels, so nothing can be said about places in it; pass larger images if it halves "
                "them until one position is left, or another backbone if it reads no grid (Perceiver). explain() needs "
                "no positions."
            )
        gradients = torch.autograd.grad(
            values.sum(), [state for state, _ in maps], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        used = [bool(grid.positions(gradient).any()) for gradient, (_, grid) in zip(gradients, maps, strict=True)]
        last = max((index for index, is_used in enumerate(used) if is_used), default=-1)
        state, grid = maps[last]
        per_sum = [gradients[last]]
        if len(values) > 1:
            per_sum = [
                torch.autograd.grad(value, state, retain_graph=True, materialize_grads=True)[0] for value in values
            ]
        activations = grid.positions(state).detach().float()  # [B, P, D]
        weights = torch.stack([grid.positions(gradient).float().mean(dim=1) for gradient in per_sum], dim=1)
        cam = F.relu(weights @ activations.transpose(1, 2))  # [B, k, D] @ [B, D, P] -> [B, k, P]
        return cam.unflatten(-1, (grid.height, grid.width))

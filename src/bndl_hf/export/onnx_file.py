"""One ONNX file that answers as the model does: exported, cleaned, checked in onnxruntime, and only then written.

The exporter is torch's (`torch.export`). What it writes of the machine it ran on - paths, lines of source - is taken
out (storage.py). Read answer_graph.py for what the graph computes and agreement.py for how it is checked.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bndl_hf.export.agreement import Session, largest_deviations
from bndl_hf.export.answer_graph import AnswerGraph
from bndl_hf.export.storage import halve_weights, remove_traces, store_zeros_sparsely
from bndl_hf.model.backbone_inputs import check_pixel_values, example_inputs, num_channels
from bndl_hf.model.backbone_inputs import image_size as size_of_config
from bndl_hf.model.evaluation_view import evaluation_view
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.utils.files import written_whole

# What torch's exporter writes without a conversion; onnxruntime reads it since 1.17, onnxruntime-web too.
DEFAULT_OPSET = 20
METADATA_KEY = "bndl_hf"
# Accepted deviations: ten roundings of float32 in a row, a few of float16 in the weights.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
_LARGEST_FILE = 2**31 - 1  # bytes protobuf can hold


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Attributes:
        path: the file.
        size: bytes.
        outputs: names of the outputs, in their order.
        image_size: (height, width) in pixels of the images it reads.
        deviations: largest deviation of each output from the model, in units of max(1, largest absolute value).
    """

    path: Path
    size: int
    outputs: tuple[str, ...]
    image_size: tuple[int, int]
    deviations: dict[str, float]


def export_onnx(
    model: BNDLForImageClassification,
    path: str | os.PathLike[str],
    *,
    top_k: int | None = None,
    half: bool = False,
    opset: int = DEFAULT_OPSET,
    image_size: int | tuple[int, int] | None = None,
    example: Tensor | None = None,
    tolerance: float | None = None,
) -> OnnxExport:
    """Write the model as one ONNX graph and check in onnxruntime that it answers as `predict` and `explain` do.

    The graph reads `pixel_values` [B, channels, height, width], float32, any number of images of one size, and gives,
    each as `BNDLPrediction`, `Evidence` and `ClassMaps` define it:

    - `probs`, `logits_mean`, `logits_variance` [B, C]; `total`, `aleatoric`, `epistemic` [B], nats;
    - `gap_mean`, `gap_variance` [B]: of the gap between the two largest mean logits, before recalibration;
    - `fisher_statistic` [B], where the model has a familiarity (`set_familiarity`);
    - `factors` [B, k] int64, `contributions` [B, k], `rest`, `bias` [B]: the parts of the top class's logit;
    - `class_map` [B, h, w]: evidence for the top class by position, where the features are an average over positions.

    Temperature and variance scale are part of the graph. What only compares these numbers with others is left to the
    reader of the outputs; the file's metadata entry "bndl_hf" holds what that takes, as JSON: label names, num_samples,
    temperature, variance_scale, abstain_below, conformal, verdict and image size.

    Args:
        model: a `BNDLForImageClassification`, on any device.
        path: of the file, whose folder is made. It appears whole, and only once the check has passed.
        top_k: k, how many parts to name, 1 .. K; None names five, or all of fewer, as `explain` does.
        half: store large weights as float16, which halves the file; everything is still computed in float32.
        opset: version of the ONNX operators.
        image_size: side or (height, width) in pixels; None takes the configuration's.
        example: pixel values [N, channels, height, width] to trace and check with; None makes random ones. Images of
            the model's own kind are the better check.
        tolerance: largest deviation accepted of any output, in units of max(1, its largest absolute value); None is
            1e-4, and 1e-2 with `half`.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        TypeError: `model` has no backbone, or `example` is not a tensor of floating-point numbers.
        ValueError: the backbone reads more than pixel values (SigLIP 2); the size of its images is not known; `top_k`
            or `example` does not fit; the backbone cannot be exported; the graph answers differently; the file would
            be larger than 2 GB.

    Example:
        >>> from bndl_hf.export import export_onnx
        >>> export = export_onnx(model, "model.onnx")  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession(export.path)  # doctest: +SKIP
        >>> probs, total = session.run(["probs", "total"], {"pixel_values": pixel_values.numpy()})  # doctest: +SKIP
    """
    _check_installed()
    images = _example_images(model, example, image_size)
    view = _on_cpu_in_float32(evaluation_view(model))
    layer = view.decision_layer
    K = layer.raw_loadings.shape[0]
    top_k = min(5, K) if top_k is None else top_k
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= K:
        raise ValueError(f"top_k={top_k!r} must be a whole number between 1 and the number of factors, {K}.")
    if tolerance is None:
        tolerance = _HALF_TOLERANCE if half else _TOLERANCE
    with torch.no_grad():
        graph = AnswerGraph(view, images, top_k)
        proto = _exported(graph, images, opset)
    remove_traces(proto)
    store_zeros_sparsely(proto)
    if half:
        halve_weights(proto)
    height, width = images.shape[-2:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(_metadata(view, (height, width)), sort_keys=True)
    if (size := proto.ByteSize()) > _LARGEST_FILE:
        raise ValueError(
            f"The graph takes {size / 1e9:.1f} GB and one ONNX file holds 2. Pass half=True or take a smaller backbone."
        )
    content = proto.SerializeToString()
    deviations = largest_deviations(Session(content), view, images, top_k)
    apart = {name: value for name, value in deviations.items() if not value <= tolerance}
    if apart:
        listed = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
        raise ValueError(
            f"The exported graph answers differently from the model: {listed} (accepted: tolerance={tolerance:g}). "
            "Nothing was written. Pass a larger tolerance if that is close enough."
        )
    with written_whole(path) as partial:
        partial.write_bytes(content)
    return OnnxExport(Path(path), len(content), graph.outputs, (height, width), deviations)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed; pip install 'bndl-hf[export]'.") from error


def _example_images(
    model: BNDLForImageClassification, example: Tensor | None, image_size: int | tuple[int, int] | None
) -> Tensor:
    """Two images or more to trace and check with, on the CPU, float32."""
    if not isinstance(model, BNDLForImageClassification):
        raise TypeError(f"model is a {type(model).__name__}; export_onnx needs a BNDLForImageClassification.")
    config = model.backbone.config
    if "spatial_shapes" in model._input_names:
        raise ValueError(
            f"{type(model.backbone).__name__} reads patches with their spatial_shapes beside pixel_values, and the "
            "exported graph has one input, pixel_values. Export a model whose backbone reads images (vit, dinov2, "
            "swin, convnext, resnet, efficientnet, ...)."
        )
    if example is not None:
        check_pixel_values(example, config, model._input_names)
        size = tuple(example.shape[-2:])
        if image_size is not None and size != _both_sides(image_size):
            raise ValueError(f"example has {size[0]}x{size[1]} pixels and image_size={image_size}; pass one of them.")
        images = example.detach().float().cpu()
        return images if len(images) >= 3 else images.repeat(3, 1, 1, 1)
    if image_size is None and size_of_config(config) is None:
        raise ValueError(
            f"The configuration of {type(model.backbone).__name__} does not say how large its images are; pass "
            "image_size=224, say: what its image processor makes."
        )
    if image_size is None:
        return example_inputs(model.backbone, batch_size=3)["pixel_values"].float().cpu()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, num_channels(config), *_both_sides(image_size), generator=generator)


def _both_sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size={image_size} must be one or two numbers of pixels above zero.")
    return height, width


def _on_cpu_in_float32(model: BNDLForImageClassification) -> BNDLForImageClassification:
    """The model itself where it is on the CPU in float32, else a copy that is."""
    if all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters()):
        return model
    return copy.deepcopy(model).cpu().float()


def _exported(graph: AnswerGraph, images: Tensor, opset: int) -> Any:
    """The graph as an `onnx.ModelProto`, for any number of images."""
    batch = {"pixel_values": {0: torch.export.Dim("batch", min=1)}}
    try:
        with _quietly():
            return _through_torch(graph, images, batch, opset)
    except RuntimeError as error:  # torch's exporters raise nothing else
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"{type(graph.model.backbone).__name__} cannot be exported; torch's exporter says: {reason[:300]}. "
            "Nothing was written. See docs/export.md for the backbones that are known to work."
        ) from error


def _through_torch(graph: AnswerGraph, images: Tensor, batch: dict[str, Any], opset: int) -> Any:
    program = torch.export.export(graph, (), {"pixel_values": images}, dynamic_shapes=batch, strict=False)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=["pixel_values"],
        output_names=list(graph.outputs),
    )
    assert exported is not None
    return exported.model_proto


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's notes on packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _metadata(model: BNDLForImageClassification, image_size: tuple[int, int]) -> dict[str, Any]:
    """What a reader of the outputs needs to make decisions of them; no names of files or machines."""
    config = model.decision_layer.config
    names = (
        "num_samples",
        "certainty_threshold",
        "temperature",
        "variance_scale",
        "abstain_below",
        "conformal",
        "verdict",
    )
    return {
        "image_size": list(image_size),
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        **{name: getattr(config, name) for name in names},
    }

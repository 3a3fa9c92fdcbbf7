"""What explanations cost: maps of evidence against a forward pass of the same model, SEPIN over many factors.

    python scripts/benchmarks/explanations.py --output docs/results/explanations_cost.json
    python scripts/benchmarks/explanations.py --model MODEL --image_size 64

Forward pass and explanation run in turns on the same machine; what counts is the median of their ratios. Without
`--model` the backbones are those of BACKBONES in their standard sizes with random weights, which time does not depend
on.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    Dinov2Config,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from bndl_hf import BNDLForImageClassification
from bndl_hf.interpretability import class_maps, factor_maps, gradcam, sepin_at_k
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import seconds_taken
from common import Arguments, parse, table, write_result

BACKBONES: dict[str, Callable[[], PretrainedConfig]] = {
    "resnet-50": ResNetConfig,
    "convnext-tiny": ConvNextConfig,
    "swin-tiny": SwinConfig,
    "dinov2-small": partial(Dinov2Config, hidden_size=384, num_attention_heads=6, image_size=224),
    "vit-small": partial(ViTConfig, hidden_size=384, num_attention_heads=6, intermediate_size=1536),
}


@dataclass
class ExplanationsArguments(Arguments):
    """On which models, with how much, how often."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an image classifier; without it, all of BACKBONES."}
    )
    image_size: int = field(default=224, metadata={"help": "Side of the images in pixels."})
    batch_size: int = field(default=8, metadata={"help": "Images at a time."})
    top_k: int = field(default=5, metadata={"help": "Factors explained per image."})
    repeats: int = field(default=9, metadata={"help": "Pairs of timings."})
    sepin_factors: int = field(default=512, metadata={"help": "Factors that SEPIN is timed with."})
    sepin_images: int = field(default=2048, metadata={"help": "Images that SEPIN is timed with."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})
    output: str = field(default="outputs/bench/explanations.json", metadata={"help": "JSON file to write."})


def models(arguments: ExplanationsArguments) -> dict[str, BNDLForImageClassification]:
    """The classifiers to time, by name."""
    torch.manual_seed(0)
    if arguments.model is not None:
        sources = {Path(arguments.model).name: arguments.model}
    else:
        sources = {name: AutoModelForImageClassification.from_config(make()) for name, make in BACKBONES.items()}
    made = {
        name: BNDLForImageClassification.from_backbone_pretrained(one, num_labels=10) for name, one in sources.items()
    }
    return {name: nn.Module.to(model, arguments.device).eval() for name, model in made.items()}


def compare_with_forward(
    model: BNDLForImageClassification, pixel_values: Tensor, arguments: ExplanationsArguments
) -> dict[str, Any]:
    """Seconds of a forward pass, and how many of it factor maps, class maps and Grad-CAM take."""

    def forward() -> None:
        with torch.no_grad():
            model(pixel_values)

    ways: dict[str, Callable[[], Any]] = {
        "factor_maps": partial(factor_maps, model, pixel_values, top_k=arguments.top_k),
        "class_maps": partial(class_maps, model, pixel_values),
        "gradcam": partial(gradcam, model, pixel_values),
    }
    maps = ways["factor_maps"]()
    for explain in ways.values():  # first calls, which allocate, are not counted
        explain()
    rounds = []
    for _ in range(arguments.repeats):
        before = seconds_taken(forward, arguments.device)
        taken = {name: seconds_taken(explain, arguments.device) for name, explain in ways.items()}
        after = seconds_taken(forward, arguments.device)
        rounds.append({"forward": (before + after) / 2, **taken})
    return {
        "method": maps.method,
        "grid": list(maps.evidence.shape[-2:]),
        "forward_seconds": statistics.median(one["forward"] for one in rounds),
        **{f"{name}_passes": statistics.median(one[name] / one["forward"] for one in rounds) for name in ways},
    }


def time_sepin(arguments: ExplanationsArguments) -> dict[str, Any]:
    """Seconds of SEPIN@10 over random scores."""
    generator = torch.Generator().manual_seed(0)
    shape = arguments.sepin_images, arguments.sepin_factors
    scores = torch.rand(shape, generator=generator)
    views = [scores + 0.3 * torch.rand(shape, generator=generator) for _ in range(2)]
    seconds = [seconds_taken(partial(sepin_at_k, views[0], views[1], 10), "cpu") for _ in range(3)]
    return {"factors": shape[1], "images": shape[0], "batch_size": 256, "seconds": statistics.median(seconds)}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, time, print."""
    arguments = parse(ExplanationsArguments, __doc__, argv)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size, generator=generator)
    pixels = pixels.to(arguments.device)
    runs = [
        {"backbone": name, **compare_with_forward(model, pixels, arguments)}
        for name, model in tqdm(models(arguments).items(), desc="Backbones", disable=arguments.quiet)
    ]
    settings = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "top_k", "repeats")}
    sepin = time_sepin(arguments)
    write_result(arguments, {**settings, "runs": runs, "sepin": sepin})
    print(table(runs))
    print(f"\nSEPIN over {sepin['factors']} factors and {sepin['images']} images: {sepin['seconds']:.1f} s")
    print(f"Passes are forward passes of the same model. Written to {arguments.output}")


if __name__ == "__main__":
    run(main)

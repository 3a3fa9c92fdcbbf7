r"""What factors are worth: BNDL's beside those of other heads on one backbone, and its maps beside other maps.

    python scripts/benchmarks/factors.py heads --features FILE --model_name_or_path BACKBONE --dataset_name DATA \
        --output docs/results/factors_cifar10.json
    python scripts/benchmarks/factors.py maps --model_name_or_path outputs/cifar10-frozen --dataset_name DATA \
        --output docs/results/maps_cifar10.json

heads: every head and seed is trained on FILE (heads.py features, of the same BACKBONE) and judged on all
test rows: accuracy, purity of the factors' top images, SEPIN@k between two random views of test images, and what
Prop. 1 certifies. maps: of the largest part of each answer, how exact maps, Grad-CAM and LIME agree, and what becomes
of the factor where each of them has its pixels deleted or inserted. Finished runs of heads are kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoImageProcessor, set_seed

from bndl_hf import BNDLForImageClassification
from bndl_hf.baselines import HEADS, FeatureTask, train_head
from bndl_hf.data import DataArguments, collate, load_image_dataset
from bndl_hf.interpretability import (
    FaithfulnessCurves,
    MapAgreement,
    factor_maps,
    factor_purity,
    factor_score,
    faithfulness_curves,
    gradcam,
    identifiability_report,
    lime_factor,
    map_agreement,
    sepin_at_k,
)
from bndl_hf.uncertainty import accuracy
from bndl_hf.utils.command_line import run
from common import (
    Arguments,
    HeadsArguments,
    finish_runs,
    flat,
    json_object,
    mean_over_seeds,
    parse_command,
    table,
    write_result,
)

KS = (1, 10, 100)  # and all
FIGURES = ("accuracy", "sparsity", "active_factors", "purity", "purity_of_best_10", "chance", "nt_xent")


@dataclass(kw_only=True)
class ViewsArguments(HeadsArguments):
    """Two random views of test images through the backbone of the features."""

    model_name_or_path: str = field(metadata={"help": "Backbone of the features, or a BNDL classifier with it."})
    dataset_name: str = field(metadata={"help": "Test images to look at, as in finetune.py."})
    hold_out: int = field(default=5000, metadata={"help": "Rows of train left out, as in heads.py heads."})
    config: str = field(default="{}", metadata={"help": "Fields of BNDLConfig over each head's own, as JSON."})
    num_images: int = field(default=2048, metadata={"help": "Test images with two views."})
    augmentation: str = field(default="crop_flip", metadata={"help": "What makes a view, as in finetune.py."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})

    def views_settings(self) -> dict[str, Any]:
        """What two sets of views must agree in to be the same."""
        return {
            "model": Path(self.model_name_or_path).name,
            "augmentation": self.augmentation,
            "num_images": self.num_images,
            "seed": 0,
        }


@dataclass(kw_only=True)
class FactorsArguments(ViewsArguments):
    """What the factors of several heads are worth."""

    heads: list[str] = field(
        default_factory=lambda: ["bndl", "dense", "nmf"],
        metadata={"help": f"Decision layers, of: {', '.join(HEADS)}."},
    )
    temperature: float = field(default=0.1, metadata={"help": "Of SEPIN's critic."})
    batch_size: int = field(default=256, metadata={"help": "Of SEPIN: images one is told from."})
    top: int = field(default=20, metadata={"help": "Images that purity is judged by."})
    output: str = field(default="outputs/bench/factors.json", metadata={"help": "JSON file, rewritten after a run."})


@dataclass(kw_only=True)
class MapsArguments(Arguments):
    """What the maps of one classifier are worth."""

    model_name_or_path: str = field(metadata={"help": "BNDL classifier."})
    dataset_name: str = field(metadata={"help": "Test images to look at, as in finetune.py."})
    num_images: int = field(default=100, metadata={"help": "Test images."})
    num_segments: int = field(default=50, metadata={"help": "Super-pixels of LIME, about."})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, ..."})
    output: str = field(default="outputs/bench/maps.json", metadata={"help": "JSON file to write."})


# ---- factors of several heads ----


def compare_heads(arguments: FactorsArguments) -> list[dict[str, Any]]:
    """Every head and seed: what its factors are worth."""
    task, config = arguments.task(), json_object(arguments.config, "--config")
    settings = {
        **arguments.settings(task),
        "views": arguments.views_settings(),
        "sepin": {"temperature": arguments.temperature, "batch_size": arguments.batch_size},
        "purity": {"top": arguments.top},
        "config": config,
    }
    views = functools.cache(partial(random_views, arguments))  # made when the first run needs them

    def one_run(head: str, seed: int) -> dict[str, Any]:
        return judge(train_head(head, task, seed, config, **arguments.training()), task, views(), arguments)

    return finish_runs(arguments, settings, arguments.head_and_seed(), one_run)


@torch.no_grad()
def random_views(arguments: ViewsArguments) -> tuple[Tensor, Tensor]:
    """Features of two random views of the same test images, each [N, D]."""
    name = arguments.model_name_or_path
    kind, is_bndl = BNDLForImageClassification, AutoConfig.from_pretrained(name).model_type == "bndl"
    model = (kind.from_pretrained if is_bndl else kind.from_backbone_pretrained)(name).eval()
    nn.Module.to(model, arguments.device)
    processor = AutoImageProcessor.from_pretrained(name)
    chosen = DataArguments(arguments.dataset_name, max_eval_samples=arguments.num_images)
    rows = load_image_dataset(chosen, evaluation_only=True).with_pixel_values("test", processor, arguments.augmentation)
    views = []
    for view in range(2):
        set_seed(view)
        batches = tqdm(DataLoader(rows, 64, collate_fn=collate), desc=f"View {view + 1} of 2", disable=arguments.quiet)
        found = [model.extract_features(batch["pixel_values"].to(model.device)) for batch in batches]
        views.append(torch.cat(found).flatten(1).float().cpu())
    return views[0], views[1]


@torch.no_grad()
def judge(layer: Any, task: FeatureTask, views: tuple[Tensor, Tensor], arguments: FactorsArguments) -> dict[str, Any]:
    """All figures of one trained head."""
    features, labels = task.reporting
    loadings = layer.factor_loadings
    is_used = (loadings != 0).any(dim=1)  # the others reach no logit
    a, b = (layer.score_posterior(view).mean[:, is_used] for view in views)
    sepin = sepin_at_k(a, b, 1, arguments.temperature, arguments.batch_size, progress=not arguments.quiet)
    scores = layer.score_posterior(features).mean
    purity = factor_purity(scores.clamp_min(0), labels, arguments.top)  # a dense head on signed features: its peaks
    alive = (purity.num_top > 0) & is_used
    certified = identifiability_report(scores, loadings) if loadings.min() >= 0 else None
    K = a.shape[1]
    return {
        "accuracy": accuracy(layer.predict(features).probs, labels),
        "num_factors": scores.shape[1],
        "used_factors": K,
        "active_factors": int(alive.sum()),
        "sparsity": layer.sparsity(),
        "purity": purity.purity[alive].mean().item(),
        "purity_of_best_10": purity.purity[alive].topk(min(10, int(alive.sum()))).values.mean().item(),
        "chance": purity.chance,
        "sepin": {**{f"@{k}": sepin.at(k) for k in KS if k <= K}, "@all": sepin.at(K)},
        "nt_xent": sepin.loss,
        "identifiable": None if certified is None else int(certified.identifiable.sum()),
        "selective_windows": None if certified is None else int(certified.selective_window.sum()),
    }


# ---- maps of one model ----


def compare_maps(arguments: MapsArguments) -> dict[str, Any]:
    """Agreement and faithfulness of the maps of each image's largest part."""
    name = arguments.model_name_or_path
    model = BNDLForImageClassification.from_pretrained(name).to(arguments.device).eval()
    processor = AutoImageProcessor.from_pretrained(name)
    chosen = DataArguments(arguments.dataset_name, max_eval_samples=arguments.num_images)
    rows = load_image_dataset(chosen, evaluation_only=True).with_pixel_values("test", processor)
    pixel_values = collate(list(rows))["pixel_values"].to(model.device)
    exact = factor_maps(model, pixel_values, top_k=1)
    factors = exact.factors[:, 0]
    maps = {
        "factor_maps": exact.maps[:, 0],
        "gradcam": torch.stack(
            [gradcam(model, one[None], factor=int(k))[0] for one, k in zip(pixel_values, factors, strict=True)]
        ),
        "lime": torch.stack(
            [
                lime_factor(model, one, int(k), num_segments=arguments.num_segments, progress=False).map
                for one, k in zip(tqdm(pixel_values, desc="LIME", disable=arguments.quiet), factors, strict=True)
            ]
        ).to(model.device),
        "random": torch.zeros_like(exact.maps[:, 0]),
    }
    watched = factor_score(model, factors)
    scores = exact.scores[:, 0]
    curves = {
        f"{way}, {baseline}": faithfulness_curves(watched, pixel_values, found, baseline=baseline)
        for way, found in maps.items()
        for baseline in ("blur", "mean")
    }
    agreement = {
        f"factor_maps and {other}": means(map_agreement(maps["factor_maps"].cpu(), maps[other].cpu()))
        for other in ("gradcam", "lime")
    }
    result = {
        "model": Path(name).name,
        "num_images": len(pixel_values),
        "grid": list(exact.evidence.shape[-2:]),
        "method": exact.method,
        "num_segments": arguments.num_segments,
        "faithfulness": {way: areas(one, scores, curves[f"random, {one.baseline}"]) for way, one in curves.items()},
        "agreement": agreement,
    }
    write_result(arguments, result)
    return result


def areas(curves: FaithfulnessCurves, scores: Tensor, control: FaithfulnessCurves) -> dict[str, float]:
    """Mean areas in shares of the whole image's score, and on how many images they beat the random order."""
    return {
        "deletion": (curves.deletion_area / scores).mean().item(),
        "insertion": (curves.insertion_area / scores).mean().item(),
        "deletion_beats_random": (curves.deletion_area < control.deletion_area).float().mean().item(),
        "insertion_beats_random": (curves.insertion_area > control.insertion_area).float().mean().item(),
    }


def means(agreement: MapAgreement) -> dict[str, float]:
    """Over the images, beside the overlap of maps that have nothing to do with each other."""
    return {
        "rank_correlation": agreement.rank_correlation.mean().item(),
        "overlap": agreement.overlap.mean().item(),
        "chance_overlap": agreement.chance_overlap,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command asked for."""
    arguments = parse_command({"heads": FactorsArguments, "maps": MapsArguments}, __doc__, argv)
    if isinstance(arguments, FactorsArguments):
        runs = compare_heads(arguments)
        sepin = [name for name in flat(runs[0]) if name.startswith("sepin")]
        print(table(mean_over_seeds(runs, by=("head",), of=(*FIGURES, *sepin))))
    else:
        result = compare_maps(arguments)
        for what, words in (("faithfulness", "map"), ("agreement", "pair")):
            print(table([{words: name, **figures} for name, figures in result[what].items()]) + "\n")
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)

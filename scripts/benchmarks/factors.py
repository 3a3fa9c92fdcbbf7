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

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoImageProcessor, set_seed

from bndl_hf import BNDLForImageClassification
from bndl_hf.baselines import HEADS, FeatureTask, current_defaults, train_head
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
from bndl_hf.utils.command_line import HelpFormatter, run
from bndl_hf.utils.results import describe_environment, read_finished, write_json

KS = (1, 10, 100)  # and all


# ---- factors of several heads ----


def compare_heads(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every head and seed: what its factors are worth."""
    task = FeatureTask.read(arguments.features, arguments.hold_out)
    settings = {
        "features": Path(arguments.features).name,
        "hold_out": arguments.hold_out,
        "views": {
            "model": Path(arguments.model_name_or_path).name,
            "augmentation": arguments.augmentation,
            "num_images": arguments.num_images,
            "seed": 0,
        },
        "sepin": {"temperature": arguments.temperature, "batch_size": arguments.batch_size},
        "purity": {"top": arguments.top},
        "config": arguments.config,
        "defaults": current_defaults(),
    }
    runs = read_finished(arguments.output, settings)
    done = {(one["head"], one["seed"]) for one in runs}
    wanted = [(head, seed) for head in arguments.heads for seed in arguments.seeds if (head, seed) not in done]
    views = random_views(arguments) if wanted else ()
    for head, seed in tqdm(wanted, desc="Heads x seeds"):
        layer = train_head(head, task, seed, arguments.config, disable_tqdm=True)
        runs.append({"head": head, "seed": seed, **judge(layer, task, views, arguments)})
        write_json(arguments.output, {"settings": settings, "environment": describe_environment(), "runs": runs})
    return runs


@torch.no_grad()
def random_views(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Features of two random views of the same test images, each [N, D]."""
    name = arguments.model_name_or_path
    kind, is_bndl = BNDLForImageClassification, AutoConfig.from_pretrained(name).model_type == "bndl"
    model = (kind.from_pretrained if is_bndl else kind.from_backbone_pretrained)(name).to(arguments.device).eval()
    processor = AutoImageProcessor.from_pretrained(name)
    chosen = DataArguments(arguments.dataset_name, max_eval_samples=arguments.num_images)
    rows = load_image_dataset(chosen, evaluation_only=True).with_pixel_values("test", processor, arguments.augmentation)
    views = []
    for view in range(2):
        set_seed(view)
        batches = tqdm(DataLoader(rows, 64, collate_fn=collate), desc=f"View {view + 1} of 2")
        found = [model.extract_features(batch["pixel_values"].to(model.device)) for batch in batches]
        views.append(torch.cat(found).flatten(1).float().cpu())
    return views[0], views[1]


@torch.no_grad()
def judge(layer: Any, task: FeatureTask, views: tuple[Tensor, ...], arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one trained head."""
    features, labels = task.reporting
    loadings = layer.factor_loadings
    is_used = (loadings != 0).any(dim=1)  # the others reach no logit
    a, b = (layer.score_posterior(view).mean[:, is_used] for view in views)
    sepin = sepin_at_k(a, b, 1, arguments.temperature, arguments.batch_size, progress=True)
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


def table_of_heads(runs: list[dict[str, Any]]) -> str:
    """Means over seeds as a Markdown table."""
    columns = ("accuracy", "sparsity", "active_factors", "purity", "purity_of_best_10", "chance", "nt_xent")
    ks = list(runs[0]["sepin"])
    lines = ["| head | " + " | ".join([*columns, *(f"SEPIN{k}" for k in ks)]) + " |"]
    lines.append("|---" * (1 + len(columns) + len(ks)) + "|")
    for head in dict.fromkeys(one["head"] for one in runs):
        of_head = [one for one in runs if one["head"] == head]
        values = [statistics.mean(one[column] for one in of_head) for column in columns]
        values += [statistics.mean(one["sepin"][k] for one in of_head) for k in ks]
        lines.append(f"| {head} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return "\n".join(lines)


# ---- maps of one model ----


def compare_maps(arguments: argparse.Namespace) -> dict[str, Any]:
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
                for one, k in zip(tqdm(pixel_values, desc="LIME"), factors, strict=True)
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
        "environment": describe_environment(),
    }
    write_json(arguments.output, result)
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


def table_of_maps(result: dict[str, Any]) -> str:
    """Faithfulness as a Markdown table, agreement below it."""
    first = next(iter(result["faithfulness"].values()))
    lines = ["| map | " + " | ".join(first) + " |", "|---" * (1 + len(first)) + "|"]
    for way, values in result["faithfulness"].items():
        lines.append(f"| {way} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")
    for pair, values in result["agreement"].items():
        lines.append(f"{pair}: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; every flag explained by --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    heads = commands.add_parser("heads", help="factors of several heads", formatter_class=HelpFormatter)
    heads.add_argument("--features", required=True, help="Features file of the backbone.")
    heads.add_argument(
        "--hold_out", type=int, default=5000, help="Rows of train left out, as in benchmarks/heads.py heads."
    )
    heads.add_argument("--heads", nargs="+", choices=list(HEADS), default=["bndl", "dense", "nmf"], help="Heads.")
    heads.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds of the training.")
    heads.add_argument("--config", type=json.loads, default={}, help="Fields of BNDLConfig over each head's, as JSON.")
    heads.add_argument("--num_images", type=int, default=2048, help="Test images with two views.")
    heads.add_argument("--augmentation", default="crop_flip", help="What makes a view, as in finetune.py.")
    heads.add_argument("--temperature", type=float, default=0.1, help="Of SEPIN's critic.")
    heads.add_argument("--batch_size", type=int, default=256, help="Of SEPIN: images one is told from.")
    heads.add_argument("--top", type=int, default=20, help="Images that purity is judged by.")
    maps = commands.add_parser("maps", help="maps of one model", formatter_class=HelpFormatter)
    maps.add_argument("--num_images", type=int, default=100, help="Test images.")
    maps.add_argument("--num_segments", type=int, default=50, help="Super-pixels of LIME, about.")
    for command in (heads, maps):
        command.add_argument("--model_name_or_path", required=True, help="Backbone, or BNDL classifier.")
        command.add_argument("--dataset_name", required=True, help="As in finetune.py.")
        command.add_argument("--device", default="cpu", help="cpu, cuda, ...")
        command.add_argument("--output", required=True, help="JSON file to write.")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, compare, print."""
    arguments = parse(argv)
    if arguments.command == "heads":
        print(table_of_heads(compare_heads(arguments)))
    else:
        print(table_of_maps(compare_maps(arguments)))
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    run(main)

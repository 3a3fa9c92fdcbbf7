r"""Train whole networks on images by a named recipe, one system after another, and compare what they know.

    python scripts/benchmarks/images.py --recipe cpu --dataset_name uoft-cs/cifar10 --seeds 0 1 2 \
        --ood_datasets cifar100=uoft-cs/cifar100 mnist=ylecun/mnist --output outputs/bench/images_cpu.json
    python scripts/benchmarks/images.py --recipe paper --dataset_name uoft-cs/cifar10 --systems bndl --max_steps 5 \
        --output outputs/bench/try.json
    python scripts/benchmarks/images.py --merge part1.json part2.json --output outputs/bench/images.json

Recipes (scripts/recipes/images/): paper (App. A.1), released (the released code), best (ours), cpu (two cores, under an
hour a system). Systems: plain, the network with its linear head; nmf and other heads in its place; mc_dropout, dropout
at the end of every stage, 20 passes; ensemble, the mean of three plain networks, those of this seed and the next two;
bndl, this library's layer; released, the authors'. All start from the same backbone weights and see the same images in
the same order.

A run that is finished is kept, in the results and as weights in --work_dir; one that was interrupted goes on from its
last checkpoint. Several processes may share --work_dir and --data_cache, but each writes an --output of its own, and
--merge makes one of them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bndl_hf.baselines.heads import HEADS
from bndl_hf.data import DataArguments
from bndl_hf.utils.command_line import run
from bndl_hf.utils.results import read_finished
from common import Arguments, finish_runs, json_object, mean_over_seeds, parse, table, write_result
from image_judging import NUM_DRAWS, TIMED_IMAGES, DrawnAnswers, HeadAnswers, cost_of, judge
from image_recipes import Recipe
from image_training import TRAINED, ImageTask, Networks, build, features_reader, head_of

SYSTEMS = (*TRAINED[:2], "ensemble", *TRAINED[2:])
MEMBERS = 3
FIGURES = (
    *("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage", "brier_score"),
    *("pavpu_20_draws", "sparsity", "tempered_negative_log_likelihood", "tempered_expected_calibration_error"),
)


@dataclass(kw_only=True)
class ImagesArguments(Arguments):
    """Recipe, images and systems; what a flag says goes before what the recipe says."""

    recipe: str = field(default="cpu", metadata={"help": "Named recipe, or a YAML file of the same keys."})
    dataset_name: str | None = field(default=None, metadata={"help": "The images, as in finetune.py."})
    ood_datasets: list[str] = field(
        default_factory=list, metadata={"help": "Out-of-distribution images, each NAME=DATASET."}
    )
    systems: list[str] = field(default_factory=lambda: list(SYSTEMS), metadata={"help": f"Of: {', '.join(SYSTEMS)}."})
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "Seeds of the trainings, one after another."}
    )
    epochs: float | None = field(default=None, metadata={"help": "Passes over the images."})
    max_steps: int = field(default=-1, metadata={"help": "Optimizer steps, for a try; -1 trains all epochs."})
    train_images: int | None = field(default=None, metadata={"help": "Images to train on."})
    test_images: int | None = field(default=None, metadata={"help": "Test and OOD images to judge on; all by default."})
    width: float | None = field(default=None, metadata={"help": "Width of the network, times ResNet-18's."})
    precision: str | None = field(default=None, metadata={"help": "bf16 or float32."})
    compile: str | None = field(default=None, metadata={"help": "What torch.compile gets: none, backbone or all."})
    change: str = field(
        default="{}", metadata={"help": "Other keys of the recipe, as JSON: '{\"learning_rate\": 0.05}'."}
    )
    work_dir: str | None = field(
        default=None, metadata={"help": "Checkpoints and weights; default: beside --output, NAME_runs/."}
    )
    data_cache: str | None = field(default=None, metadata={"help": "Decoded images; default: images/ in --work_dir."})
    resume: bool = field(default=True, metadata={"help": "Go on where an interrupted training was."})
    save_minutes: float = field(default=2.0, metadata={"help": "Between checkpoints."})
    merge: list[str] = field(
        default_factory=list, metadata={"help": "Result files to put into --output; nothing is trained."}
    )
    output: str = field(default="outputs/bench/images.json", metadata={"help": "JSON file, rewritten after a run."})

    def __post_init__(self) -> None:
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ValueError(f"--systems {' '.join(unknown)}: unknown; systems are {', '.join(SYSTEMS)}.")
        if self.dataset_name is None and not self.merge:
            raise ValueError(
                "--dataset_name is missing; pass a Hub id or a folder of parquet files: --dataset_name uoft-cs/cifar10."
            )

    def asked(self) -> Recipe:
        """The recipe with what the flags change."""
        names = ("epochs", "train_images", "width", "precision", "compile")
        flags = {name: value for name in names if (value := getattr(self, name)) is not None}
        return Recipe.read(self.recipe, **{**json_object(self.change, "--change"), **flags})

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What finished runs must agree in to be kept."""
        return {
            "recipe_name": Path(self.recipe).stem,
            "recipe": dataclasses.asdict(recipe),
            "dataset": str(self.dataset_name).rstrip("/").split("/")[-1],
            "ood": sorted(name.partition("=")[0] for name in self.ood_datasets),
            "max_steps": self.max_steps,
            "test_images": self.test_images,
        }


class Comparison:
    """Trains and judges one system with one seed at a time."""

    def __init__(self, arguments: ImagesArguments, recipe: Recipe) -> None:
        output = Path(arguments.output)
        folder = Path(arguments.work_dir or output.with_name(f"{output.stem}_runs"))
        data = DataArguments(str(arguments.dataset_name), max_eval_samples=arguments.test_images)
        cache = Path(arguments.data_cache or folder / "images")
        self.task = ImageTask(recipe, data, arguments.ood_datasets, cache)
        self.recipe = recipe
        self.networks = Networks(
            recipe,
            self.task,
            folder,
            arguments.max_steps,
            arguments.resume,
            arguments.save_minutes,
            arguments.quiet,
        )

    def run(self, system: str, seed: int) -> dict[str, Any]:
        """Figures on test images, what training took and what an answer costs."""
        seeds = range(seed, seed + MEMBERS) if system == "ensemble" else [seed]
        trained = [self.networks.get("plain" if system == "ensemble" else system, one) for one in seeds]
        models = [model for model, _ in trained]
        if system == "ensemble":
            answers: Any = DrawnAnswers(sum(head_of(m).sparsity() for m in models) / len(models))
            rows = self.rows(lambda pixels: torch.stack([m(pixel_values=pixels).logits for m in models], dim=1))
        elif system == "mc_dropout":
            answers = DrawnAnswers(head_of(models[0]).sparsity())
            set_dropout(models[0], True)
            torch.manual_seed(seed)
            rows = self.rows(lambda pixels: passes(models[0], pixels))
        else:
            method = "exact" if system == "plain" else HEADS[system].predict
            rows = self.rows(features_reader(models[0]))
            answers = HeadAnswers(head_of(models[0]), method)
        labels = {part: y for part, (_, y) in self.task.parts.items()}
        figures = judge(answers, rows, labels)
        return {**figures, "cost": self.cost(system, models), "training": [kept for _, kept in trained]}

    def rows(self, read: Any) -> dict[str, Tensor]:
        """What `read` makes of every part that is judged."""
        return {part: self.networks.rows(read, part) for part in self.task.parts if part != "train"}

    @torch.no_grad()
    def cost(self, system: str, models: list[Any]) -> dict[str, float]:
        """Seconds of an answer over seconds of a forward pass of the plain network: exact, or by draws."""
        device = self.networks.device
        test = self.task.in_memory("test", device)
        pixels = test.__getitems__(range(min(TIMED_IMAGES, len(test))))["pixel_values"]
        plain = build("plain", self.recipe, len(self.task.label_names), 0).to(device).eval()
        if self.recipe.channels_last:
            plain.to(memory_format=torch.channels_last)
        for model in models:
            model.to(device)
        answers: dict[str, Any] = {"exact": lambda x: plain(pixel_values=x).logits.softmax(-1)}
        if system == "ensemble":
            answers = {"draws": lambda x: [m(pixel_values=x).logits for m in models]}
        elif system == "mc_dropout":
            answers = {"draws": lambda x: passes(models[0], x)}
        elif system != "plain":
            draws = {"num_samples": NUM_DRAWS, "method": "monte_carlo"}
            answers = {"exact": models[0].predict, "draws": lambda x: models[0].predict(x, **draws)}
        with torch.autocast(device, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return {
                name: cost_of(answer, lambda x: plain(pixel_values=x).logits, pixels)
                for name, answer in answers.items()
            }


def set_dropout(model: nn.Module, draws: bool) -> None:
    """Whether dropout draws; all else stays in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train(draws)


def passes(model: Any, pixels: Tensor) -> Tensor:
    """Logits of S passes, [B, S, C]."""
    return torch.stack([model(pixel_values=pixels).logits for _ in range(NUM_DRAWS)], dim=1)


def merge(arguments: ImagesArguments) -> list[dict[str, Any]]:
    """The runs of several result files in the output file; the settings must agree, and nothing may be there twice.

    Raises:
        ValueError: files of other settings, or a missing file.
    """
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    settings: dict[str, Any] | None = None
    for name in arguments.merge:
        if not Path(name).is_file():
            raise ValueError(f"--merge {name}: there is no such file.")
        settings = settings or json.loads(Path(name).read_text()).get("settings")
        for one in read_finished(name, settings or {}):
            runs[one["system"], one["seed"]] = one
    merged = [runs[key] for key in sorted(runs, key=lambda key: (SYSTEMS.index(key[0]), key[1]))]
    write_result(arguments, {"settings": settings, "runs": merged})
    return merged


def main(argv: list[str] | None = None) -> None:
    """Every system with every seed, and the table of their means."""
    arguments = parse(ImagesArguments, __doc__, argv)
    if arguments.merge:
        runs = merge(arguments)
    else:
        recipe = arguments.asked()
        wanted = [{"system": system, "seed": seed} for seed in arguments.seeds for system in arguments.systems]
        runs = finish_runs(arguments, arguments.settings(recipe), wanted, Comparison(arguments, recipe).run)
    print(table(mean_over_seeds(runs, by=("system",), of=FIGURES)))
    print(f"\nWritten to {arguments.output}")


if __name__ == "__main__":
    run(main)

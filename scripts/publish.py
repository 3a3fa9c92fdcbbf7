r"""Publish a trained BNDL classifier on the Hub: weights, code, image processor, results and card in one commit.

    python scripts/publish.py --model_name_or_path outputs/mine --repo_id alice/vit-bndl --dry_run

    python scripts/publish.py --model_name_or_path outputs/mine --repo_id alice/vit-bndl \
        --base_model google/vit-base-patch16-224 --dataset_name uoft-cs/cifar10 --license apache-2.0

--dry_run lists exactly what would be uploaded and makes no network call. results.json and README.md are taken from the
model's folder when they are there (finetune.py writes both); paths and tokens never leave this machine. Log in first
with `hf auth login`, or set HF_TOKEN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers import AutoImageProcessor, HfArgumentParser

from bndl_hf import BNDLForImageClassification
from bndl_hf.hub import list_contents, push_to_hub
from bndl_hf.interpretability import load_factor_thumbnails
from bndl_hf.utils.command_line import HelpFormatter, run


@dataclass
class PublishArguments:
    """What to publish, and where."""

    model_name_or_path: str = field(metadata={"help": "Folder (or Hub id) of a BNDL classifier and its processor."})
    repo_id: str = field(
        metadata={"help": "namespace/name on the Hub, or a name in your own namespace; made if it is not there."}
    )
    results: str | None = field(
        default=None, metadata={"help": "JSON file of measured figures; default: results.json in the model's folder."}
    )
    figures: list[str] = field(
        default_factory=list, metadata={"help": "Image files to publish and to show in the card."}
    )
    examples: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Image files to publish and to show with the model's answers, on a new card and in the widget "
            "of the model page; they must be yours to publish."
        },
    )
    card: str | None = field(
        default=None,
        metadata={"help": "Model card to publish as it is; default: README.md in the model's folder, else a new one."},
    )
    new_card: bool = field(default=False, metadata={"help": "Write a new card even if the folder has a README.md."})
    base_model: str | None = field(default=None, metadata={"help": "For a new card: the classifier that was wrapped."})
    dataset_name: str | None = field(default=None, metadata={"help": "For a new card: the data it was trained on."})
    license: str | None = field(default=None, metadata={"help": "For a new card, e.g. apache-2.0."})
    language: list[str] | None = field(default=None, metadata={"help": "For a new card: of the class names, e.g. en."})
    tags: list[str] | None = field(default=None, metadata={"help": "For a new card, beside those of every BNDL model."})
    publish_thumbnails: bool = field(
        default=False,
        metadata={
            "help": "Publish factor_thumbnails/ of the model's folder too: small copies of images it was collected "
            "from, training images where finetune.py did, which must be yours to publish."
        },
    )
    private: bool = field(
        default=False, metadata={"help": "Make the repository private; without it, as your account is set."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch to push to, made if it is not there."})
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request instead of changing the branch."})
    commit_message: str | None = field(default=None, metadata={"help": "Default: 'Upload BNDL classifier'."})
    dry_run: bool = field(default=False, metadata={"help": "List what would be uploaded; upload nothing."})


def gather(arguments: PublishArguments) -> dict[str, Any]:
    """The arguments `push_to_hub` and `list_contents` share: model, processor, results, figures and card."""
    folder = Path(arguments.model_name_or_path)
    results = _chosen(arguments.results, folder / "results.json", "--results")
    new_facts = {
        name: getattr(arguments, name) for name in ("base_model", "dataset_name", "license", "language", "tags")
    }
    is_new = arguments.new_card or bool(arguments.examples) or any(new_facts.values())
    card = None if is_new and arguments.card is None else _chosen(arguments.card, folder / "README.md", "--card")
    thumbnails = load_factor_thumbnails(arguments.model_name_or_path) if arguments.publish_thumbnails else None
    if arguments.publish_thumbnails and thumbnails is None:
        raise ValueError(
            f"--publish_thumbnails: {arguments.model_name_or_path} has no factor_thumbnails; collect them with "
            "bndl_hf.interpretability.collect_factor_thumbnails(...).save(folder), or leave the flag out."
        )
    return {
        "thumbnails": thumbnails,
        "model": BNDLForImageClassification.from_pretrained(arguments.model_name_or_path),
        "processor": AutoImageProcessor.from_pretrained(arguments.model_name_or_path),
        "repo_id": arguments.repo_id,
        "results": _read_results(results) if results else None,
        "figures": arguments.figures,
        "examples": arguments.examples,
        "card": ModelCard.load(card) if card else None,
        **new_facts,
    }


def _chosen(given: str | None, default: Path, flag: str) -> Path | None:
    """The file that was named, or the default if it is there."""
    if given is None:
        return default if default.is_file() else None
    if not Path(given).is_file():
        raise ValueError(f"{flag} {given} is not a file here.")
    return Path(given)


def _read_results(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); name another file with --results.") from error


def print_contents(contents: dict[str, int], repo_id: str) -> None:
    """One line a file, with its size, and the sum."""
    width = max(map(len, contents))
    for name, size in contents.items():
        print(f"  {name:<{width}}  {size:>13,} bytes")
    print(f"{len(contents)} files, {sum(contents.values()):,} bytes, would be uploaded to {repo_id} in one commit.")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line; list or publish."""
    parser = HfArgumentParser(PublishArguments, description=__doc__, formatter_class=HelpFormatter)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    contents = gather(arguments)
    if arguments.dry_run:
        print_contents(list_contents(**contents), arguments.repo_id)
        return
    commit = push_to_hub(
        **contents,
        private=arguments.private or None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.commit_message,
    )
    print(f"Published: {commit.pr_url or commit.commit_url}")


if __name__ == "__main__":
    run(main)

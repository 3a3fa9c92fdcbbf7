"""What a published checkpoint consists of, put together in a folder, and the check that nothing private is in it.

Weights, configuration, the model's own code, image processor, the endpoint's handler, results.json, figures and
README.md. Read publish.py for how the folder becomes one commit.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, get_token
from PIL import Image
from transformers import BaseImageProcessor

from bndl_hf.export.page_pictures import Examples
from bndl_hf.export.web_page import export_page
from bndl_hf.hub.card import PLACEHOLDER_ID, create_model_card, split_of
from bndl_hf.hub.card_facts import CardFacts, CardFigure
from bndl_hf.hub.card_figures import draw_card_figures, weights_per_class
from bndl_hf.hub.eval_results import eval_result_files
from bndl_hf.hub.widget import CardExample, save_examples
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.utils.privacy import private_part, public_values

if TYPE_CHECKING:
    from bndl_hf.interpretability import FactorThumbnails

RESULTS_FILE = "results.json"
CARD_FILE = "README.md"
FIGURES_FOLDER = "figures"
# What an Inference Endpoint looks for: file in the repository -> file beside this one.
ENDPOINT_FILES = {"handler.py": "handler.py", "requirements.txt": "handler_requirements.txt"}
PAGE_FILE = "page.html"
_PAGE_LINK = f"""
## Without installing anything

Download [{PAGE_FILE}]({PAGE_FILE}) and open it in a browser: the model answers there, and images stay on your device.
"""
# What a page of one file holds of other files, in base64: numbers and pictures, in which any few letters turn up.
_EMBEDDED = re.compile(rb'<script type="text/plain"[^>]*>[A-Za-z0-9+/=]*</script>')
# What `create_model_card` takes for the facts of a card; the rest of its arguments are filled in here.
_CARD_FACTS = tuple(
    name
    for name, parameter in inspect.signature(create_model_card).parameters.items()
    if parameter.kind == parameter.KEYWORD_ONLY and name not in ("figures", "model_id", "examples")
)


def write_contents(
    folder: Path,
    model: BNDLForImageClassification,
    processor: BaseImageProcessor | None,
    *,
    repo_id: str,
    results: Mapping[str, object] | None = None,
    figures: Sequence[str | os.PathLike[str]] = (),
    card: ModelCard | str | None = None,
    thumbnails: FactorThumbnails | None = None,
    page: bool = False,
    page_examples: Examples = (),
    examples: Sequence[Image.Image | str | os.PathLike[str]] = (),
    **card_facts: Any,
) -> None:
    """Write everything that is published into `folder`; `check_nothing_private` is for whoever sends it off.

    Args:
        folder: an empty folder.
        model: the classifier.
        processor: its image processor; None leaves it out, and the endpoint's handler with it.
        repo_id: what the card calls the model.
        results: measured figures; paths in them are cut down to their last part.
        figures: image files; they are published as figures/NAME and shown in the card.
        card: a model card of your own, its text or a `ModelCard`; None makes one with `create_model_card`.
        thumbnails: of the model's factors, images of a dataset that may be published; None leaves them out.
        page: whether to add page.html, which answers in the browser (`bndl_hf.export.export_page`), and its link.
        page_examples: images it offers to try.
        examples: images or files, stored in examples/ and shown on the card with the model's answers; they must be
            yours to publish.
        **card_facts: passed on to `create_model_card`: base_model, dataset_name, license, split, tags, language, ...

    Raises:
        ValueError: the model is not a BNDL classifier; thumbnails of another number of factors; `figures` names a file
            that is not there or two of one name; a fact that a card does not have, or one beside a card of your own; or
            a page without a processor, or examples without a page.
    """
    if not isinstance(model, BNDLForImageClassification):
        raise ValueError(
            f"A {type(model).__name__} is not a BNDLForImageClassification, which is what is published here; merge "
            "adapters first (merge_and_unload), or use the model's own push_to_hub."
        )
    _check_figures(figures)
    _check_facts(card, card_facts)
    if page and processor is None:
        raise ValueError("page=True needs the image processor: the page repeats what it does. Pass processor.")
    if page_examples and not page:
        raise ValueError("page_examples are images of a page that is not made; pass page=True, or leave them out.")
    if examples and (card is not None or processor is None):
        raise ValueError(
            "examples are answered for a card that is made here; leave `card` out and pass the processor, or leave the "
            "examples out."
        )
    if thumbnails is not None and thumbnails.num_factors != model.config.num_factors:
        raise ValueError(
            f"The thumbnails are of {thumbnails.num_factors} factors; this model has {model.config.num_factors}. "
            "Collect them again, or follow a pruning with thumbnails.renumbered(kept)."
        )
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
        for name, source in ENDPOINT_FILES.items():  # an endpoint cannot answer without a processor
            shutil.copyfile(Path(__file__).with_name(source), folder / name)
    if thumbnails is not None:
        thumbnails.save(folder)
    for figure in figures:
        (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(figure, folder / FIGURES_FOLDER / Path(figure).name)
    results = public_results(results or {})
    if results:
        (folder / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if card is None:
        card = _new_card(folder, model, processor, results, figures, thumbnails, examples, repo_id, card_facts)
    text = str(card).replace(PLACEHOLDER_ID, repo_id)
    if page:
        assert processor is not None
        export_page(
            model, processor, page_examples, folder / PAGE_FILE, single_file=True, thumbnails=thumbnails, half=True
        )
        text = f"{text.rstrip()}\n{_PAGE_LINK}"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _new_card(
    folder: Path,
    model: BNDLForImageClassification,
    processor: BaseImageProcessor | None,
    results: Mapping[str, Any],
    figures: Sequence[str | os.PathLike[str]],
    thumbnails: FactorThumbnails | None,
    images: Sequence[Image.Image | str | os.PathLike[str]],
    repo_id: str,
    card_facts: Mapping[str, Any],
) -> ModelCard:
    """The card, and what lies beside it: example images, figures that were not given, measures for the Hub."""
    examples: list[CardExample] = []
    pictures: list[Image.Image] = []
    if images and processor is not None:
        examples, pictures = save_examples(folder, model, processor, images)
    shown: list[str | CardFigure] = [f"{FIGURES_FOLDER}/{Path(figure).name}" for figure in figures]
    given = {Path(figure).stem for figure in figures}
    drawable = {name: value for name, value in results.items() if name not in given}
    if examples:
        drawable.setdefault("weights_per_class", weights_per_class(model))
    factors = sorted({factor for example in examples for factor, *_ in example.parts})
    drawn = draw_card_figures(
        folder,
        {**drawable, "deciles": None} if "accuracy_by_decile" in given else drawable,
        label_names=[str(model.config.id2label[c]) for c in range(model.config.num_labels)],
        examples=examples,
        pictures=pictures,
        thumbnails=None if thumbnails is None else {factor: thumbnails.images(factor) for factor in factors},
    )
    facts = {name: card_facts.get(name) for name in inspect.signature(CardFacts.read).parameters}
    dataset_ids = CardFacts.read(**facts).dataset_ids
    split = card_facts.get("split") or split_of(results)
    for name, text in eval_result_files(results, dataset_ids, split=split).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return create_model_card(
        model, results, model_id=repo_id, figures=[*drawn, *shown], examples=examples, **card_facts
    )


def list_contents(
    model: BNDLForImageClassification, processor: BaseImageProcessor | None, repo_id: str, **contents: Any
) -> dict[str, int]:
    """What `push_to_hub` with the same arguments would upload: {path in the repository: size in bytes}.

    Everything is written to a temporary folder and checked as for a push; no network call is made.

    Raises:
        ValueError: as `push_to_hub`.
    """
    with tempfile.TemporaryDirectory(prefix="bndl-") as staging:
        folder = Path(staging)
        write_contents(folder, model, processor, repo_id=repo_id, **contents)
        check_nothing_private(folder, secrets=[get_token() or ""])
        return {name: (folder / name).stat().st_size for name in file_names(folder)}


def file_names(folder: Path) -> list[str]:
    """Every file below `folder`, as it is called in a repository."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def public_results(results: Mapping[str, object]) -> dict[str, Any]:
    """`results` fit to be published: paths cut down to their last part, tokens and passwords left out, in values
    and in keys.

    Raises:
        ValueError: an entry that JSON cannot hold, or two keys that differ only in what is left out.
    """
    cleaned = public_values(results)
    try:
        json.dumps(cleaned, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"results cannot be written as JSON ({error}); pass numbers, strings, lists and dictionaries of them, and "
            "leave out what is not a finite number."
        ) from error
    return cleaned


def check_nothing_private(folder: Path, secrets: Iterable[str] = ()) -> None:
    """Raise ValueError when a file of `folder` holds a path of this machine, a home folder or an access token.

    Args:
        folder: what is to be published.
        secrets: more texts that must not be in it, such as the token in use.
    """
    here = map(re.escape, {str(Path.home()), os.getcwd(), str(folder)} - {"/", "."})
    # What stands before a path is looked at last: a search that begins with the letters of a path is fast.
    alone = "|".join(rf"{path}(?<![\w.-]{path})" for path in here)
    paths = re.compile(rf"""(?:{alone})(?=[/\\"'\s])""")
    for name in file_names(folder):
        text = _readable_part(folder / name).decode("utf-8", errors="replace")
        match = paths.search(text)
        found = private_part(text) or (match and match[0])
        if any(secret and secret in text for secret in secrets):
            found = "an access token"
        if found:
            raise ValueError(
                f"{name} would publish {found}. Take it out (of the results, the card, the labels "
                "or the figure's metadata) and publish again; nothing was sent."
            )


def _readable_part(file: Path) -> bytes:
    """A file's bytes; of weights only the header, the rest being numbers, and of a page what is not such a file."""
    if file.name == PAGE_FILE:
        return _EMBEDDED.sub(b"", file.read_bytes())
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as weights:
        return weights.read(int.from_bytes(weights.read(8), "little"))


def _check_figures(figures: Sequence[str | os.PathLike[str]]) -> None:
    names = [Path(figure).name for figure in figures]
    for figure in figures:
        if not Path(figure).is_file():
            raise ValueError(f"figures names {os.fspath(figure)}, which is not a file here; save the figure first.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"figures holds two files called {', '.join(sorted(twice))}; give them different names.")


def _check_facts(card: ModelCard | str | None, facts: Mapping[str, object]) -> None:
    if unknown := sorted(set(facts) - set(_CARD_FACTS)):
        raise ValueError(
            f"A model card has no {', '.join(unknown)}; pass {', '.join(_CARD_FACTS)}, or a card of your own as card."
        )
    if card is not None and (given := [name for name, value in facts.items() if value is not None]):
        raise ValueError(
            f"card is a card of your own, which {', '.join(given)} would not change; leave one or the other out."
        )

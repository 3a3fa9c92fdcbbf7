"""What a user states about a model for its card, by this library's argument names or transformers', made safe to print.

Names become one line without a path; in Markdown they show as they are and cannot end a line, a link or a code span.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote

_TAGS = ("bndl", "uncertainty", "interpretability", "bayesian")
_TASK = "image-classification"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Addresses and names that a page would turn into links are markup too.
_MARKUP = re.compile(r"[\\`*_~$\[\]<>|&@]|:(?=//)|(?<=\bwww)\.", flags=re.IGNORECASE)


@dataclass(frozen=True)
class CardFigure:
    """A picture on a card.

    Attributes:
        file: where it lies, beside the card.
        alt: what it shows, for those who do not see it; None: its name.
        caption: a line below; "" writes none.
        place: "examples" (at the top), "charts" (how far to trust it) or "parts" (what it is made of).
    """

    file: str
    alt: str | None = None
    caption: str = ""
    place: str = "charts"

    def __post_init__(self) -> None:
        if self.place not in ("examples", "charts", "parts"):
            raise ValueError(f"place={self.place!r} is not on a card; examples, charts or parts are.")


@dataclass(frozen=True)
class CardFacts:
    """What a card says that neither the model nor its results tell.

    Attributes:
        base_model: Hub id or folder of the classifier that was wrapped.
        datasets: names of the data, without paths.
        dataset_ids: those of the Hub, for the metadata.
        dataset_args: configurations of the data.
        tags, language: for the metadata.
    """

    base_model: str | None
    datasets: list[str]
    dataset_ids: list[str]
    dataset_args: list[str]
    tags: list[str]
    language: list[str]

    @classmethod
    def read(
        cls,
        *,
        base_model: str | None,
        finetuned_from: str | None,
        dataset_name: str | Sequence[str] | None,
        dataset: str | Sequence[str] | None,
        dataset_tags: str | Sequence[str] | None,
        dataset_args: str | Sequence[str] | None,
        tasks: str | Sequence[str] | None,
        tags: str | Sequence[str] | None,
        language: str | Sequence[str] | None,
    ) -> CardFacts:
        """The facts, whichever of two names they came under; see `create_model_card`.

        Raises:
            ValueError: two names of one fact with different values, another task, or values that are not texts.
        """
        base = _one_of("base_model", _texts("base_model", base_model), "finetuned_from", finetuned_from)
        if len(base) > 1:
            raise ValueError(f"base_model={base} names {len(base)} classifiers; one was wrapped. Pass its Hub id.")
        given = _one_of("dataset_name", _texts("dataset_name", dataset_name), "dataset", dataset)
        if other := [task for task in _texts("tasks", tasks) if task != _TASK]:
            raise ValueError(f"tasks names {', '.join(other)}; a BNDL classifier does {_TASK}. Leave tasks out.")
        # A name without a namespace is more often a built-in or a folder than one of the Hub's old canonical data sets.
        ids = _texts("dataset_tags", dataset_tags) or [name for name in given if is_hub_id(name) and "/" in name]
        names = [public for name in given or ids if (public := public_name(name))]
        return cls(
            base_model=next(iter(base), None),
            datasets=names,
            dataset_ids=[public for name in ids if (public := public_name(name))],
            dataset_args=_texts("dataset_args", dataset_args),
            tags=list(dict.fromkeys([*_TAGS, *_texts("tags", tags)])),
            language=_texts("language", language),
        )


def is_hub_id(name: str | None) -> bool:
    """Whether it reads as a Hub id and no folder of that name lies here."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def public_name(name: str | None) -> str | None:
    """The name as the world may read it, in one line: a Hub id as it is, of a path only its last part."""
    if name is None or is_hub_id(name):
        return name
    return one_line(PureWindowsPath(name).name) or None  # understands / and \ alike


def one_line(text: object) -> str:
    """`text` with every run of white space as one blank."""
    return " ".join(str(text).split())


def as_text(text: object) -> str:
    r"""For Markdown, as running text: "a*b <i>" as "a\*b &lt;i&gt;"."""
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;", ":": "&#58;", ".": "&#46;"}
    return _MARKUP.sub(lambda match: entities.get(match[0], f"\\{match[0]}"), one_line(text))


def as_code(text: object) -> str:
    """For Markdown, as code: in backticks, one more of them than stand in the text side by side."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if "`" in text else ""
    return f"{fence}{blank}{text}{blank}{fence}".replace("|", r"\|")


def image_link(figure: str | CardFigure) -> str:
    """For Markdown, the picture of a file beside the card: relative paths stay, others become the file's name."""
    figure = figure if isinstance(figure, CardFigure) else CardFigure(figure)
    path = PurePosixPath(figure.file)
    leads_out = path.is_absolute() or ".." in path.parts or PureWindowsPath(figure.file).drive
    place = PureWindowsPath(figure.file).name if leads_out else str(path)
    return f"![{as_text(figure.alt or place)}]({quote(place)})"


def _texts(name: str, value: str | Sequence[str] | None) -> list[str]:
    """One text, several or None as a list."""
    values = [value] if isinstance(value, str) else list(value or [])
    if wrong := [one for one in values if not isinstance(one, str)]:
        raise ValueError(f"{name} holds {wrong[0]!r}; a text or several fit.")
    return [line for one in values if (line := one_line(one))]


def _one_of(name: str, given: list[str], other: str, value: str | Sequence[str] | None) -> list[str]:
    """What came under one of two names of the same fact."""
    again = _texts(other, value)
    if given and again and given != again:
        raise ValueError(
            f"{name}={', '.join(given)!r} and {other}={', '.join(again)!r} are two names for one thing; pass one."
        )
    return given or again

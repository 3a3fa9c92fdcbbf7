"""Names of the classes: from a file, or of the data sets the authors' checkpoints were trained on."""

from __future__ import annotations

import os
from pathlib import Path

# In the order of the labels in the data sets' own files.
_WORDS = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "cifar100": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """,
}
KNOWN_LABELS = {name: words.split() for name, words in _WORDS.items()}


def read_labels(source: str | os.PathLike[str]) -> list[str]:
    """Class names in the order of the logits: "cifar10", "cifar100", or a text file with one name a line.

    Raises:
        ValueError: there is no such file, or it has an empty line or a name twice.
    """
    if str(source) in KNOWN_LABELS:
        return list(KNOWN_LABELS[str(source)])
    file = Path(source)
    if not file.is_file():
        raise ValueError(f"labels={str(source)!r} is neither a file nor one of {', '.join(KNOWN_LABELS)}.")
    labels = [line.strip() for line in file.read_text(encoding="utf-8").strip().splitlines()]
    for number, label in enumerate(labels, start=1):
        if not label or label in labels[: number - 1]:
            problem = f"says {label!r} a second time" if label else "is empty"
            raise ValueError(f"Line {number} of {file} {problem}; every class needs a name of its own.")
    return labels

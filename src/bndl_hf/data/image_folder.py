"""A folder of images as splits and classes: which folder says what, and what is left out.

    ROOT/train/cat/1.jpg   ROOT/test/cat/9.jpg      folders named like splits hold the class folders, or
    ROOT/cat/1.jpg         ROOT/dog/indoor/7.jpg    every folder is a class ("dog", not "indoor")

The first folder, or the first below the split, is the class, however deep an image lies below it. Departure from
`datasets`, which takes the innermost folder and calls anything below a folder "train", at any depth, training images:
CIFAR-100 has a class "train". Whatever is not used is counted in a warning. Next to read: `image_dataset.py`.
"""

import filecmp
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from datasets.fingerprint import Hasher
from PIL import Image

logger = logging.getLogger(__name__)

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_ALL_WORDS = {word for words in SPLIT_WORDS.values() for word in words}
_TABLES = (".parquet", ".arrow")
_METADATA = re.compile(r"metadata\.(csv|jsonl|parquet)")
_LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini", "Icon\r")  # left by operating systems, beside all dot files
_NO_PICTURES = ("BUFR", "GRIB", "HDF5", "MPEG")  # formats that Pillow recognises and cannot decode
_DOCUMENTS = (".md", ".txt", ".rst")  # a README or a licence beside the images is not a lost image
_COMPARED = 4096  # bytes at the start of two files of one size, before they are compared whole


@dataclass(frozen=True)
class ImageFile:
    """An image by its place below the folder: ("train", "cat", "1.jpg")."""

    place: tuple[str, ...]
    path: str
    size: int  # bytes
    changed: int  # nanoseconds

    def below(self, depth: int) -> "ImageFile":
        """The same image as seen from `depth` folders further down."""
        return ImageFile(self.place[depth:], self.path, self.size, self.changed)


@dataclass
class FolderContents:
    """What lies in a folder, hidden files and the litter of operating systems aside."""

    images: list[ImageFile]
    others: list[str]  # paths of files without a known ending
    empty: list[str]  # folders without any file below them
    is_table: bool  # tables, or a file that says what belongs together: `datasets` reads those


def list_folder(root: str) -> FolderContents:
    """Every file below `root`, in the order of the paths; links are followed, but not into a folder they lie in."""
    endings = {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in _NO_PICTURES
    }
    found, tables = FolderContents([], [], [], False), 0
    root = os.path.abspath(root)  # the working directory may change before an image is read
    for folder, folders, files in os.walk(root, onerror=_raise, followlinks=True):
        folders[:] = sorted(name for name in folders if not _is_litter(name) and not _leads_back(folder, name))
        files = sorted(name for name in files if not _is_litter(name))
        here = Path(folder).relative_to(root).parts
        if not folders and not files:
            found.empty.append("/".join(here))
        for name in files:
            path, ending = os.path.join(folder, name), os.path.splitext(name)[1].lower()
            tables += ending in _TABLES
            found.is_table |= _METADATA.fullmatch(name) is not None
            if ending in endings and os.path.isfile(path):
                stat = os.stat(path)
                found.images.append(ImageFile((*here, name), path, stat.st_size, stat.st_mtime_ns))
            elif ending not in _DOCUMENTS:
                found.others.append(path)
    found.images.sort(key=lambda image: image.place)
    readme = Path(root) / "README.md"
    if readme.is_file() and re.search(r"\A---.*?^configs:.*?^---", readme.read_text("utf-8", "replace"), re.M | re.S):
        found.is_table = True  # the card of a dataset says which file belongs to which split
    found.is_table |= tables > 0 and tables >= len(found.images)
    return found


def _raise(error: OSError) -> None:
    """For `os.walk`, which would leave out without a word what it may not read."""
    raise error


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _leads_back(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.islink(path) and Path(os.path.realpath(path)) in [
        Path(os.path.realpath(folder)),
        *Path(os.path.realpath(folder)).parents,
    ]


def read_image_folder(root: str, labelled: bool = True) -> dict[str, Dataset] | None:
    """The splits of a folder of images: columns "image" and, where `labelled`, "label".

    The fingerprints change with the names, sizes and times of the files, and with nothing else.

    Returns:
        None where the folder holds tables, or a file that says what belongs together: `datasets` reads those.

    Raises:
        ValueError: no image, no class folders, or folders that may be splits or classes.
    """
    contents = list_folder(root)
    if contents.is_table or not (contents.images or contents.others):
        return None
    if not contents.images:
        if any(path.endswith((".zip", ".tar", ".gz", ".csv", ".json", ".jsonl")) for path in contents.others):
            return None
        raise ValueError(
            f"{root} holds no file that Pillow knows as an image by its ending; it holds {_endings(contents.others)}. "
            "Convert them, to JPEG or PNG for example, or pass another folder."
        )
    if contents.others:
        logger.warning(
            "Left out %d of %d files in %s, whose endings are not those of images that Pillow reads here: %s. First: "
            "%s. Convert or rename them to use them.",
            len(contents.others),
            len(contents.others) + len(contents.images),
            root,
            _endings(contents.others),
            contents.others[0],
        )
    splits = _by_split(root, contents.images)
    if not labelled:
        return {split: _as_dataset(split, images, None) for split, images in splits.items()}
    splits = _with_classes(root, splits)
    if contents.empty:
        logger.warning("Folders without images in %s, left out: %s.", root, _some(contents.empty))
    _warn_of_shared_images(splits)
    names = sorted({image.place[0] for images in splits.values() for image in images})
    return {split: _as_dataset(split, images, names) for split, images in splits.items()}


def _by_split(root: str, images: list[ImageFile]) -> dict[str, list[ImageFile]]:
    """The images of each split, their places as seen from the split's folder; of "train" where there are no splits."""
    folders = _first_folders(images)
    while len(folders) == 1 and not _split_of(folders[0]):  # ROOT/unpacked/train/cat/1.jpg
        inner = _unwrapped(images)
        if not any(map(_split_of, _first_folders(inner))):
            break
        images, folders = inner, _first_folders(inner)
    exact = [name for name in folders if name.lower() in _ALL_WORDS]
    holding = [name for name in exact if _holds_folders(images, name)]
    if folders and all(map(_split_of, folders)):
        whole = {_split_of(name) for name in exact}  # "train" is the split, "train_old" beside it is not
        chosen = [name for name in folders if name in exact or _split_of(name) not in whole]
    elif holding and len({_split_of(name) for name in exact}) > 1:
        chosen = exact
    elif holding:
        others = [name for name in folders if name not in holding]
        raise ValueError(
            f"{root} has a folder {holding[0]!r}, named like a split and holding folders, beside {_some(others)}. "
            "Where all folders are classes, rename it or move its images up; where it is a split, move the others away."
        )
    else:
        return {"train": images}
    splits: dict[str, list[ImageFile]] = defaultdict(list)
    for name in chosen:
        inner = [image.below(1) for image in images if image.place[0] == name and len(image.place) > 1]
        if _first_folders(inner) == [name] and _holds_folders(inner, name):  # seg_train/seg_train/forest/1.jpg
            inner = _unwrapped(inner)
        splits[_split_of(name) or ""] += inner
    outside = [image for image in images if image.place[0] not in chosen or len(image.place) == 1]
    _warn_left_out(root, "outside the folders of the splits", outside)
    return dict(splits)


def _unwrapped(images: Iterable[ImageFile]) -> list[ImageFile]:
    """As seen from the folder that holds them; what lies beside that folder stays where it is."""
    return [image.below(1) if len(image.place) > 1 else image for image in images]


def _split_of(folder: str) -> str | None:
    """The split a folder is named after ("train", "seg_train", "Val"), if it is one."""
    words = re.split(r"[\s._-]+", folder.lower())
    found = [split for split, known in SPLIT_WORDS.items() if any(word in known for word in words)]
    return found[0] if len(found) == 1 else None


def _first_folders(images: Iterable[ImageFile]) -> list[str]:
    return sorted({image.place[0] for image in images if len(image.place) > 1})


def _holds_folders(images: Iterable[ImageFile], folder: str) -> bool:
    """Most of the folder's images lie in folders below it, so that it may be a split."""
    is_deep = [len(image.place) > 2 for image in images if image.place[0] == folder]
    return sum(is_deep) > len(is_deep) / 2


def _with_classes(root: str, splits: dict[str, list[ImageFile]]) -> dict[str, list[ImageFile]]:
    """The images that lie in class folders; says which do not."""
    labelled = {split: [image for image in images if len(image.place) > 1] for split, images in splits.items()}
    if not any(labelled.values()):
        images = [image for inside in splits.values() for image in inside]
        raise ValueError(
            f"{root} holds {_count(images)} (first: {images[0].path}) and no class folders, so that they have no "
            "labels. Put the images of every class into a folder named after it, such as train/cat/ and train/dog/."
        )
    for split, images in splits.items():
        stray = [image for image in images if len(image.place) == 1]
        if not labelled[split]:
            logger.warning(
                "Left out split %r of %s: no class folder holds its %s (first: %s), so that they have no labels.",
                split,
                root,
                _count(images),
                images[0].path,
            )
        else:
            _warn_left_out(root, "outside the class folders", stray)
    deep = [image for images in labelled.values() for image in images if len(image.place) > 2]
    if deep:
        logger.warning(
            "%s in %s lie in folders below a class folder and count as that class: %s is of class %r. If the inner "
            "folders are the classes, move them up.",
            _count(deep),
            root,
            deep[0].path,
            deep[0].place[0],
        )
    return {split: images for split, images in labelled.items() if images}


def _warn_left_out(root: str, where: str, images: Sequence[ImageFile]) -> None:
    if images:
        logger.warning("Left out %s %s of %s (first: %s).", _count(images), where, root, images[0].path)


def _warn_of_shared_images(splits: dict[str, list[ImageFile]]) -> None:
    """Say which training images are, byte for byte, among those that are judged on."""
    training: dict[tuple[int, bytes], list[ImageFile]] = defaultdict(list)
    judged = [image for split, images in splits.items() if split != "train" for image in images]
    sizes = {image.size for image in judged}
    for image in splits.get("train", ()):
        if image.size in sizes:
            training[image.size, _beginning(image)].append(image)
    sizes = {size for size, _ in training}
    shared = [
        (image, other)
        for image in judged
        if image.size in sizes
        for other in training.get((image.size, _beginning(image)), ())
        if filecmp.cmp(image.path, other.path, shallow=False)
    ]
    if shared:
        image, other = shared[0]
        logger.warning(
            "%d of the images that are judged on %s also in training, so that the results will look better than they "
            "are. First: %s is %s.",
            count := len({image.path for image, _ in shared}),
            "is" if count == 1 else "are",
            image.path,
            other.path,
        )


def _beginning(image: ImageFile) -> bytes:
    with open(image.path, "rb") as file:
        return file.read(_COMPARED)


def _as_dataset(split: str, images: Sequence[ImageFile], names: list[str] | None) -> Dataset:
    features = Features({"image": ImageFeature()})
    columns: dict[str, list[str]] = {"image": [image.path for image in images]}
    if names:
        features["label"] = ClassLabel(names=names)
        columns["label"] = [image.place[0] for image in images]
    rows = Dataset.from_dict(columns, features)
    known = json.dumps([split, names, [(image.place, image.size, image.changed) for image in images]])
    return Dataset(rows.data, info=rows.info, split=split, fingerprint=Hasher.hash(known))


def _endings(paths: Iterable[str]) -> str:
    """ "3 .heic, 1 without an ending": the most frequent first."""
    counts = Counter(os.path.splitext(path)[1] or "without an ending" for path in paths)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common())


def _count(images: Sequence[ImageFile]) -> str:
    return f"{len(images)} image{'' if len(images) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")

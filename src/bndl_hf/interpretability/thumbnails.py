"""Thumbnails of the images that show a factor most, stored beside a checkpoint: what a factor looks like, at a glance.

`factor_thumbnails/` holds an index and sheets of many factors each (WebP), which are read when one of their factors is
asked for. They are small copies of images of a dataset: whoever publishes them publishes those images.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers import BaseImageProcessor
from transformers.utils import cached_file

from bndl_hf.interpretability.choices import check_sees_images
from bndl_hf.interpretability.rows import GalleryRows
from bndl_hf.interpretability.survey import look_again, survey
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.utils.files import written_whole

THUMBNAILS_FOLDER = "factor_thumbnails"
_INDEX = "index.json"
_COLUMNS, _ROWS = 8, 8  # factors on a sheet
_MAX_TOP, _MAX_SIZE = 8, 256


class FactorThumbnails:
    """The top images of each factor, some pixels wide; sheets are read when a factor on them is asked for.

    Made by `collect_factor_thumbnails` and `load_factor_thumbnails`.

    Args:
        num_factors: K of the model they belong to.
        size: side of a thumbnail, in pixels.
        top: thumbnails a factor has at most.
        counts: {factor: how many it has}, in the order they are stored in; silent factors are left out.
        read_sheet: number of a sheet -> the picture.

    Example:
        >>> thumbnails = load_factor_thumbnails("org/vit-bndl")
        >>> few = [] if thumbnails is None else thumbnails.images(3)
    """

    def __init__(
        self, num_factors: int, size: int, top: int, counts: Mapping[int, int], read_sheet: Callable[[int], Image.Image]
    ) -> None:
        self.num_factors, self.size, self.top = num_factors, size, top
        self._counts, self._read_sheet = dict(counts), read_sheet
        self._places = {factor: place for place, factor in enumerate(self._counts)}
        self._sheets: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, factor: object) -> bool:
        return factor in self._counts

    @property
    def factors(self) -> list[int]:
        """The factors that have thumbnails, smallest number first."""
        return sorted(self._counts)

    def images(self, factor: int) -> list[Image.Image]:
        """The thumbnails of a factor, most active first, RGB of `size` x `size`; empty where no image shows it.

        Raises:
            ValueError: the model has no such factor, or the file is damaged.
        """
        if not 0 <= factor < self.num_factors:
            raise ValueError(f"Factor {factor} is out of range; the thumbnails are of {self.num_factors} factors.")
        if factor not in self._counts:
            return []
        sheet, place = divmod(self._places[factor], _COLUMNS * _ROWS)
        row, column = divmod(place, _COLUMNS)
        left, upper, side = column * self.top * self.size, row * self.size, self.size
        return [
            self._sheet(sheet).crop((left + i * side, upper, left + (i + 1) * side, upper + side))
            for i in range(self._counts[factor])
        ]

    def renumbered(self, kept: Sequence[int]) -> FactorThumbnails:
        """Those of a model that keeps the factors `kept`, which are 0, 1, ... there, as after `prune`."""
        return _thumbnails_of({new: self.images(int(old)) for new, old in enumerate(kept)}, len(kept), self.size)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write them into `factor_thumbnails` in the folder of a checkpoint, in place of any there were.

        Returns:
            That folder.
        """
        number = -(-len(self) // (_COLUMNS * _ROWS))
        sheets = [_webp(self._sheet(n)) for n in range(number)]  # all of them, before one of the old ones goes
        target = Path(folder) / THUMBNAILS_FOLDER
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("sheet-*.webp"):
            old.unlink()
        for n, sheet in enumerate(sheets):
            (target / f"sheet-{n}.webp").write_bytes(sheet)
        index = {
            "num_factors": self.num_factors,
            "size": self.size,
            "top": self.top,
            "factors": [[factor, count] for factor, count in self._counts.items()],
        }
        with written_whole(target / _INDEX) as partial:
            partial.write_text(json.dumps(index) + "\n", encoding="utf-8")
        return target

    def _sheet(self, number: int) -> Image.Image:
        if number not in self._sheets:
            sheet = self._read_sheet(number)
            size = (_COLUMNS * self.top * self.size, _ROWS * self.size)
            if sheet.size != size:
                raise ValueError(f"Sheet {number} of the thumbnails is {sheet.size} pixels; the index says {size}.")
            self._sheets[number] = sheet.convert("RGB")
        return self._sheets[number]


def collect_factor_thumbnails(
    model: BNDLPreTrainedModel,
    processor: BaseImageProcessor,
    dataset: Any,
    *,
    top: int = 3,
    size: int = 64,
    image_column: str | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> FactorThumbnails:
    """Thumbnails of the images that show each factor most, in one pass over a dataset.

    Nothing is stored or published by this; `save` writes them beside a checkpoint, `push_to_hub(thumbnails=...)`
    publishes them. They are copies of images of `dataset`: ask whether these may be shown.

    Args:
        model: a `BNDLForImageClassification`.
        processor: its image processor.
        dataset: rows with a column of PIL images, a `datasets.Dataset` or any sequence.
        top: thumbnails a factor, 1 to 8.
        size: their side in pixels, 16 to 256.
        image_column: None finds it.
        batch_size: images at a time.
        progress: show progress bars.

    Returns:
        Thumbnails of what the model saw, of every factor that some image shows and that feeds a class.

    Raises:
        TypeError: for a decision layer alone.
        ValueError: numbers out of range, or a dataset without images.

    Example:
        >>> thumbnails = collect_factor_thumbnails(model, processor, cifar10["test"], progress=False)
        >>> folder = thumbnails.save("outputs/mine")
    """
    if not 1 <= top <= _MAX_TOP or not 16 <= size <= _MAX_SIZE or batch_size < 1:
        raise ValueError(
            f"top={top}, size={size}, batch_size={batch_size}: a factor has 1 to {_MAX_TOP} thumbnails of 16 to "
            f"{_MAX_SIZE} pixels, made of 1 or more images at a time."
        )
    rows = GalleryRows(dataset, processor, image_column, None, None, [], with_labels=False)
    check_sees_images(model, rows.pixel_values([0]))
    seen = survey(model, rows, top, batch_size, progress)
    shown = {factor: seen.images_of(factor) for factor in seen.by_evidence}
    # Twice the size first: a resampling filter makes the rest of the way sharper than area alone.
    found = look_again(model, rows, shown, 2 * size, batch_size, progress, with_maps=False)
    small = {row: _square(picture, size) for row, picture in found.pictures.items()}
    return _thumbnails_of(
        {factor: [small[row] for row in images] for factor, images in shown.items()}, len(seen.evidence), size
    )


def load_factor_thumbnails(
    pretrained_model_name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> FactorThumbnails | None:
    """The thumbnails of a checkpoint; the index is read now, a sheet when a factor on it is asked for.

    Args:
        pretrained_model_name_or_path: folder or Hub id, as for `from_pretrained`.
        revision, token, cache_dir, local_files_only: as for `from_pretrained`.

    Returns:
        None where the checkpoint has none.

    Raises:
        ValueError: the index is damaged.
        OSError: there is no such checkpoint.

    Example:
        >>> load_factor_thumbnails("org/vit-bndl") is None
        True
    """

    def find(name: str, is_needed: bool) -> str | None:
        return cached_file(
            pretrained_model_name_or_path,
            f"{THUMBNAILS_FOLDER}/{name}",
            revision=revision or "main",
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            _raise_exceptions_for_missing_entries=is_needed,
        )

    index = find(_INDEX, is_needed=False)
    if index is None:
        return None

    def read_sheet(number: int) -> Image.Image:
        file = find(f"sheet-{number}.webp", is_needed=True)
        assert file is not None
        with Image.open(file, formats=["WEBP"]) as sheet:
            return sheet.convert("RGB")

    num_factors, size, top, counts = _read_index(Path(index))
    return FactorThumbnails(num_factors, size, top, counts, read_sheet)


def _read_index(file: Path) -> tuple[int, int, int, dict[int, int]]:
    """num_factors, size, top and counts of an index file, which anybody may have written."""
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        num_factors, size, top, pairs = (index[name] for name in ("num_factors", "size", "top", "factors"))
        counts = {factor: count for factor, count in pairs}
        numbers = [num_factors, size, top, *counts, *counts.values()]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not an index of thumbnails ({error!r}); collect them again.") from error
    fits = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not (
        fits
        and 16 <= size <= _MAX_SIZE
        and 1 <= top <= _MAX_TOP
        and all(0 <= factor < num_factors and 1 <= count <= top for factor, count in counts.items())
    ):
        raise ValueError(f"{file} holds numbers that no thumbnails have; collect them again.")
    return num_factors, size, top, counts


def _thumbnails_of(images: Mapping[int, Sequence[Image.Image]], num_factors: int, size: int) -> FactorThumbnails:
    """Thumbnails put onto sheets; factors without images are left out."""
    kept = {factor: list(one) for factor, one in images.items() if len(one)}
    top = max(map(len, kept.values()), default=1)
    sheets: list[Image.Image] = []
    for place, one in enumerate(kept.values()):
        number, place = divmod(place, _COLUMNS * _ROWS)
        if number == len(sheets):
            sheets.append(Image.new("RGB", (_COLUMNS * top * size, _ROWS * size)))
        row, column = divmod(place, _COLUMNS)
        for i, image in enumerate(one):
            sheets[number].paste(image, ((column * top + i) * size, row * size))
    counts = {factor: len(one) for factor, one in kept.items()}
    return FactorThumbnails(num_factors, size, top, counts, sheets.__getitem__)


def _square(picture: np.ndarray, size: int) -> Image.Image:
    """The middle of a picture [H, W, 3], size x size; pixels of small pictures stay sharp."""
    method = Image.Resampling.NEAREST if max(picture.shape[:2]) <= size else Image.Resampling.LANCZOS
    return ImageOps.fit(Image.fromarray(picture), (size, size), method)


def _webp(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()

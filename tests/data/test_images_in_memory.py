"""Images held in memory: the image processor's numbers, and random changes that only seed and epoch decide."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PIL

from bndl_hf.data import (
    DataArguments,
    ImagesInMemory,
    RawPixels,
    channel_statistics,
    load_image_dataset,
    make_image_processor,
    read_pixels,
)

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def places(n=1, side=16):
    """Images whose first two channels say row and column of every pixel, counted from 1; the third says the image."""
    pixels = torch.zeros(n, side, side, 3, dtype=torch.uint8)
    pixels[..., 0] = torch.arange(1, side + 1, dtype=torch.uint8)[:, None]
    pixels[..., 1] = torch.arange(1, side + 1, dtype=torch.uint8)
    pixels[..., 2] = torch.arange(1, n + 1, dtype=torch.uint8)[:, None, None]
    return pixels


def as_bytes(values):
    mean, std = (torch.tensor(t)[:, None, None] for t in (MEAN, STD))
    return ((values * std + mean) * 255).round().long()


def test_batches_hold_what_the_image_processor_makes():
    pixels = torch.randint(256, (5, 32, 32, 3), dtype=torch.uint8)
    images = ImagesInMemory(pixels, torch.arange(5), MEAN, STD)
    processor = make_image_processor(32, MEAN, STD)
    expected = processor([PIL.fromarray(pixels[i].numpy()) for i in (3, 0)], return_tensors="pt")["pixel_values"]
    batch = images.__getitems__([3, 0])
    torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=1e-5)
    assert batch["labels"].tolist() == [3, 0]
    assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[3]["pixel_values"], batch["pixel_values"][0])


def test_crops_are_windows_of_the_padded_image_and_half_of_them_are_mirrored():
    n, side, margin = 400, 16, 2
    images = ImagesInMemory(places(n // 2, side).repeat(2, 1, 1, 1), torch.zeros(n), MEAN, STD, "crop_flip")
    found = as_bytes(images.__getitems__(range(n))["pixel_values"])
    seen, mirrored = set(), 0
    for image in found:
        rows, columns = image[0].amax(dim=1), image[1].amax(dim=0)  # 0 where the window leaves the image
        row, column = int(rows.argmax()), int(columns.argmax())
        is_mirrored = columns[column - 1] > columns[column + 1] if 0 < column < side - 1 else column == 0
        straight = columns.flip(0) if is_mirrored else columns
        top, left = int(rows[8]) - 9, int(straight[8]) - 9  # the window's offset from the image
        for values, offset in ((rows, top), (straight, left)):
            expected = torch.arange(1, side + 1) + offset
            assert torch.equal(values, expected.where((expected >= 1) & (expected <= side), 0))
        assert rows[row] == rows.max()
        seen.add((top, left))
        mirrored += int(is_mirrored)
    window = range(-margin, margin + 1)
    assert seen == {(top, left) for top in window for left in window}
    assert abs(mirrored - n / 2) < 5 * (n / 4) ** 0.5


def test_changes_depend_on_seed_and_epoch_alone():
    def batch(order, epoch, seed=0):
        images = ImagesInMemory(places(40), torch.arange(40), MEAN, STD, "crop_flip", seed)
        images.set_epoch(7)
        images.set_epoch(epoch)
        return torch.cat([images.__getitems__(part)["pixel_values"] for part in order])

    whole = batch([list(range(40))], 3)
    assert torch.equal(batch([[i] for i in range(40)], 3), whole)
    assert not torch.equal(batch([list(range(40))], 4), whole)
    assert not torch.equal(batch([list(range(40))], 3, seed=1), whole)


def test_a_dataset_is_decoded_once_and_resized(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": list(places(3, 16).numpy()), "label": [0, 1, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    images = load_image_dataset(DataArguments(str(tmp_path / "train.parquet")))
    pixels, labels = read_pixels(images.with_pixel_values("train", RawPixels(16)), tmp_path / "cache")
    assert torch.equal(pixels, places(3, 16))
    assert labels.tolist() == [0, 1, 1]
    (kept,) = (tmp_path / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    again, _ = read_pixels(images.with_pixel_values("train", RawPixels(16)), tmp_path / "cache")
    assert torch.equal(again, pixels)
    assert kept.stat().st_mtime_ns == written
    larger, _ = read_pixels(images.with_pixel_values("train", RawPixels(32)), tmp_path / "cache")
    expected = PIL.fromarray(places(3, 16)[0].numpy()).resize((32, 32), PIL.Resampling.BILINEAR)
    assert torch.equal(larger[0], torch.tensor(list(expected.getdata()), dtype=torch.uint8).view(32, 32, 3))


def test_statistics_are_those_of_a_naive_sum():
    pixels = torch.randint(256, (3, 8, 8, 3), dtype=torch.uint8)
    values = pixels.double().flatten(0, 2) / 255
    means, deviations = channel_statistics(pixels)
    assert means == pytest.approx(values.mean(0).tolist(), abs=6e-5)
    assert deviations == pytest.approx(values.std(0, correction=0).tolist(), abs=6e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"torch.float32 \[2, 8, 8, 3\] with 2 labels; pass bytes"):
        ImagesInMemory(torch.zeros(2, 8, 8, 3), torch.zeros(2), MEAN, STD)
    with pytest.raises(ValueError, match="'shift' is not made in memory; choose one of none, flip, crop_flip"):
        ImagesInMemory(places(2), torch.zeros(2), MEAN, STD, "shift")

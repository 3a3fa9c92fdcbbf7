"""Augmentations move pixels and nothing else; one seed repeats them; every kind of image file ends as RGB."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPImageProcessorPil

from bndl_hf.data.augmentation import (
    AUGMENTATIONS,
    RandomFlip,
    RandomResizedCrop,
    RandomShift,
    choose_augmentation,
    make_augmentation,
)
from bndl_hf.data.pixel_values import collate, decode_image, make_image_processor, output_size

NAMED = [name for name in AUGMENTATIONS if name not in ("auto", "none")]


def noise(height: int = 16, width: int = 24) -> Image.Image:
    pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str, **options: object) -> dict[str, bytes | None]:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize("name", NAMED)
def test_one_seed_repeats_an_augmentation_even_after_pickling(name: str) -> None:
    image, augment = noise(), make_augmentation(name)
    torch.manual_seed(3)
    once = [np.asarray(augment(image)) for _ in range(8)]
    torch.manual_seed(3)
    again = [np.asarray(pickle.loads(pickle.dumps(augment))(image)) for _ in range(8)]
    assert all((a == b).all() for a, b in zip(once, again, strict=True))
    assert any((once[0] != other).any() for other in once[1:])


def test_flip_mirrors_left_and_right() -> None:
    image = noise()
    assert (np.asarray(RandomFlip(probability=1.0)(image)) == np.asarray(image)[:, ::-1]).all()
    assert RandomFlip(probability=0.0)(image) is image


def test_half_of_the_flips_happen() -> None:
    torch.manual_seed(0)
    image = noise(2, 2)
    flipped = sum(RandomFlip()(image) is not image for _ in range(1000))
    assert abs(flipped - 500) < 4 * np.sqrt(1000 * 0.25)  # four standard errors of a fair coin


def test_shift_is_zero_pad_and_crop_by_an_eighth_and_reaches_every_position() -> None:
    torch.manual_seed(0)
    pixels = np.asarray(noise(16, 24))
    padded = np.pad(pixels, ((2, 2), (3, 3), (0, 0)))  # 1/8 of 16 and of 24
    crops = {(top, left): padded[top : top + 16, left : left + 24] for top in range(5) for left in range(7)}
    seen = set()
    for _ in range(400):  # 35 positions: one of them missing has probability 35 * (34/35)**400 < 4e-4
        shifted = np.asarray(RandomShift()(noise(16, 24)))
        seen.add(next(place for place, crop in crops.items() if (crop == shifted).all()))
    assert seen == set(crops)


def test_shift_of_digits_moves_one_pixel() -> None:
    torch.manual_seed(0)
    dot = Image.new("RGB", (8, 8))
    dot.putpixel((4, 4), (255, 255, 255))
    places = {tuple(np.argwhere(np.asarray(RandomShift()(dot))[..., 0])[0].tolist()) for _ in range(200)}
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_resized_crop_keeps_area_and_shape_in_their_ranges() -> None:
    torch.manual_seed(0)
    for _ in range(200):
        left, top, right, bottom = RandomResizedCrop()._window(400, 300)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        width, height = right - left, bottom - top
        assert 0.08 * 0.95 <= width * height / (400 * 300) <= 1  # 5 %: sides are rounded to whole pixels
        assert 3 / 4 * 0.95 <= width / height <= 4 / 3 * 1.05


def test_resized_crop_of_a_thin_image_falls_back_to_the_centre() -> None:
    assert RandomResizedCrop(scale=(1.0, 1.0))._window(1000, 10) == (493, 0, 506, 10)  # 10 * 4/3 = 13 wide
    assert RandomResizedCrop()(Image.new("RGB", (1, 1))).size == (1, 1)


def test_resized_crop_gives_the_size_the_model_sees() -> None:
    assert make_augmentation("resized_crop_flip", output_size=(20, 30))(noise()).size == (30, 20)
    assert make_augmentation("resized_crop_flip")(noise(16, 24)).size == (24, 16)


def test_auto_never_mirrors_writing_and_crops_photographs() -> None:
    digits = [str(digit) for digit in range(10)]
    assert choose_augmentation(digits, (28, 28)) == "shift"
    assert choose_augmentation(["A", "B"], (28, 28)) == "shift"
    assert choose_augmentation(["cat", "dog"], (32, 32)) == "crop_flip"
    assert choose_augmentation(["cat", "dog"], (375, 500)) == "resized_crop_flip"
    assert make_augmentation("auto", label_names=digits) == RandomShift()


def test_none_is_no_augmentation() -> None:
    assert make_augmentation("none") is None


def test_an_unknown_augmentation_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"augmentation='mixup' is unknown.*none, flip, shift, crop_flip.*Pass one"):
        make_augmentation("mixup")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_png_mode_becomes_rgb(mode: str) -> None:
    white = Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode)
    decoded = decode_image(encoded(white, "PNG"), "it")
    assert decoded.mode == "RGB"
    assert (np.asarray(decoded) == 255).all()


def test_a_palette_with_transparency_keeps_its_colours() -> None:
    red = Image.new("RGB", (4, 4), (250, 10, 10)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode_image(encoded(red, "PNG", transparency=bytes([0])), "it").getpixel((0, 0)) == (250, 10, 10)


def test_cmyk_jpeg_becomes_rgb() -> None:
    decoded = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "it")
    red, green, blue = decoded.getpixel((4, 4))
    assert decoded.mode == "RGB"
    assert red > 200 > 60 > max(green, blue)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 256, 32896, 65535]], dtype=np.uint16)  # / 257 = 0, 0.996, 128, 255
    decoded = decode_image(encoded(Image.fromarray(values), "PNG"), "it")
    assert np.asarray(decoded)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    assert decode_image(encoded(noise(16, 24), "JPEG", exif=exif), "it").size == (16, 24)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"bytes": b"not an image", "path": None}, "UnidentifiedImageError"),
        ({"bytes": None, "path": None}, "ValueError"),
        (None, "there is no image in this row"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "floating-point pixels"),
    ],
)
def test_an_unreadable_image_is_named_with_its_cause(value: dict | None, cause: str) -> None:
    with pytest.raises(ValueError, match=rf"^Cannot read row 5 \(.*{cause}.*--skip_bad_images") as caught:
        decode_image(value, "row 5")
    assert caught.value.__cause__ is not None


def test_collate_names_the_sizes_that_do_not_fit_together() -> None:
    rows = [{"pixel_values": torch.zeros(3, 8, width), "labels": 0} for width in (8, 9)]
    with pytest.raises(ValueError, match=r"2 sizes, \(3, 8, 8\) and \(3, 8, 9\).*processor.size"):
        collate(rows)


def test_our_image_processor_survives_saving_and_normalises(tmp_path) -> None:
    processor = make_image_processor(12, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    image = Image.new("RGB", (12, 12), (255, 0, 51))
    values = loaded(images=image, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 12, 12)
    torch.testing.assert_close(values[0, :, 0, 0], torch.tensor([1.8, -0.8, -0.5]))  # (1-.1)/.5, (0-.2)/.25, (.2-.3)/.2
    assert type(loaded) is type(processor)
    assert loaded.to_dict() == processor.to_dict()
    assert output_size(loaded) == (12, 12)


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"mean": (0.5,)}, {"std": (0.5, 0.0, 0.5)}])
def test_an_impossible_image_processor_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="do not describe an RGB image"):
        make_image_processor(**{"image_size": 8, **wrong})


def test_output_size_follows_the_centre_crop_else_the_shortest_edge() -> None:
    cropping = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 28})
    assert output_size(cropping) == (32, 28)
    assert output_size(CLIPImageProcessorPil(size={"shortest_edge": 40}, do_center_crop=False)) == (40, 40)

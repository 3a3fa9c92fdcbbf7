"""Folders of images as people have them: which folder is the split, which the class, and what is said of the rest."""

import logging
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bndl_hf.data import DataArguments, load_image_dataset, load_unlabelled_images, make_image_processor
from bndl_hf.data.image_folder import read_image_folder


@pytest.fixture
def said(caplog):
    """What was warned of, as one text."""
    caplog.set_level(logging.WARNING)
    return lambda: " ".join(record.getMessage() for record in caplog.records if record.name.startswith("bndl_hf"))


def images(root: Path, *places: str) -> Path:
    """An image of its own content at each place."""
    for number, place in enumerate(places):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 90, 200)).save(path, format="PNG")
    return root


CATS_AND_DOGS = ("train/cat/a.png", "train/cat/b.png", "train/dog/a.png", "train/dog/b.png")


def found(root: Path, **arguments):
    return load_image_dataset(DataArguments(str(root), **arguments))


def files_of(dataset, part: str, root: Path) -> dict[str, list[str]]:
    """{class: files} of one part."""
    rows: dict[str, list[str]] = {}
    for row in dataset.part(part):
        path = os.path.relpath(row[dataset.image_column]["path"], root)
        rows.setdefault(dataset.label_names[row["label"]], []).append(path)
    return rows


# Splits


def test_a_class_named_like_a_split_leaks_nothing(tmp_path: Path) -> None:
    places = [f"{split}/{name}/{i}.png" for split in ("train", "test") for name in ("apple", "train") for i in (1, 2)]
    dataset = found(images(tmp_path, *places))
    for part in ("train", "test"):
        assert files_of(dataset, part, tmp_path) == {
            "apple": [f"{part}/apple/1.png", f"{part}/apple/2.png"],
            "train": [f"{part}/train/1.png", f"{part}/train/2.png"],
        }


def test_in_a_flat_folder_a_class_may_be_named_like_a_split(tmp_path: Path) -> None:
    dataset = found(images(tmp_path, "apple/1.png", "train/1.png", "test/1.png", "zebra/1.png"))
    assert dataset.label_names == ["apple", "test", "train", "zebra"]
    assert (len(dataset.train), dataset.test) == (4, None)


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training", "valid", "Testing"), ("seg_train", "seg_dev", "seg_test")],
)
def test_splits_go_by_several_names(tmp_path: Path, train: str, validation: str, test: str) -> None:
    places = [f"{split}/{name}/1.png" for split in (train, validation, test) for name in ("cat", "dog")]
    dataset = found(images(tmp_path, *places))
    assert files_of(dataset, "train", tmp_path) == {n: [f"{train}/{n}/1.png"] for n in ("cat", "dog")}
    assert files_of(dataset, "validation", tmp_path) == {n: [f"{validation}/{n}/1.png"] for n in ("cat", "dog")}
    assert files_of(dataset, "test", tmp_path) == {n: [f"{test}/{n}/1.png"] for n in ("cat", "dog")}


def test_what_an_archive_wrapped_is_unwrapped(tmp_path: Path) -> None:
    places = [f"data/{s}/{s}/{name}/1.png" for s in ("seg_train", "seg_test") for name in ("cat", "dog")]
    dataset = found(images(tmp_path, *places))
    assert (dataset.label_names, len(dataset.train), len(dataset.test)) == (["cat", "dog"], 2, 2)


def test_folders_beside_the_splits_are_left_out_and_counted(tmp_path: Path, said) -> None:
    test = [place.replace("train", "test") for place in CATS_AND_DOGS]
    dataset = found(images(tmp_path, *CATS_AND_DOGS, *test, "backup/cat/c.png", "cover.png"))
    assert (len(dataset.train), len(dataset.test)) == (4, 4)
    assert f"Left out 2 images outside the folders of the splits of {tmp_path} (first: {tmp_path}/backup" in said()


def test_of_two_folders_for_one_split_the_one_of_that_name_is_taken(tmp_path: Path, said) -> None:
    dataset = found(images(tmp_path, *CATS_AND_DOGS, "train_old/cat/c.png", "test/cat/1.png", "test/dog/1.png"))
    assert files_of(dataset, "train", tmp_path)["cat"] == ["train/cat/a.png", "train/cat/b.png"]
    assert "Left out 1 image outside the folders of the splits" in said()


def test_an_image_beside_a_wrapped_folder_is_left_out_with_a_warning(tmp_path: Path, said) -> None:
    dataset = found(images(tmp_path, *(f"data/{place}" for place in CATS_AND_DOGS), "data/test/cat/1.png", "cover.png"))
    assert (dataset.label_names, len(dataset.train)) == (["cat", "dog"], 4)
    assert f"Left out 1 image outside the folders of the splits of {tmp_path} (first: {tmp_path}/cover.png)" in said()


def test_a_table_among_many_images_is_a_stray_file(tmp_path: Path, said) -> None:
    images(tmp_path, *CATS_AND_DOGS)
    (tmp_path / "features.parquet").write_bytes(b"x")
    assert len(found(tmp_path).train) == 4
    assert "1 .parquet" in said()


def test_one_split_among_other_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder 'train', named like a split and holding folders, beside backup\."):
        found(images(tmp_path, *CATS_AND_DOGS, "backup/cat/c.png", "train/cover.png"))


# Classes


@pytest.mark.parametrize("split", ["", "train/"])
def test_the_class_is_the_first_folder_however_deep_the_image(tmp_path: Path, said, split: str) -> None:
    inner = ("in/1.png", "in/2.png", "out/far/1.png", "out/far/2.png")
    places = [f"{split}{name}/{place}" for name in ("cat", "dog") for place in inner]
    dataset = found(images(tmp_path, *places))
    assert dataset.label_names == ["cat", "dog"]
    assert Counter(dataset.train["label"]) == {0: 4, 1: 4}
    assert "8 images" in said()
    assert f"{split}cat/in/1.png is of class 'cat'" in said()


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        (["train/a.png", "train/b.png", "test/a.png"], "holds 3 images .* and no class folders.*train/cat/"),
        (["a.png", "b.png"], "holds 2 images .* and no class folders"),
        (["train/cat/a.png", "train/cat/b.png"], r"has one class, 'cat'.*Every class is a folder of its own"),
        (["cat/a.png"], r"has one class, 'cat'.*Every class is a folder of its own"),
    ],
)
def test_what_has_no_classes_is_refused_in_terms_of_folders(tmp_path: Path, places: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        found(images(tmp_path, *places))


def test_an_unlabelled_test_split_is_left_out_with_a_warning(tmp_path: Path, said) -> None:
    dataset = found(images(tmp_path, *CATS_AND_DOGS, "test/1.png", "test/2.png"))
    assert (len(dataset.train), dataset.test) == (4, None)
    assert "Left out split 'test'" in said()
    assert f"no class folder holds its 2 images (first: {tmp_path}/test/1.png)" in said()


def test_a_stray_image_is_left_out_with_a_warning(tmp_path: Path, said) -> None:
    dataset = found(images(tmp_path, *CATS_AND_DOGS, "train/cover.png"))
    assert len(dataset.train) == 4
    assert f"Left out 1 image outside the class folders of {tmp_path} (first: {tmp_path}/train/cover.png)" in said()


def test_empty_class_folders_are_named(tmp_path: Path, said) -> None:
    images(tmp_path, *CATS_AND_DOGS, "test/cat/1.png", "test/owl/1.png")
    (tmp_path / "train" / "bee").mkdir()
    dataset = found(tmp_path)
    assert dataset.class_counts() == {"cat": 2, "dog": 2, "owl": 0}
    assert f"Folders without images in {tmp_path}, left out: train/bee." in said()


# Files


def test_files_left_out_by_their_ending_are_counted_and_named(tmp_path: Path, said) -> None:
    images(tmp_path, *CATS_AND_DOGS)
    for name in ("x.heic", "y.heic", "z.raw", "no_ending"):
        shutil.copy(tmp_path / "train/cat/a.png", tmp_path / "train/cat" / name)
    assert len(found(tmp_path).train) == 4
    assert "Left out 4 of 8 files" in said()
    assert "2 .heic" in said()
    assert "1 .raw" in said()
    assert "1 without an ending" in said()
    assert f"First: {tmp_path}/train/cat/no_ending" in said()


def test_what_the_operating_system_or_the_author_left_is_not_spoken_of(tmp_path: Path, said) -> None:
    images(tmp_path, *CATS_AND_DOGS, "__MACOSX/train/cat/._a.png", "train/cat/._a.png", ".git/a.png")
    for name in ("train/.DS_Store", "train/cat/Thumbs.db", "README.md", "train/cat/desktop.ini"):
        (tmp_path / name).write_text("x")
    assert len(found(tmp_path).train) == 4
    assert said() == ""


def test_endings_in_capitals_and_all_that_pillow_reads_are_images(tmp_path: Path) -> None:
    images(tmp_path, "cat/A.PNG", "cat/b.JPG", "cat/c.Tiff", "dog/d.webp", "dog/e.avif")
    assert len(found(tmp_path).train) == 5


def test_links_are_followed_and_a_link_to_its_own_folder_ends(tmp_path: Path) -> None:
    images(tmp_path / "store", "c/1.png", "c/2.png")
    images(tmp_path / "data", "dog/1.png")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store" / "c")
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dog" / "2.png").symlink_to(tmp_path / "store" / "c" / "2.png")
    assert found(tmp_path / "data").class_counts() == {"cat": 2, "dog": 2}


def test_a_link_to_nothing_is_counted(tmp_path: Path, said) -> None:
    images(tmp_path, *CATS_AND_DOGS)
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert len(found(tmp_path).train) == 4
    assert "1 .png. First: " in said()


def test_an_image_in_training_and_test_is_said(tmp_path: Path, said) -> None:
    test = ("test/cat/1.png", "test/dog/1.png")
    images(tmp_path, *CATS_AND_DOGS, *test)
    found(tmp_path)
    assert said() == ""
    shutil.copy(tmp_path / "train/dog/a.png", tmp_path / "test/dog/new.png")
    found(tmp_path)
    assert "1 of the images that are judged on is also in training" in said()
    assert f"{tmp_path}/test/dog/new.png is {tmp_path}/train/dog/a.png" in said()


def test_a_folder_without_a_readable_ending_names_its_endings(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no file that Pillow knows as an image .*; it holds 1 \.heic\. Convert"):
        found(tmp_path)


# Who reads it


def test_folders_with_metadata_are_read_by_datasets(tmp_path: Path) -> None:
    images(tmp_path, "train/a.png", "train/b.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\na.png,cat\nb.png,dog\n")
    assert read_image_folder(str(tmp_path)) is None
    assert found(tmp_path).label_names == ["cat", "dog"]


def test_out_of_distribution_images_need_no_class_folders(tmp_path: Path) -> None:
    processor, arguments = make_image_processor(8), DataArguments("digits")
    for places in (["a.png", "b.png"], ["x/a.png", "y/z/b.png"], ["train/a.png", "test/x/a.png", "test/b.png"]):
        root = images(tmp_path / str(len(list(tmp_path.iterdir()))), *places)
        rows, _ = load_unlabelled_images(str(root), processor, arguments)
        assert len(rows) == 2
        assert {row["labels"] for row in rows} == {-1}


def test_the_fingerprint_follows_the_files_and_nothing_else(tmp_path: Path) -> None:
    root = images(tmp_path / "one", *CATS_AND_DOGS)
    first = found(root).train._fingerprint
    assert found(root).train._fingerprint == first
    (root / "train/cat/notes.txt").write_text("x")
    shutil.copytree(root, tmp_path / "two")  # keeps the times
    assert found(tmp_path / "two").train._fingerprint == first
    seen = {first}
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "train/cat/a.png")
    seen.add(found(root).train._fingerprint)
    os.utime(root / "train/cat/a.png", (1, 1))
    seen.add(found(root).train._fingerprint)
    (root / "train/cat/b.png").rename(root / "train/dog/c.png")
    seen.add(found(root).train._fingerprint)
    (root / "train/dog/c.png").unlink()
    seen.add(found(root).train._fingerprint)
    assert len(seen) == 5

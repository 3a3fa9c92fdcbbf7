"""Any kind of dataset becomes the same three columns; whatever does not fit is named in a sentence."""

import logging
import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image
from torch.utils.data import DataLoader
from transformers import HfArgumentParser

from bndl_hf.data.image_dataset import (
    ROW_COLUMN,
    DataArguments,
    check_labels,
    collate,
    load_image_dataset,
    make_image_processor,
)

PROCESSOR = make_image_processor(8)


@pytest.fixture(autouse=True)
def _own_cache_and_no_network(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def picture(value: int = 0) -> Image.Image:
    return Image.new("RGB", (10, 10), (value, value, value))


def image_folder(root: Path, per_class: int = 4, splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                picture(100 * label + index).save(root / split / name / f"{index}.jpg")
    return root


def table(labels: list, feature=None, column: str = "label", **more: list) -> Dataset:
    features = Features({"image": datasets.Image(), column: feature or Dataset.from_dict({"x": labels}).features["x"]})
    for name in more:
        features[name] = datasets.Image()
    return Dataset.from_dict({"image": [picture(i) for i in range(len(labels))], column: labels, **more}, features)


def saved(tmp_path: Path, **splits: Dataset) -> str:
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def labels(dataset: Dataset) -> list[int]:
    return list(dataset["label"])


# What a dataset may be


def test_digits_are_split_four_to_one_the_same_every_time_and_evenly_by_class() -> None:
    first, second = (load_image_dataset(DataArguments("digits", split_seed=seed)) for seed in (0, 1))
    assert (len(first.train), len(first.test), first.validation) == (1438, 359, None)
    assert first.label_names == [str(digit) for digit in range(10)]
    assert first.train._fingerprint == second.train._fingerprint
    train, test = Counter(labels(first.train)), Counter(labels(first.test))
    for digit in range(10):
        assert abs(test[digit] - 359 / 1797 * (train[digit] + test[digit])) <= 1


def test_digits_are_the_pixels_of_scikit_learn_scaled_to_bytes() -> None:
    from sklearn.datasets import load_digits

    digits = load_image_dataset(DataArguments("digits"))
    ours = digits.test.cast_column("image", datasets.Image())
    pixels = sorted(np.asarray(row["image"]).tobytes() for row in ours)
    theirs = {(image * 255 / 16).round().astype(np.uint8).tobytes() for image in load_digits().images}
    assert set(pixels) <= theirs
    assert max(np.asarray(ours[0]["image"]).ravel()) > 200


def test_an_image_folder_gives_its_sub_folders_as_classes(tmp_path: Path) -> None:
    found = load_image_dataset(DataArguments(str(image_folder(tmp_path))))
    assert found.label_names == ["cat", "dog"]
    assert (labels(found.train), len(found.test)) == ([0] * 4 + [1] * 4, 8)
    flat = load_image_dataset(DataArguments(str(tmp_path / "train")))
    assert (flat.label_names, len(flat.train), flat.test) == (["cat", "dog"], 8, None)


def test_parquet_works_as_a_folder_and_as_a_file_with_any_column_names(tmp_path: Path) -> None:
    rows = table([1, 0, 1], ClassLabel(names=["no", "yes"]), column="fine_label").rename_column("image", "img")
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    for name in (tmp_path, tmp_path / "train-00000-of-00001.parquet"):
        found = load_image_dataset(DataArguments(str(name)))
        assert (found.image_column, found.label_column, found.label_names) == ("img", "fine_label", ["no", "yes"])
        assert collate([found.with_pixel_values("train", PROCESSOR)[0]])["labels"].tolist() == [1]


def test_a_dataset_saved_to_disk_is_found_with_its_split(tmp_path: Path) -> None:
    name = saved(tmp_path, train=table([0, 1]), test=table([1, 0, 1]))
    assert [len(part) for part in (load_image_dataset(DataArguments(name)).train,)] == [2]
    assert len(load_image_dataset(DataArguments(f"{name}/test")).train) == 3


def test_images_may_be_raw_bytes_or_paths(tmp_path: Path) -> None:
    picture(255).save(tmp_path / "white.png")
    for value in ((tmp_path / "white.png").read_bytes(), str(tmp_path / "white.png")):
        Dataset.from_dict({"img": [value] * 2, "label": ["a", "b"]}).to_parquet(tmp_path / "x.parquet")
        found = load_image_dataset(DataArguments(str(tmp_path / "x.parquet")))
        assert (found.with_pixel_values("train", PROCESSOR)[0]["pixel_values"] == 1).all()


# Labels


def test_string_labels_are_encoded_in_sorted_order_the_same_in_every_split(tmp_path: Path) -> None:
    found = load_image_dataset(DataArguments(saved(tmp_path, train=table(["b", "c", "a"]), test=table(["c"]))))
    assert (found.label_names, labels(found.train), labels(found.test)) == (["a", "b", "c"], [1, 2, 0], [2])
    assert found.test.features["label"] == ClassLabel(names=["a", "b", "c"])


def test_whole_numbers_become_classes_in_numerical_order(tmp_path: Path) -> None:
    found = load_image_dataset(DataArguments(saved(tmp_path, train=table([10, 9, 10]))))
    assert (found.label_names, labels(found.train)) == (["9", "10"], [1, 0, 1])


def test_labels_follow_the_names_of_the_model(tmp_path: Path) -> None:
    name = saved(tmp_path, test=table([0, 1], ClassLabel(names=["cat", "dog"])))
    found = load_image_dataset(DataArguments(name), evaluation_only=True, label_names=["dog", "cat"])
    assert (labels(found.test), len(found.train), found.label_names) == ([1, 0], 0, ["dog", "cat"])


def test_the_usual_name_wins_among_several_class_columns(tmp_path: Path) -> None:
    rows = table([0, 1], ClassLabel(num_classes=2), column="fine_label")
    rows = rows.add_column("coarse_label", [0, 0], feature=ClassLabel(num_classes=1))
    assert load_image_dataset(DataArguments(saved(tmp_path, train=rows))).label_column == "fine_label"


def test_a_label_out_of_range_is_named_with_its_row() -> None:
    with pytest.raises(ValueError, match=r"^Label 12 in row 5 of split 'train' is not in 0\.\.9\. Correct it, or pass"):
        check_labels(table([0, 1, 2, 3, 9, 12]), "label", 10, "split 'train'")
    digits = load_image_dataset(DataArguments("digits", max_train_samples=50))
    row, label = next((row[ROW_COLUMN], row["label"]) for row in digits.train if row["label"] >= 5)
    with pytest.raises(ValueError, match=rf"^Label {label} in row {row} of split"):
        check_labels(digits.with_pixel_values("train", PROCESSOR), "label", 5, "split 'train'")


@pytest.mark.parametrize("missing", [-1, None])
def test_an_unlabelled_split_is_refused(tmp_path: Path, missing: int | None) -> None:
    kind = ClassLabel(names=["a", "b"])
    name = saved(tmp_path, train=table([0, 1], kind), test=table([1, missing], kind))
    with pytest.raises(ValueError, match=rf"^Row 1 of split 'test' of .* has no label \({missing}\)"):
        load_image_dataset(DataArguments(name))


def test_a_missing_string_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Row 1 of split 'train' of .* has no label"):
        load_image_dataset(DataArguments(saved(tmp_path, train=table(["a", None, "b"]))))


# Which images


def test_splits_are_found_by_name(tmp_path: Path) -> None:
    rows = {name: table([0, 1]) for name in ("train", "validation", "test")}

    def sources(*there: str, evaluation_only: bool = False, **arguments) -> dict[str, str]:
        name = saved(tmp_path / "-".join(there), **{split: rows[split] for split in there})
        found = load_image_dataset(DataArguments(name, **arguments), evaluation_only)
        return {part: source.split("'")[1] for part, source in found.sources.items()}

    assert sources("train") == {"train": "train"}
    assert sources("train", "validation") == {"train": "train", "test": "validation"}
    everything = {"train": "train", "test": "test", "validation": "validation"}
    assert sources("train", "validation", "test") == everything
    held_out = sources("train", "validation", "test", validation_fraction=0.5)
    assert held_out == {**everything, "validation": "train"}
    assert sources("train", "test", validation_split="test") == {"train": "train", "validation": "test"}
    assert sources("test", evaluation_only=True) == {"test": "test"}


def test_the_held_out_share_is_even_by_class_repeatable_and_disjoint() -> None:
    first, again, other = (
        load_image_dataset(DataArguments("digits", validation_fraction=0.25, split_seed=seed)) for seed in (0, 0, 1)
    )
    assert (len(first.train), len(first.validation)) == (1438 - 360, 360)  # round(0.25 * 1438) = 360
    assert first.validation[ROW_COLUMN][:] == again.validation[ROW_COLUMN][:] != other.validation[ROW_COLUMN][:]
    assert first.train._fingerprint == again.train._fingerprint != other.train._fingerprint
    rows = [*first.train[ROW_COLUMN], *first.validation[ROW_COLUMN]]
    assert sorted(rows) == list(range(1438))
    all_labels = Counter(labels(first.train)) + Counter(labels(first.validation))
    for digit, count in Counter(labels(first.validation)).items():
        assert abs(count - 360 / 1438 * all_labels[digit]) <= 1


def test_a_rare_class_stays_in_training(tmp_path: Path) -> None:
    name = saved(tmp_path, train=table(["common"] * 9 + ["rare"]))
    found = load_image_dataset(DataArguments(name, validation_fraction=0.3))
    assert labels(found.validation) == [0, 0, 0]


def test_a_limit_keeps_every_class_and_the_number_of_the_row() -> None:
    digits = load_image_dataset(DataArguments("digits", max_train_samples=20, max_eval_samples=10))
    assert Counter(labels(digits.train)) == {digit: 2 for digit in range(10)}
    assert sorted(labels(digits.test)) == list(range(10))
    whole = load_image_dataset(DataArguments("digits")).train
    assert all(whole[row[ROW_COLUMN]]["image"] == row["image"] for row in digits.train)


# Unreadable images


@pytest.fixture
def broken_folder(tmp_path: Path) -> Path:
    folder = image_folder(tmp_path)
    file = folder / "train" / "dog" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    return folder


def test_a_truncated_jpeg_stops_the_run_and_is_named(broken_folder: Path) -> None:
    found = load_image_dataset(DataArguments(str(broken_folder)))
    rows = found.with_pixel_values("train", PROCESSOR)
    assert len(list(DataLoader(rows.select(range(6)), 2, collate_fn=collate))) == 3
    with pytest.raises(
        ValueError, match=r"^Cannot read image .*train/dog/2\.jpg \(OSError: .*[Tt]runcated.*--skip_bad"
    ):
        rows[6]


def test_bad_images_are_skipped_and_listed_on_request(broken_folder: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        found = load_image_dataset(DataArguments(str(broken_folder), skip_bad_images=True))
    assert (list(found.train[ROW_COLUMN]), len(found.test)) == ([0, 1, 2, 3, 4, 5, 7], 8)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "bndl_hf.data.columns"]
    assert message.startswith("Left out 1 of 8 images in split 'train'")
    assert message.endswith("train/dog/2.jpg")


def test_the_number_of_processes_changes_neither_rows_nor_fingerprint(broken_folder: Path) -> None:
    one, two = (
        load_image_dataset(DataArguments(str(broken_folder), skip_bad_images=True, preprocessing_num_workers=workers))
        for workers in (1, 2)
    )
    assert one.train[ROW_COLUMN][:] == two.train[ROW_COLUMN][:] == [0, 1, 2, 3, 4, 5, 7]
    assert one.train._fingerprint == two.train._fingerprint


def test_an_image_inside_a_table_is_named_by_its_row_before_any_selection(tmp_path: Path) -> None:
    values = [{"bytes": b"broken" if i == 17 else Path(__file__).read_bytes(), "path": None} for i in range(20)]
    rows = Dataset.from_dict({"image": values, "label": ["a", "b"] * 10})
    name = saved(tmp_path, train=rows.cast_column("image", datasets.Image(decode=False)))
    found = load_image_dataset(DataArguments(name, validation_fraction=0.5))
    part = "train" if 17 in found.train[ROW_COLUMN][:] else "validation"
    place = getattr(found, part)[ROW_COLUMN][:].index(17)
    with pytest.raises(ValueError, match=rf"^Cannot read the image in row 17 of split 'train' of {name}"):
        found.with_pixel_values(part, PROCESSOR)[place]
    with pytest.raises(ValueError, match=r"None of the 20 images in split 'train' .* can be read"):
        load_image_dataset(DataArguments(name, skip_bad_images=True, preprocessing_num_workers=2))


# Batches


def test_batches_come_out_the_same_with_two_workers() -> None:
    rows = load_image_dataset(DataArguments("digits")).with_pixel_values("test", PROCESSOR)
    alone, shared = (list(DataLoader(rows, 100, collate_fn=collate, num_workers=workers)) for workers in (0, 2))
    assert [tuple(batch["pixel_values"].shape) for batch in alone] == [(100, 3, 8, 8)] * 3 + [(59, 3, 8, 8)]
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert torch.equal(one["labels"], other["labels"])
    assert alone[0]["labels"].dtype == torch.int64
    assert alone[0]["pixel_values"].dtype == torch.float32
    batch = PROCESSOR(images=[Image.new("RGB", (8, 8), (255, 255, 255))], return_tensors="pt")["pixel_values"]
    assert batch.max() == 1  # ... so that white is 1 and black is -1 in the digits as well:
    assert (alone[0]["pixel_values"].min(), alone[0]["pixel_values"].max()) == (-1, 1)


def test_augmented_batches_repeat_under_one_seed_also_in_workers() -> None:
    found = load_image_dataset(DataArguments("digits", max_train_samples=60))
    rows = found.with_pixel_values("train", PROCESSOR, augmentation="auto")

    def epoch(seed: int, workers: int) -> torch.Tensor:
        torch.manual_seed(seed)
        loader = DataLoader(rows, 20, shuffle=True, collate_fn=collate, num_workers=workers)
        return torch.cat([batch["pixel_values"] for batch in loader])

    for workers in (0, 2):
        assert torch.equal(epoch(0, workers), epoch(0, workers))
        assert not torch.equal(epoch(0, workers), epoch(1, workers))


def test_the_transform_can_be_sent_to_a_worker_process() -> None:
    found = load_image_dataset(DataArguments("digits", max_train_samples=10))
    rows = found.with_pixel_values("train", PROCESSOR)
    assert torch.equal(pickle.loads(pickle.dumps(rows))[3]["pixel_values"], rows[3]["pixel_values"])


def test_cifar10_as_on_the_hub(shared: Path) -> None:
    if not (shared / "datasets" / "cifar10").is_dir():
        pytest.skip("needs a copy of CIFAR-10")
    found = load_image_dataset(
        DataArguments(str(shared / "datasets" / "cifar10"), validation_fraction=0.1, max_eval_samples=100)
    )
    assert (len(found.train), len(found.validation), len(found.test)) == (45_000, 100, 100)
    assert (found.image_column, found.label_column, found.label_names[0]) == ("img", "label", "airplane")
    rows = found.with_pixel_values("validation", make_image_processor(32), "auto")
    assert next(iter(DataLoader(rows, 10, collate_fn=collate)))["pixel_values"].shape == (10, 3, 32, 32)


# Refusals


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"validation_fraction": 1.0}, r"validation_fraction=1\.0 is not a share .* \[0, 1\)"),
        ({"validation_fraction": -0.1}, r"validation_fraction=-0\.1"),
        ({"validation_fraction": 0.1, "validation_split": "dev"}, r"'dev' and validation_fraction=0\.1 both say"),
        ({"max_train_samples": 0}, r"max_train_samples=0 .* at least 1"),
        ({"max_eval_samples": -3}, r"max_eval_samples=-3 .* at least 1"),
        ({"preprocessing_num_workers": 0}, r"preprocessing_num_workers=0"),
        ({"augmentation": "mixup"}, r"augmentation='mixup' is unknown.*crop_flip"),
    ],
)
def test_impossible_arguments_are_refused_where_they_enter(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DataArguments("digits", **wrong)


@pytest.mark.parametrize("name", ["nobody/nothing", "./no/such/folder", "missing.parquet"])
def test_a_dataset_that_is_not_there_says_what_would_be_accepted(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^dataset_name='{name}' cannot be loaded .*Hub id.*save_to_disk.*'digits'"
    ) as e:
        load_image_dataset(DataArguments(name))
    assert e.value.__cause__ is not None


def test_digits_without_scikit_learn_name_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install bndl-hf\[baselines\]"):
        load_image_dataset(DataArguments("digits"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"train_split": "training"}, r"^digits has no split 'training'; splits here: train, test\. .*--train_split"),
        ({"test_split": "dev"}, r"^digits has no split 'dev'; .*--test_split"),
        ({"validation_split": "train"}, "share a split"),
        (
            {"image_column": "img"},
            r"^Split 'train' of digits has no column 'img'; columns here: image \(Image\), label",
        ),
        ({"label_column": "class"}, r"has no column 'class'; .*--label_column"),
        ({"label_column": "image"}, "'image' cannot hold both"),
        ({"image_column": "label"}, "'label' cannot hold both"),
        ({"validation_fraction": 1e-5}, r"of 1438 rows is 0; both parts need images"),
    ],
)
def test_what_does_not_fit_the_digits_is_said_in_a_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_image_dataset(DataArguments("digits", **arguments))


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({"train": table([0], other=[picture()])}, r"has 2 image columns \(image, other\); .*--image_column"),
        (
            {"train": Dataset.from_dict({"scan": ["x"], "label": [0]})},
            "known to hold images",
        ),
        (
            {"train": table([0]).rename_column("label", "y")},
            r"known to hold labels; columns here: image \(Image\), y \(int64\)",
        ),
        ({"train": table([0.5])}, r"^Column 'label' of split 'train' of .* holds float64; classes are"),
        ({"train": Dataset.from_dict({"image": [0.5], "label": [0]})}, r"^Column 'image' .* holds float64; images are"),
        ({"train": table(["a"]), "test": table(["b"])}, r"^Label 'b' in row 0 of split 'test' .* classes here: a\."),
        ({"train": table(["a"]), "test": table(["a"], column="tag")}, r"^Split 'test' of .* has no column 'label'"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_a_sentence(tmp_path: Path, splits: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_image_dataset(DataArguments(saved(tmp_path, **splits)))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table([0]).to_parquet(tmp_path / "tables" / "train.parquet")
    table([0]).select([]).to_parquet(tmp_path / "tables" / "test.parquet")
    for name in (str(tmp_path / "tables"), saved(tmp_path, train=table([0]), test=table([0]).select([]))):
        with pytest.raises(ValueError, match=rf"^dataset_name='{name}' cannot be loaded \(a split has no rows\)"):
            load_image_dataset(DataArguments(name))


def test_a_part_that_is_not_there_says_how_to_get_it() -> None:
    digits = load_image_dataset(DataArguments("digits", max_train_samples=10))
    with pytest.raises(ValueError, match=r"no validation part; parts here: train, test\. .*--validation_fraction 0\.1"):
        digits.with_pixel_values("validation", PROCESSOR)


def test_judging_needs_a_test_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no test split; splits here: train\. .*--test_split"):
        load_image_dataset(DataArguments(saved(tmp_path, train=table([0]))), evaluation_only=True)


def test_every_flag_explains_itself(capsys) -> None:
    parser = HfArgumentParser(DataArguments)
    (arguments,) = parser.parse_args_into_dataclasses(["--dataset_name", "digits", "--validation_fraction", "0.1"])
    assert arguments == DataArguments("digits", validation_fraction=0.1)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "choose it on these images" in " ".join(capsys.readouterr().out.split())


# What is said of the classes


def test_a_dataset_describes_its_parts_and_classes() -> None:
    digits = load_image_dataset(DataArguments("digits", validation_fraction=0.1))
    assert digits.describe().startswith("train: 1294 images, validation: 144 images, test: 359 images; 10 classes in ")
    counts = digits.class_counts()
    assert counts == {str(digit): count for digit, count in sorted(Counter(labels(digits.train)).items())}
    assert digits.describe().endswith(f"in train: {', '.join(f'{name} ({count})' for name, count in counts.items())}")
    assert sum(digits.class_counts("test").values()) == 359


def test_of_many_classes_the_first_and_the_extremes_are_shown(tmp_path: Path) -> None:
    rows = [f"c{i:02}" for i in range(30) for _ in range(9 if i == 20 else 1 if i == 25 else 3)]
    text = load_image_dataset(DataArguments(saved(tmp_path, train=table(rows)))).describe()
    assert text.startswith("train: 94 images; 30 classes in train: c00 (3), c01 (3),")
    assert text.endswith("c09 (3), ...; fewest: c25 (1), most: c20 (9)")


def test_classes_without_a_training_image_are_counted(tmp_path: Path) -> None:
    rows = table([0, 2], ClassLabel(names=["a", "b", "c", "d"]))
    found = load_image_dataset(DataArguments(saved(tmp_path, train=rows)))
    assert found.class_counts() == {"a": 1, "b": 0, "c": 1, "d": 0}


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Split 'train' of .* has one class, 'a'; a classifier needs at least two"):
        load_image_dataset(DataArguments(saved(tmp_path, train=table(["a", "a"]))))


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (datasets.List(datasets.Value("int64")), [[0, 1], [1, 0]]),
        (datasets.List(ClassLabel(names=["a", "b"])), [[0, 1], [1]]),
        (datasets.Value("float32"), [0.0, 1.0]),
    ],
)
def test_several_labels_an_image_are_refused_in_a_sentence(tmp_path: Path, feature, values: list) -> None:
    with pytest.raises(ValueError, match=r"^Column 'labels' of split .* holds (List|float32); classes are .* one per"):
        load_image_dataset(DataArguments(saved(tmp_path, train=table(values, feature, column="labels"))))


# A user's own augmentation


def test_any_callable_from_image_to_image_is_an_augmentation() -> None:
    digits = load_image_dataset(DataArguments("digits", max_train_samples=10))
    plain, turned = (
        digits.with_pixel_values("train", PROCESSOR, augmentation)[0]["pixel_values"]
        for augmentation in ("none", lambda image: image.transpose(Image.Transpose.ROTATE_180))
    )
    assert torch.equal(turned, plain.flip(1, 2))
    assert not torch.equal(turned, plain)


def test_an_augmentation_that_makes_tensors_is_refused() -> None:
    digits = load_image_dataset(DataArguments("digits", max_train_samples=10))
    rows = digits.with_pixel_values("train", PROCESSOR, lambda image: torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match=r"augmentation returned Tensor; it must return a PIL image\. Leave out"):
        rows[0]
    with pytest.raises(ValueError, match="augmentation=3 is neither a name"):
        digits.with_pixel_values("train", PROCESSOR, 3)


# Rows of other datasets


def test_pairs_of_image_and_label_are_batched_like_rows() -> None:
    images = torch.rand(3, 3, 8, 8)
    rows = [{"pixel_values": image, "labels": label} for label, image in enumerate(images)]
    expected = collate(rows)
    tensors = [(image, i) for i, image in enumerate(images)]
    arrays = [[image.numpy(), np.int64(i)] for i, image in enumerate(images)]
    for pairs in (tensors, arrays):
        batch = collate(pairs)
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert torch.equal(batch["labels"], torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": 0, "label": 1}, "A row holds image, label; collate takes rows of pixel_values and labels"),
        ((picture(), 1), "holds its image as Image; collate takes what an image processor made"),
        ((torch.zeros(3, 8, 8), torch.tensor([0, 1, 1])), "one whole number.*multi-hot labels"),
        ((torch.zeros(3, 8, 8), [0, 1]), "one whole number"),
        ((torch.zeros(3, 8, 8), 0.5), "has the label 0.5; a label is one whole number"),
        (torch.zeros(3, 8, 8), "A row holds Tensor"),
    ],
)
def test_rows_that_are_not_an_image_and_its_class_are_refused(row, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        collate([row])


def test_the_example_of_the_guide_runs_and_prints_what_it_shows(capsys) -> None:
    code = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "data.md").read_text(), re.S)[0]
    names: dict = {}
    exec(code, names)
    (shown,) = re.findall(r"\n# (train: .*), \.\.\.\n", code)
    assert capsys.readouterr().out.startswith(shown)
    assert names["batch"]["pixel_values"].shape == (2, 3, 32, 32)

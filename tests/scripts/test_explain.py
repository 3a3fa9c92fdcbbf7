"""explain.py as a user runs it: its files agree with the library, printed contributions add up, and what does not fit
is said in a sentence."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PerceiverConfig, PreTrainedConfig, ResNetConfig, ResNetForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.data.image_dataset import DataArguments, collate, load_image_dataset, make_image_processor
from bndl_hf.interpretability import factor_purity, identifiability_report, sparsity_report
from model.architectures import SUPPORTED
from script_modules import TINY_RESNET, load_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "explain.py"
DIGITS = {i: str(i) for i in range(10)}


explain = load_script("explain")


def save_model(folder: Path, backbone: PreTrainedConfig | None = None, size: int = 24, **config: Any) -> Path:
    torch.manual_seed(0)
    backbone = backbone or ResNetConfig(**TINY_RESNET)
    model = BNDLForImageClassification(BNDLConfig.from_backbone_config(backbone, num_factors=6, **config))
    model.eval().save_pretrained(folder)
    make_image_processor(size).save_pretrained(folder)
    return folder


def command(model: Path, output_dir: Path, *more: str) -> list[str]:
    argv = [
        "--model_name_or_path",
        str(model),
        "--dataset_name",
        "digits",
        "--use_cpu",
        "--output_dir",
        str(output_dir),
    ]
    return [*argv, "--top", "4", "--sheet_factors", "2", *more]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), id2label=DIGITS)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def run(model: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run with an image and LIME, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        explain.main(command(model, folder, "--images", str(image), "--lime", "--top_k", "3"))
    return folder, printed.getvalue()


def test_every_file_is_written_and_named(run: tuple[Path, str]) -> None:
    folder, printed = run
    figures = ["gallery.png", "noise_contributions.png", "noise_gap.png", "noise_maps.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["explanations.json", "gallery.html", *figures])
    assert sorted(printed.splitlines()[-6:]) == sorted(map(str, folder.iterdir()))
    for name in figures:
        with Image.open(folder / name) as figure:
            assert figure.width > 500
            assert set(figure.info) <= {"dpi"}
    assert (folder / "gallery.html").read_text().count('"k":') == 6


def test_the_numbers_are_those_of_the_library(run: tuple[Path, str], model: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((run[0] / "explanations.json").read_text(), parse_constant=refuse)
    classifier = BNDLForImageClassification.from_pretrained(model).eval()
    data = load_image_dataset(DataArguments("digits"))
    test = collate(list(data.with_pixel_values("test", make_image_processor(24))))
    with torch.no_grad():
        scores = classifier(test["pixel_values"]).factor_scores
    loadings = classifier.decision_layer.factor_loadings.detach()
    purity, certified = factor_purity(scores, test["labels"], top=4), identifiability_report(scores, loadings)
    sparsity = sparsity_report(classifier)
    assert results["evaluated_on"] == "split 'test' of digits"
    assert (results["num_images"], results["num_factors"]) == (359, 6)
    assert results["num_active_factors"] == int((scores > 0).any(dim=0).sum()) == len(results["factors"])
    assert results["maps"] == {"method": "pooled_average", "exact": True}
    assert results["sparsity"] == pytest.approx(sparsity.sparsity)
    assert results["factors_per_class"] == sparsity.factors_per_class.tolist()
    assert results["purity"]["chance"] == pytest.approx(purity.chance)
    assert results["purity"]["mean"] == pytest.approx(purity.purity[purity.num_top > 0].mean().item())
    assert results["identifiability"]["rank"] == certified.rank
    assert results["identifiability"]["identifiable"] == certified.identifiable.nonzero().flatten().tolist()
    assert sum(card["evidence_share"] for card in results["factors"]) == pytest.approx(1)
    for card in results["factors"]:
        k = card["factor"]
        assert card["active_share"] == pytest.approx((scores[:, k] > 0).float().mean().item())
        assert card["purity"] == pytest.approx(purity.purity[k].item())
        assert card["top_images"] == purity.top_images[k, : purity.num_top[k]].tolist()
        assert card["loadings"] == {
            str(c): pytest.approx(loadings[k, c].item()) for c in range(10) if loadings[k, c] > 0
        }
    assert set(results["environment"]) >= {"torch", "device"}
    assert results["command"].startswith("scripts/explain.py --model_name_or_path")


def test_printed_contributions_add_up_to_the_total(run: tuple[Path, str], model: Path, image: Path) -> None:
    lines = run[1].splitlines()
    start = next(i for i, line in enumerate(lines) if "noise: " in line)
    parts = [float(line[14:22]) for line in lines if re.match(r"  factor \d", line)]
    named = {
        line.split()[0]: float(line.split()[1]) for line in lines if line.startswith(("  rest", "  bias", "  total"))
    }
    assert len(parts) == 3
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) + named["rest"] + named["bias"] == pytest.approx(named["total"], abs=6 * 0.005)
    classifier = BNDLForImageClassification.from_pretrained(model).eval()
    pixel_values = make_image_processor(24)(images=Image.open(image), return_tensors="pt")["pixel_values"]
    prediction = classifier.predict(pixel_values)
    assert named["total"] == pytest.approx(prediction.logits_mean.max().item(), abs=0.006)
    assert f"noise: {prediction.predicted_labels.item()} with {prediction.probs.max():.1%}, " in lines[start]


def test_labels_are_matched_by_their_names_not_by_their_order(tmp_path: Path) -> None:
    backwards = save_model(tmp_path / "model", id2label={i: str(9 - i) for i in range(10)})
    explain.main(command(backwards, tmp_path / "out", "--max_factors", "2", "--sheet_factors", "1"))
    data = load_image_dataset(DataArguments("digits"))
    (cards,) = re.findall(r"bndlCards\(0, (.*)\);", (tmp_path / "out" / "gallery.html").read_text())
    captions = [pair for card in json.loads(cards) for pair in zip(card["images"], card["labels"], strict=True)]
    assert len(captions) == 8
    assert all(data.label_names[data.test[int(row)]["label"]] == name for row, name in captions)


def test_a_row_of_the_dataset_is_explained_as_its_file_would_be(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load_image_dataset(DataArguments("digits"))
    (tmp_path / "digit.png").write_bytes(data.test[7]["image"]["bytes"])
    explain.main(command(model, tmp_path, "--max_factors", "1", "--rows", "7", "--images", str(tmp_path / "digit.png")))
    row, file = re.findall(r"(?:row7|digit): (.*?total +[\d.]+)", capsys.readouterr().out, flags=re.S)
    assert row == file
    assert (tmp_path / "row7_contributions.png").read_bytes() == (tmp_path / "digit_contributions.png").read_bytes()


def test_help_says_what_it_writes_and_every_flag(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        explain.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "python scripts/explain.py --model_name_or_path outputs/mine --dataset_name" in text
    for word in (
        "gallery.html",
        "gallery.png",
        "explanations.json",
        "NAME_contributions.png",
        "NAME_gap.png",
        "NAME_maps.png",
    ):
        assert word in text
    for flag in ("--images", "--lime", "--top_k", "--max_factors", "--tolerance", "--test_split", "--use_cpu"):
        assert re.search(rf"^  {flag} .*", text, flags=re.M)
    assert "default: 8" in text


def test_sixteen_bits_of_grey_are_not_all_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 100 * 257, dtype=np.uint16)).save(tmp_path / "deep.png")
    (image,) = explain.read_images([str(tmp_path / "deep.png")], [], [], "image").values()
    assert image.getpixel((0, 0)) == (100, 100, 100)


# ---- what does not fit ----


def fails(argv: list[str], sentence: str) -> None:
    """It ends in one line that says so."""
    with pytest.raises(SystemExit, match=sentence) as stopped:
        explain.run(lambda: explain.main(argv))
    assert "\n" not in str(stopped.value.code)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--model_name_or_path", "{tmp}/no"], "OSError: .*no"),
        (["--dataset_name", "{tmp}/no"], r"dataset_name='.*no' cannot be loaded"),
        (
            ["--images", "{tmp}/text.png"],
            r"--images .*text\.png cannot be read as an image: cannot identify image file",
        ),
        (["--images", "{tmp}/no.png"], r"--images .*no\.png cannot be read as an image: .*No such file"),
        (["--images", "{image}", "{tmp}/noise.png"], "--images has two files called noise; rename one"),
        (["--rows", "3", "359"], "--rows 359 is not there; the dataset has rows 0 to 358"),
        (["--images", "{image}", "--top_k", "0"], "top_k=0 must lie between 1 and the number of factors, 6"),
        (["--top", "0"], "top=0 shows nothing"),
        (["--tolerance", "2"], "tolerance=2.0 is a share of the largest part"),
    ],
)
def test_wrong_input_ends_in_a_sentence(
    model: Path, image: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    (tmp_path / "text.png").write_text("no image")
    fails(command(model, tmp_path / "out", *(word.format(tmp=tmp_path, image=image) for word in more)), sentence)
    assert not list((tmp_path / "out").glob("*"))


def test_other_classes_are_refused(tmp_path: Path) -> None:
    nameless = save_model(tmp_path / "nameless", num_labels=7)
    fails(command(nameless, tmp_path), "has 7 classes without names, split 'test' of digits has 10")
    animals = save_model(tmp_path / "animals", id2label={0: "cat", 1: "dog"})
    fails(command(animals, tmp_path), r"Label '\d' in row 0 of split 'test' of digits is not a known class")


def test_a_model_without_a_bndl_is_refused(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET)).save_pretrained(tmp_path / "plain")
    make_image_processor(24).save_pretrained(tmp_path / "plain")
    fails(command(tmp_path / "plain", tmp_path), "This is a resnet checkpoint, not a BNDL one")


def test_a_backbone_without_places_is_refused(tmp_path: Path) -> None:
    perceiver = PerceiverConfig(**SUPPORTED["perceiver"].options)
    folder = save_model(tmp_path / "perceiver", perceiver, size=8, id2label=DIGITS)
    fails(command(folder, tmp_path), "PerceiverForImageClassification.* makes no map of two positions or more")

"""The pipelines: transformers' own with the right scores, the list with uncertainty, the full answer."""

import base64
import copy
import io
import json
import logging
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ImageClassificationPipeline, ViTForImageClassification, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from bndl_hf.data.pixel_values import decode_image, make_image_processor
from bndl_hf.model.input_images import read_image
from bndl_hf.model.pipeline_bndl import UNCERTAINTY, BNDLAnswerPipeline, BNDLImageClassificationPipeline
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.model.verdicts import VerdictRule
from bndl_hf.uncertainty import FittedDecisions
from model.tiny import IMAGE_SIZE, NUM_LABELS, tiny_backbone_config, tiny_model

LABELS = {i: name for i, name in enumerate(("cat", "dog", "owl", "fox", "bee"))}


def noise(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def processor():
    return make_image_processor(IMAGE_SIZE)


@pytest.fixture(scope="module")
def model():
    model = tiny_model("vit", id2label=LABELS)
    with torch.no_grad():  # answers that differ between images
        model.decision_layer.raw_loadings.mul_(5)
    return model


@pytest.fixture(scope="module")
def classify(model, processor):
    return BNDLImageClassificationPipeline(model=model, image_processor=processor)


@pytest.fixture(scope="module")
def answer(model, processor):
    return pipeline("bndl-image-classification", model=model, image_processor=processor)


@pytest.fixture
def serve(tmp_path):
    """Address of a server of the files in `tmp_path`."""

    class Serve(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write((tmp_path / self.path[1:]).read_bytes())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def predicted(model, processor):
    return model.predict(processor(images=noise(0), return_tensors="pt").pixel_values)


def test_entries_are_the_standard_ones_with_the_uncertainty_of_predict(classify, predicted):
    entries = classify(noise(0))
    order = predicted.probs[0].argsort(descending=True).tolist()
    assert [entry["label"] for entry in entries] == [LABELS[i] for i in order]
    for entry, i in zip(entries, order, strict=True):
        assert entry["score"] == predicted.probs[0, i].item()
        assert entry["logit_std"] == predicted.logits_variance[0, i].sqrt().item()
        for name in UNCERTAINTY:
            assert entry[name] == getattr(predicted, name)[0].item(), name
    assert isinstance(entries[0]["is_certain"], bool)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_a_function_of_the_logits_gives_the_scores_of_transformers_own_pipeline(classify, model, processor, function):
    theirs = ImageClassificationPipeline(model=model, image_processor=processor)
    expected = theirs(noise(0), function_to_apply=function, top_k=3)
    ours = classify(noise(0), function_to_apply=function, top_k=3)
    assert [e["label"] for e in ours] == [e["label"] for e in expected]
    assert [e["score"] for e in ours] == pytest.approx([e["score"] for e in expected], rel=1e-5, abs=1e-6)


def test_top_k_counts_entries_and_none_gives_all(classify):
    assert len(classify(noise(0), top_k=2)) == 2
    assert len(classify(noise(0), top_k=None)) == NUM_LABELS
    assert len(classify(noise(0), top_k=99)) == NUM_LABELS


def test_batches_paths_urls_generators_and_datasets_get_the_same_answers(tmp_path, classify, serve):
    images = [noise(seed) for seed in range(5)]
    expected = [classify(image) for image in images]
    assert expected[0] != expected[1]
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)

    urls = [f"{serve}/{i}.png" for i in range(5)]
    rows = datasets.Dataset.from_dict({"img": paths, "label": range(5)}).cast_column("img", datasets.Image())
    answers = {
        "batched": classify(images, batch_size=2),
        "paths": classify(paths, batch_size=3),
        "urls": classify(urls, batch_size=5),
        "generator": list(classify(image for image in images)),
        "dataset": list(classify(rows, batch_size=2)),
        "column": list(classify(KeyDataset(rows, "img"))),
        "stream": list(classify(rows.to_iterable_dataset(), batch_size=2)),
    }
    for name, found in answers.items():
        assert [[e["label"] for e in entries] for entries in found] == [[e["label"] for e in x] for x in expected], name
        for entries, wanted in zip(found, expected, strict=True):
            for entry, other in zip(entries, wanted, strict=True):
                # Batched matrix products round differently in float32.
                assert {k: v for k, v in entry.items() if k != "label"} == pytest.approx(
                    {k: v for k, v in other.items() if k != "label"}, rel=1e-4, abs=1e-6
                ), name
    assert classify([]) == []


def test_a_dataset_without_one_image_column_is_an_error_that_lists_its_columns(classify):
    with pytest.raises(ValueError, match=r"columns text, of which 0 hold images; pass KeyDataset"):
        classify(datasets.Dataset.from_dict({"text": ["a"]}))


def test_all_65536_grey_values_are_read_as_in_training():
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    trained = np.asarray(decode_image({"bytes": file.getvalue(), "path": None}, "the image"))
    assert len(np.unique(trained)) == 256
    opened = Image.open(file)
    big_endian = Image.frombytes("I;16B", (256, 256), pixels.astype(">u2").tobytes())
    for source in (opened, opened.convert("I"), big_endian, pixels, torch.from_numpy(pixels)):
        assert (np.asarray(read_image(source)) == trained).all(), source


def test_sixteen_bit_grey_by_path_url_base64_and_opened_gets_one_answer(tmp_path, classify, serve):
    path = tmp_path / "deep.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 40), dtype=np.uint16)).save(path)
    as_trained = classify(decode_image({"bytes": path.read_bytes(), "path": None}, "the image"))
    text = base64.b64encode(path.read_bytes()).decode()
    rows = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    for source in (str(path), path, f"{serve}/deep.png", text, f"data:image/png;base64,{text}", Image.open(path)):
        assert classify(source) == as_trained
    assert list(classify(rows)) == [as_trained]
    assert classify(Image.open(path).convert("RGB")) != as_trained  # Pillow's own conversion clips


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_is_read_as_in_training(tmp_path, mode):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image = noise(0) if mode == "CMYK" else noise(0).convert("RGBA")
    image.convert(mode).save(path)
    expected = np.asarray(decode_image({"bytes": path.read_bytes(), "path": None}, "the image"))
    assert Image.open(path).mode == mode
    for source in (path, Image.open(path)):
        assert (np.asarray(read_image(source)) == expected).all()


def test_a_grey_palette_with_transparency_is_read():
    grey = noise(0).convert("L")
    assert (np.asarray(read_image(grey.convert("LA").convert("PA"))) == np.asarray(grey.convert("RGB"))).all()


def test_a_photograph_is_turned_upright_once(tmp_path, classify):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    noise(0).resize((40, 40)).save(tmp_path / "turned.png", exif=exif)
    upright = Image.open(tmp_path / "turned.png").transpose(Image.Transpose.ROTATE_270).convert("RGB")
    upright.info.clear()
    plain = Image.fromarray(np.asarray(upright))
    assert classify(str(tmp_path / "turned.png")) == classify(plain)
    assert classify(Image.open(tmp_path / "turned.png")) == classify(plain)


def test_arrays_and_tensors_are_answered_like_the_image(classify):
    expected, pixels = classify(noise(0)), np.asarray(noise(0))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    same = [pixels, pixels[..., ::-1][..., ::-1], tensor, tensor.int(), tensor / 255, tensor.double() / 255, opaque]
    for source in same:
        assert classify(source) == expected
    assert classify(torch.stack([tensor, tensor])) == [expected, expected]  # a batch is a list of images
    grey = pixels[..., 0]
    for source in (grey, grey[None], grey[..., None], torch.from_numpy(grey.copy())):
        assert classify(source) == classify(Image.fromarray(grey))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (torch.full((3, 8, 8), torch.nan), r"tensor of shape \[3, 8, 8\] .*torch.float32 .*NaN or infinite"),
        (np.full((8, 8, 3), 300), r"array of shape \[8, 8, 3\] .*pixels from 300 to 300; give 0..255"),
        (torch.full((3, 8, 8), -1.0), r"floating-point pixels from -1 to -1; give numbers in \[0, 1\].*model.predict"),
        (torch.zeros(5, 8, 9), r"one image is \[H, W\]"),
        (Image.new("F", (8, 8)), r"a PIL image of 8 x 8 pixels, mode F .*no agreed range"),
        ("no/such/file.png", r"image no/such/file.png .*there is no such file"),
        ("Zm9v" * 50, r"image Zm9v.*\.\.\. \(UnidentifiedImageError"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name_and_the_reason(classify, source, sentence):
    with pytest.raises(ValueError, match=rf"^Cannot read .*{sentence}"):
        classify(source)


def test_what_is_not_an_image_is_refused(classify):
    with pytest.raises(TypeError, match=r"An image arrived as dict\. Pass a path, a URL"):
        classify({"pixels": 3})


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_truncated_file_among_many_is_named(tmp_path, classify, answer, serve, ending):
    good, cut = tmp_path / "good.png", tmp_path / f"cut.{ending}"
    noise(0).save(good)
    noise(0).resize((256, 256)).save(cut)
    os.truncate(cut, cut.stat().st_size // 2)
    rows = datasets.Dataset.from_dict({"image": [str(good), str(cut)]}).cast_column("image", datasets.Image())
    for classifier in (classify, answer):
        opened = [] if ending == "webp" else [[Image.open(good), Image.open(cut)]]  # Pillow decodes WebP at once
        for sources in ([str(good), str(cut)], [good, cut], *opened):
            with pytest.raises(ValueError, match=rf"^Cannot read image .*cut\.{ending} \(\w*Error: "):
                classifier(sources, batch_size=2)
        with pytest.raises(ValueError, match=rf"^Cannot read image http://.*/cut\.{ending}"):
            classifier([f"{serve}/good.png", f"{serve}/cut.{ending}"])
        for read in (rows, rows.to_iterable_dataset(), KeyDataset(rows, "image")):
            with pytest.raises(ValueError, match=rf"^Cannot read the image in row 1 of the dataset .*cut\.{ending}\)"):
                list(classifier(read))


def test_monte_carlo_repeats_with_its_seed(classify, model, processor):
    draws = {"method": "monte_carlo", "num_samples": 50}
    one, same, other = (classify(noise(0), **draws, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    built = BNDLImageClassificationPipeline(model=model, image_processor=processor, seed=1, **draws)
    assert built(noise(0)) == one
    with pytest.raises(ValueError, match="method='dropout' is unknown"):
        classify(noise(0), method="dropout")


def test_the_full_answer_adds_up(answer, model, processor, predicted):
    assert type(answer) is BNDLAnswerPipeline
    found = answer(noise(0), top_k=2, evidence_top_k=3)
    best = predicted.predicted_labels[0].item()
    assert found["label"] == found["evidence"]["label"] == LABELS[best]
    assert found["probability"] == predicted.probs[0, best].item()
    for name in UNCERTAINTY:
        assert found[name] == getattr(predicted, name)[0].item(), name
    assert [e["label"] for e in found["scores"]] == [LABELS[i] for i in predicted.probs[0].topk(2).indices.tolist()]
    evidence = found["evidence"]
    parts = [part["contribution"] for part in evidence["factors"]]
    assert len(parts) == 3
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) + evidence["rest"] + evidence["bias"] == pytest.approx(evidence["total"], rel=1e-5)
    assert evidence["total"] == pytest.approx(predicted.logits_mean[0, best].item(), rel=1e-5)
    everything = answer(noise(0), evidence_top_k=10_000)["evidence"]
    assert everything["rest"] == 0
    assert sum(part["share"] for part in everything["factors"]) == pytest.approx(1)


def test_both_pipelines_give_the_verdict_and_its_reason_where_decisions_were_fitted(model, processor):
    decided = copy.deepcopy(model)
    ours = BNDLImageClassificationPipeline(model=decided, image_processor=processor)
    full = BNDLAnswerPipeline(model=decided, image_processor=processor)
    assert not {"verdict", "reason"} & {*ours(noise(0))[0], *full(noise(0))}
    sets = ConformalPredictor("aps", 0.95, 1.0, num_images=50, num_classes=NUM_LABELS)
    rule = VerdictRule(0.02, 0.05, None, 0.95, None, None, 50)
    decided.set_decisions(FittedDecisions(rule, sets, None, None, ()))
    (sentence,) = decided.predict(processor(noise(0), return_tensors="pt").pixel_values).describe(LABELS)
    for found in (*ours(noise(0)), full(noise(0))):
        assert found["verdict"] == "torn"
        assert sentence.endswith(f": torn, {found['reason']}")
        assert found["reason"].endswith("or 2 others; 95 % of such sets hold the right class")
        assert list(found)[-2:] == ["p_value", "is_certain"]


def test_evidence_may_be_asked_for_any_class_by_name_or_number(answer):
    by_name, by_number = (answer(noise(0), target=target)["evidence"] for target in ("owl", 2))
    assert by_name == by_number
    assert by_name["label"] == "owl"
    with pytest.raises(ValueError, match="target='cow' is not a class of this model; its classes: cat, dog, owl, fox"):
        answer(noise(0), target="cow")
    with pytest.raises(ValueError, match="must hold classes between 0 and 4"):
        answer(noise(0), target=9)


def test_the_full_answer_is_batched_and_takes_one_backbone_pass_a_batch(answer, model):
    passes = []
    handle = model.backbone.register_forward_hook(lambda *_: passes.append(1))
    try:
        found = answer([noise(seed) for seed in range(4)], batch_size=2)
    finally:
        handle.remove()
    assert len(passes) == 2
    assert [one["label"] for one in found] == [answer(noise(seed))["label"] for seed in range(4)]


def test_the_standard_task_answers_with_the_predictive_through_transformers_own_pipeline(model, processor, predicted):
    theirs = pipeline("image-classification", model=model, image_processor=processor)
    assert type(theirs) is ImageClassificationPipeline
    entries = theirs(noise(0))
    order = predicted.probs[0].argsort(descending=True).tolist()
    assert [entry["label"] for entry in entries] == [LABELS[i] for i in order]
    assert [e["score"] for e in entries] == pytest.approx(predicted.probs[0, order].tolist(), rel=1e-5)


def test_the_standard_task_answers_batches(model, processor):
    theirs = pipeline("image-classification", model=model, image_processor=processor)
    images = [noise(seed) for seed in range(3)]
    for entries, one in zip(theirs(images, batch_size=3), images, strict=True):
        assert [e["score"] for e in entries] == pytest.approx([e["score"] for e in theirs(one)], rel=1e-4)


def test_the_class_adds_the_uncertainty_to_the_standard_task(model, processor, classify):
    built = pipeline(
        "image-classification",
        model=model,
        image_processor=processor,
        pipeline_class=BNDLImageClassificationPipeline,
    )
    assert type(built) is BNDLImageClassificationPipeline
    assert built(noise(0)) == classify(noise(0))


def test_other_models_are_refused_by_our_pipelines_and_answered_by_their_own(processor):
    plain = ViTForImageClassification(tiny_backbone_config("vit", num_labels=3)).eval()
    classify = pipeline("image-classification", model=plain, image_processor=processor)
    assert type(classify) is ImageClassificationPipeline
    assert set(classify(noise(0))[0]) == {"label", "score"}
    for ours in (BNDLImageClassificationPipeline, BNDLAnswerPipeline):
        with pytest.raises(ValueError, match="answers with BNDL models, not with ViTForImageClassification; wrap it"):
            ours(model=plain, image_processor=processor)


def test_no_warning_says_the_model_is_not_supported(model, processor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipeline("image-classification", model=model, image_processor=processor)
    assert "not supported" not in caplog.text


def test_a_pipeline_saved_is_a_model_saved(tmp_path, classify, answer, predicted):
    for kind in (classify, answer):
        kind.save_pretrained(tmp_path)
        assert set(json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]) == {
            "image-classification",
            "bndl-image-classification",
        }
        loaded = pipeline("bndl-image-classification", model=str(tmp_path))  # no trust_remote_code
        assert loaded(noise(0))["probability"] == pytest.approx(predicted.probs.max().item(), rel=1e-6)
        assert (tmp_path / "input_images.py").is_file()

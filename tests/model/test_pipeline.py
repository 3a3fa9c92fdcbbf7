"""The two pipelines: the standard list with uncertainty, the full answer, and every other model left as it was."""

import io
import logging
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
from bndl_hf.model.pipeline_bndl import UNCERTAINTY, BNDLAnswerPipeline, BNDLImageClassificationPipeline
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
    return pipeline("image-classification", model=model, image_processor=processor)


@pytest.fixture(scope="module")
def answer(model, processor):
    return pipeline("bndl-image-classification", model=model, image_processor=processor)


@pytest.fixture
def predicted(model, processor):
    return model.predict(processor(images=noise(0), return_tensors="pt").pixel_values)


def test_entries_are_the_standard_ones_with_the_uncertainty_of_predict(classify, predicted):
    assert type(classify) is BNDLImageClassificationPipeline
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
    assert [e["score"] for e in ours] == pytest.approx([e["score"] for e in expected], rel=1e-6)


def test_top_k_counts_entries_and_none_gives_all(classify):
    assert len(classify(noise(0), top_k=2)) == 2
    assert len(classify(noise(0), top_k=None)) == NUM_LABELS
    assert len(classify(noise(0), top_k=99)) == NUM_LABELS


def test_batches_paths_urls_generators_and_datasets_get_the_same_answers(tmp_path, classify):
    images = [noise(seed) for seed in range(5)]
    expected = [classify(image) for image in images]
    assert expected[0] != expected[1]
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for path, image in zip(paths, images, strict=True):
        image.save(path)

    class Serve(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write((tmp_path / self.path[1:]).read_bytes())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{i}.png" for i in range(5)]
    rows = datasets.Dataset.from_dict({"img": paths, "label": range(5)}).cast_column("img", datasets.Image())
    try:
        answers = {
            "batched": classify(images, batch_size=2),
            "paths": classify(paths, batch_size=3),
            "urls": classify(urls, batch_size=5),
            "generator": list(classify(image for image in images)),
            "dataset": list(classify(rows, batch_size=2)),
            "column": list(classify(KeyDataset(rows, "img"))),
            "stream": list(classify(rows.to_iterable_dataset(), batch_size=2)),
        }
    finally:
        server.shutdown()
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


def test_sixteen_bit_grey_images_are_read_as_in_training(classify):
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 40), dtype=np.uint16)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    as_trained = classify(decode_image({"bytes": file.getvalue(), "path": None}, "the image"))
    assert classify(Image.open(file)) == as_trained
    assert classify(Image.open(file).convert("RGB")) != as_trained  # Pillow's own conversion clips


def test_monte_carlo_repeats_with_its_seed(classify, model, processor):
    draws = {"method": "monte_carlo", "num_samples": 50}
    one, same, other = (classify(noise(0), **draws, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    built = pipeline("image-classification", model=model, image_processor=processor, seed=1, **draws)
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


def test_evidence_may_be_asked_for_any_class_by_name_or_number(answer):
    by_name, by_number = (answer(noise(0), target=target)["evidence"] for target in ("owl", 2))
    assert by_name == by_number
    assert by_name["label"] == "owl"
    with pytest.raises(ValueError, match="target='cow' is no class of this model; its classes: cat, dog, owl, fox"):
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


def test_other_models_keep_transformers_own_pipeline(processor):
    plain = ViTForImageClassification(tiny_backbone_config("vit", num_labels=3)).eval()
    classify = pipeline("image-classification", model=plain, image_processor=processor)
    assert type(classify) is ImageClassificationPipeline
    assert set(classify(noise(0))[0]) == {"label", "score"}
    with pytest.raises(ValueError, match="answers with BNDL models, not with ViTForImageClassification; wrap it"):
        pipeline("bndl-image-classification", model=plain, image_processor=processor)


def test_no_warning_says_the_model_is_not_supported(model, processor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipeline("image-classification", model=model, image_processor=processor)
    assert "not supported" not in caplog.text


def test_a_pipeline_saved_is_a_model_saved(tmp_path, classify, predicted):
    classify.save_pretrained(tmp_path)
    loaded = pipeline("image-classification", model=str(tmp_path))  # no trust_remote_code
    assert type(loaded) is BNDLImageClassificationPipeline
    assert loaded(noise(0))[0]["score"] == pytest.approx(predicted.probs.max().item(), rel=1e-6)
    assert (tmp_path / "pipeline_bndl.py").is_file()

"""Run as a script by somebody who has transformers and never heard of this package: load, ask, change, save again.

    python stranger.py SOURCE IMAGE [--save FOLDER] [--push REPO] [--revision REVISION]

Prints one JSON object with what it saw.
"""

import argparse
import importlib.util
import json
import sys

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

parser = argparse.ArgumentParser()
parser.add_argument("source")
parser.add_argument("image")
parser.add_argument("--save")
parser.add_argument("--push")
parser.add_argument("--revision")
arguments = parser.parse_args()

trust = {"trust_remote_code": True, "revision": arguments.revision}
config = AutoConfig.from_pretrained(arguments.source, **trust)
model = AutoModelForImageClassification.from_pretrained(arguments.source, **trust)
scorer = AutoModel.from_pretrained(arguments.source, **trust)
processor = AutoImageProcessor.from_pretrained(arguments.source, revision=arguments.revision)
classify = pipeline("image-classification", model=arguments.source, **trust)
answer = pipeline("bndl-image-classification", model=arguments.source, **trust)
plain = pipeline("image-classification", model=model, image_processor=processor)  # transformers' own
from_objects = type(classify)(model=model, image_processor=processor)

pixel_values = torch.linspace(-1, 1, 2 * 3 * 30 * 30).view(2, 3, 30, 30)
prediction, evidence = model.predict(pixel_values), model.explain(pixel_values, top_k=3)
seen = {
    "has_package": importlib.util.find_spec("bndl_hf") is not None,
    "modules": sorted({type(thing).__module__.split(".")[0] for thing in (config, model, scorer, classify, answer)}),
    "labels": list(config.id2label.values()),
    "probs": prediction.probs.tolist(),
    "p_value": prediction.p_value.tolist(),
    "is_answered": prediction.is_answered.tolist(),
    "prediction_sets": prediction.prediction_sets.tolist(),
    "factors": evidence.factors.tolist(),
    "logit": evidence.total.tolist(),
    "factor_scores": scorer(pixel_values).factor_scores.tolist(),
    "entries": classify(arguments.image),
    "entries_from_objects": from_objects(arguments.image),
    "plain_pipeline": type(plain).__module__.split(".")[0],
    "answer": answer(arguments.image),
}
if arguments.save or arguments.push:
    model.config.id2label = {i: f"renamed {name}" for i, name in model.config.id2label.items()}
    with torch.no_grad():
        model.decision_layer.raw_loadings.mul_(2)
    seen["changed_probs"] = model.predict(pixel_values).probs.tolist()
if arguments.save:
    model.save_pretrained(arguments.save)
    processor.save_pretrained(arguments.save)
if arguments.push:
    model.push_to_hub(arguments.push)
    processor.push_to_hub(arguments.push)
json.dump(seen, sys.stdout)

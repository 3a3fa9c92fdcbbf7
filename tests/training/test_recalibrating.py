"""The temperature that a trained model gets from images it was not trained on."""

from pathlib import Path

import pytest

from bndl_hf.training import recalibrate
from bndl_hf.uncertainty import collect_predictions, fit_temperature

from . import runs


def test_the_temperature_is_that_of_the_held_out_images_and_half_a_one_of_unknown_class(tmp_path: Path) -> None:
    held_out = runs.images(9, seed=1, wrong=3)
    trainer = runs.make_trainer(tmp_path, runs.classifier("resnet"), eval_dataset=held_out)
    before = trainer.evaluate()
    fitted = recalibrate(trainer)
    prediction, labels = collect_predictions(trainer.model, held_out, progress=False)
    expected = fit_temperature(prediction, labels, label_smoothing=0.5 / 9.5)
    assert fitted.num_images == 9
    assert fitted.temperature == pytest.approx(expected.temperature, rel=1e-4)
    assert trainer.model.config.temperature == fitted.temperature != 1
    after = trainer.evaluate()
    assert after["eval_accuracy"] == before["eval_accuracy"]
    assert after["eval_nll"] != before["eval_nll"]
    assert recalibrate(trainer, held_out).temperature == pytest.approx(fitted.temperature, rel=1e-6), (
        "values are absolute"
    )


def test_one_set_of_held_out_images_is_needed(tmp_path: Path) -> None:
    trainer = runs.make_trainer(tmp_path, runs.classifier("resnet"))
    with pytest.raises(ValueError, match=r"and there is none; pass one as recalibrate\(trainer, dataset\)"):
        recalibrate(trainer)
    with pytest.raises(ValueError, match="and there is several: near, far; pass one"):
        recalibrate(trainer, {"near": runs.images(3), "far": runs.images(3)})
    with pytest.raises(ValueError, match="The held-out set has no images"):
        recalibrate(trainer, runs.images(3).select([]))

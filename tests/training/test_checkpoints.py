"""A run that is stopped, killed or out of disk goes on as if nothing had happened, bit for bit.

Every run here is a process of its own (runs.py). 16 images make 4 steps an epoch, so that step 3 is in the middle of
the first epoch and step 5 in the middle of the second.
"""

import json
import logging
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bndl_hf import BNDLForImageClassification
from bndl_hf.training.checkpoint_folders import checkpoint_problem, last_checkpoint
from jobs import Job, JobServer

from . import runs

SIX_STEPS = {"max_steps": 6, "save_steps": 3, "save_strategy": "steps"}
# The paper's objective draws at every step, and the ViT drops out: a wrong state of the random numbers would show.
CONFIG = {"config": {"objective": "sampled"}}


def assert_bit_equal(one: Any, other: Any, where: str = "") -> None:
    """Nested dictionaries and lists of tensors and numbers."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_bit_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_bit_equal(a, b, f"{where}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module", params=["vit", "resnet"])
def straight(request: pytest.FixtureRequest, jobs: JobServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(backbone, folder with checkpoint-3 and checkpoint-6, everything after six steps without a stop)."""
    return _straight(request.param, jobs, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def straight_vit(jobs: JobServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _straight("vit", jobs, tmp_path_factory.mktemp("vit"))


def _straight(backbone: str, jobs: JobServer, folder: Path) -> tuple[str, Path, dict[str, Any]]:
    jobs.run("train", output_dir=folder, result=folder / "result.pt", backbone=backbone, **CONFIG, **SIX_STEPS)
    return backbone, folder, torch.load(folder / "result.pt")


@pytest.fixture
def half_way(straight_vit: Any, tmp_path: Path) -> Path:
    """An output folder after three steps of six."""
    shutil.copytree(straight_vit[1] / "checkpoint-3", tmp_path / "run" / "checkpoint-3")
    return tmp_path / "run"


# ---- save and resume ----


def test_three_steps_and_three_more_equal_six(straight: Any, jobs: JobServer, tmp_path: Path) -> None:
    backbone, folder, expected = straight
    shutil.copytree(folder / "checkpoint-3", tmp_path / "checkpoint-3")
    result = tmp_path / "result.pt"
    jobs.run("train", output_dir=tmp_path, result=result, backbone=backbone, resume=True, **CONFIG, **SIX_STEPS)
    resumed = torch.load(result)
    assert len(resumed["log"]) == 6
    assert_bit_equal(expected, resumed)
    # ... and they are six steps of the whole model: without the encoder the test would prove nothing.
    torch.manual_seed(0)
    start = runs.weights(runs.classifier(backbone, **CONFIG["config"]))
    still = [name for name, tensor in resumed["weights"].items() if torch.equal(tensor, start[name])]
    assert [name for name in still if "num_batches_tracked" not in name and "key.bias" not in name] == []


def test_a_checkpoint_loads_as_the_model_that_was_trained(straight: Any) -> None:
    _, folder, expected = straight
    assert_bit_equal(
        expected["weights"], runs.weights(BNDLForImageClassification.from_pretrained(folder / "checkpoint-6"))
    )


def test_the_best_weights_come_back_exactly(tmp_path: Path) -> None:
    evaluations: list[dict[str, torch.Tensor]] = []

    def earliness(_: Any) -> dict[str, float]:
        evaluations.append(runs.weights(trainer.model))
        return {"earliness": -len(evaluations)}

    trainer = runs.make_trainer(
        tmp_path,
        max_steps=3,
        eval_dataset=runs.images(6, seed=1),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="earliness",
        greater_is_better=True,
        compute_metrics=earliness,
    )
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert_bit_equal(evaluations[0], runs.weights(trainer.model))
    # The last weights are others, in the encoder too.
    name = "backbone.vit.layers.0.mlp.fc1.weight"
    assert not torch.equal(evaluations[0][name], evaluations[2][name])


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """transformers' loggers do not propagate, so pytest's handler goes to ours directly."""
    logger = logging.getLogger("bndl_hf.training.checkpoint_folders")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def _removed(name: str) -> Any:
    return lambda checkpoint: (checkpoint / name).unlink()


def _cut(name: str) -> Any:
    return lambda checkpoint: (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:100])


def _written(name: str, text: str) -> Any:
    return lambda checkpoint: (checkpoint / name).write_text(text)


def _one_byte_changed(name: str) -> Any:
    """In the middle of the largest record of what torch wrote."""

    def damage(checkpoint: Path) -> None:
        with zipfile.ZipFile(checkpoint / name) as archive:
            largest = max(archive.infolist(), key=lambda record: record.file_size)
        content = bytearray((checkpoint / name).read_bytes())
        content[largest.header_offset + 200 + largest.file_size // 2] ^= 0xFF
        (checkpoint / name).write_bytes(content)

    return damage


DAMAGES = {
    "no state": (_removed("trainer_state.json"), "trainer_state.json, written last, is missing or cut short"),
    "half a state": (_cut("trainer_state.json"), "trainer_state.json, written last, is missing or cut short"),
    "an empty state": (_written("trainer_state.json", "{}"), "trainer_state.json does not say which step it is of"),
    "a list for a state": (_written("trainer_state.json", "[]"), "trainer_state.json does not say which step it is of"),
    "no weights": (_removed("model.safetensors"), "it holds no weights"),
    "half the weights": (_cut("model.safetensors"), "model.safetensors is damaged"),
    "no optimizer": (_removed("optimizer.pt"), "it lacks its optimizer (optimizer.pt), which would start afresh"),
    "no schedule": (_removed("scheduler.pt"), "it lacks its learning rate schedule (scheduler.pt), which would start"),
    "no random state": (_removed("rng_state.pth"), "it lacks its random state (rng_state*.pth), which would start"),
    "an empty optimizer": (_written("optimizer.pt", ""), "optimizer.pt is damaged"),
    "half an optimizer": (_cut("optimizer.pt"), "optimizer.pt is damaged"),
    "another byte": (_one_byte_changed("optimizer.pt"), "optimizer.pt is damaged"),
    "half a schedule": (_cut("scheduler.pt"), "scheduler.pt is damaged"),
    "half a random state": (_cut("rng_state.pth"), "rng_state.pth is damaged"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_is_not_whole_is_skipped_with_a_warning(
    damage: Any, reason: str, straight_vit: Any, half_way: Path, warnings: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(straight_vit[1] / "checkpoint-6", half_way / "checkpoint-6")
    damage(half_way / "checkpoint-6")
    assert last_checkpoint(half_way) == str(half_way / "checkpoint-3")
    assert f"Skipping {half_way / 'checkpoint-6'}: " in warnings.text
    assert reason in warnings.text
    # Who names it gets an error instead, and the name of one that is whole.
    with pytest.raises(ValueError, match=r"checkpoint-6 cannot be resumed: .*checkpoint-3 is whole\."):
        runs.make_trainer(half_way).train(resume_from_checkpoint=str(half_way / "checkpoint-6"))


def test_a_shard_of_the_weights_that_is_gone_is_named(half_way: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    checkpoint = half_way / "checkpoint-3"
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert checkpoint_problem(checkpoint) == "model-00002-of-00002.safetensors is missing"


def test_a_checkpoint_of_another_number_of_processes_says_that_random_numbers_start_afresh(
    half_way: Path, warnings: pytest.LogCaptureFixture
) -> None:
    checkpoint = half_way / "checkpoint-3"
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    logger = logging.getLogger("bndl_hf.training.checkpoints")
    logger.addHandler(warnings.handler)
    try:
        runs.make_trainer(half_way, max_steps=4).train(resume_from_checkpoint=True)
    finally:
        logger.removeHandler(warnings.handler)
    assert "it was written by 2 processes and this run has 1; random numbers start afresh" in warnings.text


def test_resuming_skips_a_half_written_checkpoint(straight_vit: Any, half_way: Path, jobs: JobServer) -> None:
    shutil.copytree(straight_vit[1] / "checkpoint-6", half_way / "checkpoint-6")
    _cut("model.safetensors")(half_way / "checkpoint-6")
    job = jobs.run("train", output_dir=half_way, result=half_way / "result.pt", resume=True, **CONFIG, **SIX_STEPS)
    assert f"Skipping {half_way / 'checkpoint-6'}: model.safetensors is damaged" in job.log
    assert_bit_equal(straight_vit[2], torch.load(half_way / "result.pt"))
    assert checkpoint_problem(half_way / "checkpoint-6") is None


def test_the_newest_checkpoint_is_the_one_with_the_largest_number(half_way: Path) -> None:
    shutil.copytree(half_way / "checkpoint-3", half_way / "checkpoint-10")
    assert last_checkpoint(half_way) == str(half_way / "checkpoint-10")


def test_resuming_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"resume_from_checkpoint=True, but {tmp_path} holds no whole checkpoint; start"
    ):
        runs.make_trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_run_that_is_done_trains_no_further_step(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    values = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "constant"}
    once = runs.make_trainer(tmp_path, **values)
    once.train()
    again = runs.make_trainer(tmp_path, **values)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert "All 4 steps are done already, so nothing is trained now" in warnings.text
    assert_bit_equal(dict(once.model.state_dict()), dict(again.model.state_dict()))


def test_resuming_from_a_damaged_checkpoint_by_name_is_an_error(half_way: Path) -> None:
    _removed("trainer_state.json")(half_way / "checkpoint-3")
    with pytest.raises(ValueError, match=r"checkpoint-3 cannot be resumed: its trainer_state\.json, written last"):
        runs.make_trainer(half_way).train(resume_from_checkpoint=str(half_way / "checkpoint-3"))


def test_resuming_from_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="checkpoint-9 cannot be resumed: there is no such folder"):
        runs.make_trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))


# ---- killed, interrupted ----


def await_flag(job: Job, flag: Path) -> None:
    """Return once the job says that it waits."""
    deadline = time.monotonic() + 100
    while not flag.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert flag.exists(), job.log


def stop(job: Job, flag: Path, sent: signal.Signals) -> int:
    """Send the signal once the job says that it waits; its exit status."""
    await_flag(job, flag)
    job.send(sent)
    return job.wait()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_as_if_it_had_not_been(
    sent: signal.Signals, status: int, straight_vit: Any, jobs: JobServer, tmp_path: Path
) -> None:
    result = tmp_path / "result.pt"
    job = jobs.start("train", output_dir=tmp_path, result=result, wait_at=5, **CONFIG, **SIX_STEPS)
    assert stop(job, tmp_path / "result.pt.waiting", sent) == status
    assert not result.exists()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    jobs.run("train", output_dir=tmp_path, result=result, resume=True, **CONFIG, **SIX_STEPS)
    assert_bit_equal(straight_vit[2], torch.load(result))


def test_a_run_killed_while_saving_goes_on_from_the_checkpoint_before(
    straight_vit: Any, half_way: Path, jobs: JobServer
) -> None:
    # An earlier run left a whole checkpoint-6: its state must not vouch for the half that the kill leaves.
    shutil.copytree(straight_vit[1] / "checkpoint-6", half_way / "checkpoint-6")
    result = half_way.parent / "result.pt"
    job = jobs.start(
        "train",
        output_dir=half_way,
        result=result,
        resume=str(half_way / "checkpoint-3"),
        wait_at=6,
        while_saving=True,
        **CONFIG,
        **SIX_STEPS,
    )
    assert stop(job, result.with_name("result.pt.waiting"), signal.SIGKILL) == -9
    assert (half_way / "checkpoint-6" / "model.safetensors").exists()
    job = jobs.run("train", output_dir=half_way, result=result, resume=True, **CONFIG, **SIX_STEPS)
    assert f"Skipping {half_way / 'checkpoint-6'}" in job.log
    assert_bit_equal(straight_vit[2], torch.load(result))


# ---- full disk ----


@pytest.mark.parametrize("limit", [12_000, 30_000], ids=["weights do not fit", "optimizer does not fit"])
def test_a_full_disk_leaves_the_checkpoint_before_whole_and_nothing_half_written(
    limit: int, jobs: JobServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    jobs.run("train_on_a_full_disk", output_dir=run, result=tmp_path / "result.json", limit=limit)
    outcome = json.loads((tmp_path / "result.json").read_text())
    training = outcome["messages"][0]
    assert training.startswith("checkpoint-4 could not be written (")
    assert training.endswith(f"checkpoint-2 is untouched in {run}; make room and resume.")
    assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
    assert checkpoint_problem(run / "checkpoint-2") is None

    trainer = runs.make_trainer(run, max_steps=6)
    trainer.train(resume_from_checkpoint=True)
    assert [entry["step"] for entry in runs.step_logs(trainer)] == [1, 2, 3, 4, 5, 6]


def test_save_model_on_a_full_disk_leaves_the_old_model(jobs: JobServer, tmp_path: Path) -> None:
    jobs.run("train_on_a_full_disk", output_dir=tmp_path / "run", result=tmp_path / "result.json", limit=12_000)
    outcome = json.loads((tmp_path / "result.json").read_text())
    message = outcome["messages"][1]
    assert message.startswith(f"The model could not be written to {tmp_path / 'saved'} (")
    assert message.endswith("What was there before is untouched; make room and save again.")
    assert outcome["untouched"]
    assert [name for name in outcome["beside"] if "saved" in name] == ["saved"]

"""`.eval_results/*.yaml`: measured figures where the Hub looks for them to show on the page and in leaderboards.

One file for each dataset of the Hub. The card's `model-index` says the same in the older format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

EVAL_RESULTS_FOLDER = ".eval_results"


def eval_result_files(
    results: Mapping[str, object], dataset_ids: Sequence[str], task_id: str = "default", split: str | None = None
) -> dict[str, str]:
    """{path in the repository: YAML} of the accuracy on datasets of the Hub.

    Args:
        results: measured figures; without `accuracy` there is no file.
        dataset_ids: Hub ids, "uoft-cs/cifar10"; names without a namespace are not the Hub's and are left out.
        task_id: of the benchmark within the dataset.
        split: the accuracy was measured on, for the notes.

    Example:
        >>> files = eval_result_files({"accuracy": 0.91}, ["uoft-cs/cifar10"])
        >>> print(files[".eval_results/uoft-cs--cifar10.yaml"])
        - dataset:
            id: uoft-cs/cifar10
            task_id: default
          value: 0.91
          notes: accuracy, a fraction
        <BLANKLINE>
    """
    accuracy = results.get("accuracy")
    if not isinstance(accuracy, Real) or isinstance(accuracy, bool):
        return {}
    measured = {"NLL": results.get("negative_log_likelihood"), "ECE": results.get("expected_calibration_error")}
    notes = ["accuracy, a fraction" + (f", of the {split} split" if split else "")]
    notes += [f"{name} {float(value):.4f}" for name, value in measured.items() if isinstance(value, Real)]
    files = {}
    for dataset_id in dataset_ids:
        if "/" not in dataset_id:
            continue
        entry = EvalResultEntry(
            dataset_id=dataset_id, task_id=task_id, value=round(float(accuracy), 6), notes="; ".join(notes)
        )
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset_id.replace("/", "--")).strip(".-") or "dataset"
        files[f"{EVAL_RESULTS_FOLDER}/{name}.yaml"] = yaml_dump(
            eval_result_entries_to_yaml([entry]), sort_keys=False, width=1000
        )
    return files

"""The numbers of `bndl_hf.uncertainty` as Hugging Face `evaluate` modules, one folder each.

    import bndl_hf.metrics
    metric = bndl_hf.metrics.load("expected_calibration_error")
    metric.compute(predictions=probs, references=labels)

A folder is what a metric Space on the Hub holds (module, card, requirements, page), so it can be uploaded as it stands.
The modules only translate columns: every number is a function of `bndl_hf.uncertainty`. Importing this package does
not import `evaluate`, which takes seconds; `load` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES = ("accuracy", "area_under_risk_coverage", "brier_score", "expected_calibration_error", "ood_auroc", "pavpu")

__all__ = ["NAMES", "load", "path"]


def path(name: str) -> str:
    """Folder of a metric module, for `evaluate.load` or for an upload to the Hub.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> path("pavpu").endswith("metrics/pavpu")
        True
    """
    if name not in NAMES:
        raise ValueError(f"metric {name!r} is unknown; metrics here are {', '.join(NAMES)}.")
    return str(Path(__file__).parent / name)


def load(name: str, config_name: str | None = None, **kwargs: Any) -> Any:
    """The metric module `name`, as `evaluate.load` loads it; no network is needed.

    Args:
        name: one of `NAMES`.
        config_name: for "pavpu": "default" (p-values) or "draws".
        **kwargs: as `evaluate.load`: `num_process`, `process_id` and `experiment_id` for several processes,
            `cache_dir`, `keep_in_memory`.

    Returns:
        An `evaluate.EvaluationModule` with `add_batch` and `compute`.

    Raises:
        ImportError: `evaluate` is not installed, or another module hides it.
        ValueError: for an unknown name.
    """
    folder = path(name)
    try:
        import evaluate
    except ImportError as error:
        raise ImportError("evaluate is not installed; pip install 'bndl-hf[metrics]'.") from error
    if not hasattr(evaluate, "EvaluationModule"):
        raise ImportError(
            f"`import evaluate` found {evaluate.__file__}, which is not Hugging Face's library. "
            "Run from another folder, or rename that file."
        )
    return evaluate.load(folder, config_name, **kwargs)

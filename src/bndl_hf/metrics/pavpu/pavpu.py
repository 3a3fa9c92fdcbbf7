"""PAvPU of `bndl_hf.uncertainty` as an `evaluate` module, from p-values or from posterior draws."""

from dataclasses import asdict

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import pavpu, pavpu_from_p_value
from bndl_hf.uncertainty.validation import check_probs

_DESCRIPTION = (
    "PAvPU: the share of images that are accurate and certain, or inaccurate and uncertain, where an image is certain "
    "if a t-test tells its two most probable classes apart. The number of draws, the test and the threshold are part "
    "of the number and come back with it."
)

_CITATION = """\
@article{mukhoti2018evaluating,
  title={Evaluating Bayesian Deep Learning Methods for Semantic Segmentation},
  author={Mukhoti, Jishnu and Gal, Yarin},
  journal={arXiv preprint arXiv:1811.12709},
  year={2018}
}
@inproceedings{hu2025bndl,
  title={Enhancing Uncertainty Estimation and Interpretability via Bayesian Non-negative Decision Layer},
  author={Hu, Xinyue and others},
  booktitle={International Conference on Learning Representations},
  year={2025}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image its C probabilities (or logits with from_logits=True); with config_name="draws" its
        logits in S posterior draws, [S, C].
    references: the true class of each image.
    p_value: (default configuration) the p-value of each image's gap between its two most probable classes.
    threshold (float): an image is certain where p < threshold. .05: the value of the BNDL paper.
    test (str): "paired" or "welch" for draws; for p-values, the name of the test that made them ("exact").
    values (str): "logits" or "probabilities": what is, or was, tested.
    num_samples (int): for p-values, the number of draws they stand for.
Returns:
    pavpu: a fraction in [0, 1].
    accurate_certain, accurate_uncertain, inaccurate_certain, inaccurate_uncertain: its counts.
    pavpu_threshold, pavpu_test, pavpu_values, pavpu_num_samples: the settings, part of the number's name.
    pavpu_num_zero_spread: images whose draws all had the same gap (certain, or uncertain at a tie); None for p-values.
Examples:
    >>> results = metric.compute(predictions=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0], p_value=[0.001, 0.2])
    >>> results["pavpu"]  # one accurate and certain, one inaccurate and uncertain
    1.0
"""


class Pavpu(evaluate.Metric):
    """PAvPU from p-values ("default") or from posterior draws ("draws")."""

    @property
    def example(self) -> dict[str, object]:
        """Two images as this configuration takes them."""
        if self.config_name == "draws":
            draws = [[[3.0, 0.0], [2.5, 0.0], [3.2, 0.0]], [[0.2, 0.0], [-0.1, 0.0], [0.1, 0.0]]]
            return {"predictions": draws, "references": [0, 1], "test": "paired", "threshold": 0.05}
        return {"predictions": [[0.9, 0.1], [0.4, 0.6]], "references": [0, 0], "p_value": [0.001, 0.2]}

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "draws"):
            raise ValueError(
                f"config_name={self.config_name!r} is unknown; 'default' takes p-values, 'draws' the logits of S draws."
            )
        probs = datasets.Sequence(datasets.Value("float64"))
        columns = {"predictions": probs, "references": datasets.Value("int64")}
        if self.config_name == "draws":
            columns["predictions"] = datasets.Sequence(probs)
        else:
            columns["p_value"] = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(columns),
            reference_urls=["https://arxiv.org/abs/1811.12709", "https://arxiv.org/abs/2505.22199"],
        )

    def _compute(
        self,
        predictions: Column,
        references: Column,
        p_value: Column = (),
        threshold: float = 0.05,
        test: str | None = None,
        values: str = "logits",
        num_samples: int | None = None,
        from_logits: bool = False,
        **_: object,
    ) -> dict[str, object]:
        labels = as_tensor(references, "references")
        if self.config_name == "draws":
            draws = as_tensor(predictions, "predictions", ndim=3).transpose(0, 1)  # [B, S, C] -> [S, B, C]
            counts = pavpu(draws, labels, threshold, test or "paired", values)
        else:
            probs, truth = check_probs(as_probs(predictions, from_logits), labels)
            correct = probs.argmax(dim=-1) == truth
            p = as_tensor(p_value, "p_value")
            counts = pavpu_from_p_value(p, correct, threshold, test or "exact", values, num_samples)
        names = ("accurate_certain", "accurate_uncertain", "inaccurate_certain", "inaccurate_uncertain")
        fields = asdict(counts)
        results = {"pavpu": counts.pavpu, **{name: fields.pop(name) for name in names}}
        return results | {f"pavpu_{name}": value for name, value in fields.items()}

"""Whose methods a checkpoint uses, as BibTeX: gathered from its configuration, so that a card cites what it runs on."""

from __future__ import annotations

from typing import Any

_BNDL = """@inproceedings{hu2025enhancing,
  title     = {Enhancing Uncertainty Estimation and Interpretability via {Bayesian} Non-negative Decision Layer},
  author    = {Hu, Xinyue and Duan, Zhibin and Chen, Bo and Zhou, Mingyuan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2025},
  url       = {https://arxiv.org/abs/2505.22199}
}"""
_TEMPERATURE = """@inproceedings{guo2017calibration,
  title     = {On Calibration of Modern Neural Networks},
  author    = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2017},
  url       = {https://arxiv.org/abs/1706.04599}
}"""
_SELECTIVE = """@inproceedings{geifman2017selective,
  title     = {Selective Classification for Deep Neural Networks},
  author    = {Geifman, Yonatan and El-Yaniv, Ran},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2017},
  url       = {https://arxiv.org/abs/1705.08500}
}"""
_SETS = {
    "lac": """@article{sadinle2019least,
  title   = {Least Ambiguous Set-Valued Classifiers with Bounded Error Levels},
  author  = {Sadinle, Mauricio and Lei, Jing and Wasserman, Larry},
  journal = {Journal of the American Statistical Association},
  year    = {2019},
  url     = {https://arxiv.org/abs/1609.00451}
}""",
    "aps": """@inproceedings{romano2020classification,
  title     = {Classification with Valid and Adaptive Coverage},
  author    = {Romano, Yaniv and Sesia, Matteo and Cand{\\`e}s, Emmanuel J.},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2020},
  url       = {https://arxiv.org/abs/2006.02544}
}""",
    "raps": """@inproceedings{angelopoulos2021uncertainty,
  title     = {Uncertainty Sets for Image Classifiers using Conformal Prediction},
  author    = {Angelopoulos, Anastasios N. and Bates, Stephen and Malik, Jitendra and Jordan, Michael I.},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021},
  url       = {https://arxiv.org/abs/2009.14193}
}""",
}
_FAMILIARITY = """@inproceedings{lee2018simple,
  title     = {A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks},
  author    = {Lee, Kimin and Lee, Kibok and Lee, Honglak and Shin, Jinwoo},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2018},
  url       = {https://arxiv.org/abs/1807.03888}
}"""


def citations_of(config: Any) -> list[tuple[str, str]]:
    """(what it is for, BibTeX) of every method that a configuration uses, the layer's own first.

    Args:
        config: a `BNDLConfig`.

    Example:
        >>> [purpose for purpose, _ in citations_of(BNDLConfig(feature_dim=8, num_labels=3))]
        ['The decision layer']
    """
    verdict = config.verdict or {}
    found = [("The decision layer", _BNDL)]
    if config.temperature != 1:
        found.append(("The temperature", _TEMPERATURE))
    if verdict.get("threshold") is not None:
        found.append(("The threshold of sure answers", _SELECTIVE))
    if config.conformal is not None and (bibtex := _SETS.get(str(config.conformal.get("method")))) is not None:
        found.append(("The prediction sets of torn answers", bibtex))
    if verdict.get("unfamiliar_above") is not None:
        found.append(("The distance of unfamiliar images", _FAMILIARITY))
    return found

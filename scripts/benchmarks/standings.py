"""From runs of many heads on many tasks to means, ratios to the best rival, and average ranks.

tasks.py imports it as `standings`. Ranks are averaged over tasks as Demsar (2006) does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import gmean, rankdata

from common import flat

# What is ranked: a head as it comes, or with the temperature of the held-out rows.
ENTRIES = {
    "bndl": ("bndl", ""),
    "dense": ("dense", ""),
    "dense + T": ("dense", "tempered_"),
    "logreg + T": ("logreg", "tempered_"),
    "VBLL": ("vbll", ""),
    "VBLL + T": ("vbll", "tempered_"),
    "Laplace": ("laplace", ""),
    "released": ("released", ""),
    "elastic net + T": ("elastic_net", "tempered_"),
}
RIVALS = ("dense + T", "logreg + T")
MEASURED = ("accuracy", "negative_log_likelihood", "expected_calibration_error", "area_under_risk_coverage")
# Where a head has them.
OPTIONAL = (
    *("evidence_share", "gap_share", "human_entropy_spearman", "human_cross_entropy"),
    *("tempered_human_entropy_spearman", "tempered_human_cross_entropy"),
)


def means(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for every task and head: figures averaged over its seeds, "-" where it has none.

    `ood` is the AUROC of the largest probability and of the best score the head has, each the mean over outsider sets.
    """
    rows = []
    for task, head in dict.fromkeys((one["task"], one["head"]) for one in runs):
        own = [one for one in runs if (one["task"], one["head"]) == (task, head)]
        numbers = [flat(one) for one in own]
        names = [*MEASURED, *(f"tempered_{name}" for name in MEASURED[1:]), "tempered_temperature"]
        row: dict[str, Any] = {"task": task, "head": head, "seeds": len(own)}
        row |= {name: statistics.mean(one[name] for one in numbers) for name in names}
        row |= _ood([one["ood"] for one in own])
        row |= {name: statistics.mean(one[name] for one in numbers) for name in ("weights_per_class", "density")}
        row["fit_seconds"] = statistics.mean(one["fit_seconds"] for one in numbers)
        for name in OPTIONAL:
            values = [one[name] for one in numbers if name in one]
            row[name] = statistics.mean(values) if values else "-"
        rows.append(row)
    return rows


def standings(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the entries compare, on tasks that all of them were run on.

    Returns:
        `entries` and `tasks` compared; `ratios`, task -> entry -> mean NLL over that of the better rival; `heads`, one
        row for every entry: geometric mean of the ratios, the worst of them, average ranks in NLL and AURC (1 is
        best). All empty where there is no such task, or no rival.
    """
    by_task = {task: _figures([one for one in runs if one["task"] == task]) for task in _names(runs, "task")}
    entries = [name for name, (head, _) in ENTRIES.items() if head in _names(runs, "head")]
    tasks = [task for task, found in by_task.items() if all(name in found for name in entries)]
    if not tasks or len(entries) < 2 or not set(entries) & set(RIVALS):
        return {"entries": [], "tasks": [], "ratios": {}, "heads": []}
    ratios, ranks = {}, []
    for task in tasks:
        found = by_task[task]
        rival = min(found[name][0] for name in RIVALS if name in entries)
        ratios[task] = {name: found[name][0] / rival for name in entries}
        ranks.append([rankdata([found[name][measure] for name in entries]) for measure in (0, 1)])
    rows = []
    for place, name in enumerate(entries):
        own = {task: ratios[task][name] for task in tasks}
        rows.append(
            {
                "head": name,
                "mean_ratio": float(gmean(list(own.values()))),
                "worst_ratio": max(own.values()),
                "worst_task": max(own, key=lambda task: own[task]),
                "rank_nll": statistics.mean(float(nll[place]) for nll, _ in ranks),
                "rank_aurc": statistics.mean(float(aurc[place]) for _, aurc in ranks),
            }
        )
    return {"entries": entries, "tasks": tasks, "ratios": ratios, "heads": rows}


def _names(runs: Sequence[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(one[key] for one in runs))


def _figures(runs: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Mean NLL and AURC of every entry that was run."""
    found = {}
    for name, (head, prefix) in ENTRIES.items():
        if own := [flat(one) for one in runs if one["head"] == head]:
            nll, aurc = (prefix + measure for measure in ("negative_log_likelihood", "area_under_risk_coverage"))
            found[name] = (statistics.mean(one[nll] for one in own), statistics.mean(one[aurc] for one in own))
    return found


def _ood(found: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """AUROC of the largest probability and of the head's best score, each averaged over outsiders and seeds."""
    scores = {
        score: statistics.mean(value for one in found for value in one[score].values())
        for score in found[0]
        if found[0][score]
    }
    if not scores:
        return {"ood_max_probability": "-", "ood_best": "-", "ood_best_score": "-"}
    best = max(scores, key=lambda score: scores[score])
    return {"ood_max_probability": scores["max_probability"], "ood_best": scores[best], "ood_best_score": best}

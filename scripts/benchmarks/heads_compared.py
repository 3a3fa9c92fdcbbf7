r"""Set what `heads.py heads --all_rows` found beside figures that other code found on the same features.

    python scripts/benchmarks/heads_compared.py --results docs/results/heads_paper.json \
        --output docs/results/heads_paper_compared.json

Both judge all test rows. A difference is within the noise where it is at most twice its standard deviation, taken from
our seeds, and half a unit of the last digit; a head without randomness has no noise. The table is Markdown.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bndl_hf.utils.command_line import run
from common import Arguments, flat, parse, table, write_result


@dataclass
class ComparedArguments(Arguments):
    """Two files to compare."""

    results: str = field(default="docs/results/heads_paper.json", metadata={"help": "What heads.py wrote."})
    reference: str = field(
        default=str(Path(__file__).with_name("heads_elsewhere.json")),
        metadata={"help": "JSON file: {heads: {NAME: {MEASURE: [figures of its runs]}}}."},
    )
    output: str = field(default="outputs/bench/heads_compared.json", metadata={"help": "JSON file to write."})


def compare(runs: list[dict[str, Any]], reference: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One row for every head and measure that both know, heads in the order of the reference.

    Args:
        runs: of `heads.py heads --all_rows`.
        reference: figures by head and measure.

    Returns:
        head, measure, num_seeds, mean, sd (None of one run), reference, difference, and is_within_noise (None where
        there is no sd).

    Raises:
        ValueError: no run has figures of all rows.
    """
    if not (judged := [one for one in runs if "all_rows" in one]):
        raise ValueError("No run was judged on all test rows; make them with: heads.py heads --all_rows.")
    rows = []
    for head, figures in reference.items():
        ours = [{**flat(one["all_rows"]), "sparsity": one["sparsity"]} for one in judged if one["head"] == head]
        for measure, theirs in figures.items():
            values = [one[measure] for one in ours if measure in one]
            if not values:
                continue
            sd = statistics.stdev(values) if len(values) > 1 else None
            difference = statistics.mean(values) - statistics.mean(theirs)
            within = None
            if sd is not None:
                noise = 2 * sd * math.sqrt(1 / len(values) + 1 / len(theirs))
                within = abs(difference) <= noise + _half_a_digit(theirs)
            rows.append(
                {
                    "head": head,
                    "measure": measure,
                    "num_seeds": len(values),
                    "mean": statistics.mean(values),
                    "sd": sd,
                    "reference": statistics.mean(theirs),
                    "difference": difference,
                    "is_within_noise": within,
                }
            )
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each head: "ours (sd) / elsewhere" of every measure, in bold where beyond the noise."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    cells: dict[str, dict[str, str]] = {}
    seeds: dict[str, int] = {}
    for row in rows:
        sd = "" if row["sd"] is None else f" ({row['sd']:.4f})"
        pair = f"{row['mean']:.4f}{sd} / {row['reference']:.4f}"
        pair = f"**{pair}**" if row["is_within_noise"] is False else pair
        cells.setdefault(row["head"], {})[row["measure"]] = pair
        seeds[row["head"]] = row["num_seeds"]
    written = [
        {"head": head, "seeds": seeds[head], **{measure: found.get(measure, "-") for measure in measures}}
        for head, found in cells.items()
    ]
    return table(written)


def _half_a_digit(figures: list[float]) -> float:
    """Half a unit of the last digit that was written down."""
    digits = max(len(str(figure).partition(".")[2]) for figure in figures)
    return 0.5 * 10.0**-digits


def main(argv: list[str] | None = None) -> None:
    """Compare, print and write."""
    arguments = parse(ComparedArguments, __doc__, argv)
    results = json.loads(Path(arguments.results).read_text())
    reference = json.loads(Path(arguments.reference).read_text())
    rows = compare(results["runs"], reference["heads"])
    write_result(arguments, {"about": reference["about"], "runs_of": Path(arguments.results).name, "rows": rows})
    print(as_table(rows))


if __name__ == "__main__":
    run(main)

"""docs/reproduction.md from the result files and the reviewed sentences, and from nothing else.

A row whose result file is missing says "not run"; its command stands below the table either way. A verdict names the
figures it was read from: when one of them changes, no page is written until somebody has read the sentence again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduction_catalogue import (  # type: ignore[import-not-found]  # beside this file
    Catalogue,
    Column,
    Command,
    Figure,
    Group,
    Ours,
    figure_of,
    has_image,
    read_result,
    read_runs,
)

NOT_RUN = "not run"
STATUSES = {
    "holds": "What holds",
    "partly": "What holds in part",
    "fails": "What does not hold here",
    "open": "What has not been run",
}
ABOUT = """\
This page is generated: `python scripts/reproduce.py report` writes it from [`docs/results/`](results), from the paper's
numbers in [`paper.yaml`](../scripts/reproduction/paper.yaml) and from the sentences in
[`verdicts.yaml`](../scripts/reproduction/verdicts.yaml), which stop the generator when the figures that they name
change. `python scripts/reproduce.py list` shows every command, `python scripts/reproduce.py TABLE` runs those of a
table. Ours is the mean over seeds ± standard deviation; a difference is ours minus the paper's. *The paper* is Hu et
al. (2025), [arXiv:2505.22199](https://arxiv.org/abs/2505.22199)."""
_DIGITS = 4  # significant ones, that a reviewed figure is compared to


def write_page(catalogue: Catalogue, results: Path) -> str:
    """The page as Markdown.

    Raises:
        ValueError: a verdict was read from figures that are others now.
    """
    parts = [
        "# Reproduction",
        verdicts(catalogue, results),
        ABOUT,
    ]
    for name in catalogue.tables:
        parts += table_parts(catalogue, name, results)
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


# ---- what holds ----


def verdicts(catalogue: Catalogue, results: Path) -> str:
    """What the page begins with: every reviewed sentence, under what it says of the paper's claim."""
    sentences: dict[str, list[str]] = {status: [] for status in STATUSES}
    stale = []
    for one in catalogue.verdicts:
        if one["status"] not in STATUSES:
            raise ValueError(f"Verdict {one['claim']!r} is {one['status']!r}; it must be of: {', '.join(STATUSES)}.")
        found, wrong = reviewed_figures(catalogue, one, results)
        stale += wrong
        sentences[one["status"]].append(one["sentence"].format(**found).strip())
    if stale:
        raise ValueError(
            "Verdicts were read from figures that changed; read each sentence again, then set the figure in "
            f"verdicts.yaml: {' '.join(stale)}"
        )
    return "\n".join(f"- **{words}.** {' '.join(sentences[one])}" for one, words in STATUSES.items() if sentences[one])


def reviewed_figures(
    catalogue: Catalogue, verdict: Mapping[str, Any], results: Path
) -> tuple[dict[str, float], list[str]]:
    """A verdict's figures by the name that its sentence gives them, and what is no longer as it was reviewed."""
    found, wrong = {}, []
    for name, entry in verdict.get("figures", {}).items():
        runs = read_runs(results, catalogue.commands[entry["command"]], entry.get("listed", "runs"))
        figure = None if runs is None else figure_of(runs, entry.get("where", {}), entry["measure"])
        now = None if figure is None else float(f"{figure.mean * entry.get('scale', 1):.{_DIGITS}g}")
        found[name] = entry["reviewed"] if now is None else now
        if now != entry["reviewed"]:
            wrong.append(f"[{verdict['claim']}: {name} was {entry['reviewed']}, is {now}.]")
    for name in verdict.get("not_run", ()):
        if read_result(results, catalogue.commands[name]) is not None:
            wrong.append(f"[{verdict['claim']}: {name} was not run, and has results.]")
    return found, wrong


# ---- tables ----


def table_parts(catalogue: Catalogue, name: str, results: Path) -> list[str]:
    """Heading, figure, groups and commands of one table."""
    table = catalogue.tables[name]
    parts = [f"## {table.title}", table.about]
    if has_image(catalogue, table, results):
        parts.append(f"![{table.image_words}](images/{table.image})")
    for group in table.groups:
        parts += [f"### {group.title}", group.about, group_table(catalogue, group, results)]
    return [*parts, commands(catalogue, name, results)]


def group_table(catalogue: Catalogue, group: Group, results: Path) -> str:
    """The rows of a group: beside the paper's numbers, or ours alone."""
    if not group.rows:
        return own_table(catalogue, group, results)
    paper = catalogue.paper[group.paper] if group.paper else {}
    if not any(row.ours for row in group.rows):
        header = ["system", *(column.label for column in group.columns)]
        return markdown(
            header, [[r.name, *(published(paper[r.name], one) for one in group.columns)] for r in group.rows]
        )
    header = ["system"]
    for column in group.columns:
        header += [f"{column.label}, paper", "ours", "difference"]
    lines = []
    for row in group.rows:
        for ours in row.ours or (None,):
            cells = [row.name]
            for column in group.columns:
                cells += compared_cells(catalogue, column, paper.get(row.name, {}), ours, results)
            lines.append([*cells, run_cell(catalogue, ours, results), known_reason(catalogue, ours, results)])
    return markdown([*header, "run", "why it differs"], lines)


def published(numbers: Mapping[str, Sequence[float]], column: Column) -> str:
    """The paper's number with its deviation; "-" where it gives none."""
    mean, *sd = numbers.get(column.measure, (None,))
    if mean is None:
        return "-"
    return f"{mean:.{column.digits}f}" + "".join(f" ± {one:.{column.digits}f}" for one in sd)


def compared_cells(
    catalogue: Catalogue, column: Column, paper: Mapping[str, Sequence[float]], ours: Ours | None, results: Path
) -> list[str]:
    """The paper's number, ours, and the difference."""
    runs = None if ours is None else read_runs(results, catalogue.commands[ours.command])
    if ours is None or runs is None:
        return [published(paper, column), NOT_RUN, ""]
    figure = figure_of(runs, ours.where, column.name)
    if figure is None:
        return [published(paper, column), "-" if matching(runs, ours) else NOT_RUN, ""]
    difference = ""
    if column.measure in paper and ours.compare:
        difference = f"{figure.mean * column.scale - paper[column.measure][0]:+.{column.digits}f}"
    return [published(paper, column), written(figure, column), difference.replace("-", "−")]


def own_table(catalogue: Catalogue, group: Group, results: Path) -> str:
    """One row for every value of `by`, in the order of the file."""
    assert group.command is not None
    command = catalogue.commands[group.command]
    runs, result = read_runs(results, command, group.listed), read_result(results, command)
    if runs is None or result is None:
        return f"Not run: {command.needs or 'the command is below'}."
    able = [one for one in runs if all(one.get(name) == value for name, value in group.where.items())]
    keys = list(dict.fromkeys(tuple(one.get(name) for name in group.by) for one in able))
    shown = [place for place, _ in enumerate(group.by) if any(key[place] is not None for key in keys)]
    lines = []
    for key in keys:
        where = dict(zip(group.by, key, strict=True))
        figures = [figure_of(able, where, column.name) for column in group.columns]
        cells = [
            written(figure, column) if figure else "-" for figure, column in zip(figures, group.columns, strict=True)
        ]
        names = ["-" if key[place] is None else str(key[place]) for place in shown]
        count = max((figure.runs for figure in figures if figure), default=0)
        lines.append([*names, *cells, *([str(count)] if group.listed == "runs" else [])])
    header = [
        *(group.by[place].replace("_", " ") for place in shown),
        *(column.label for column in group.columns),
        *([group.counted] if group.listed == "runs" else []),
    ]
    return f"{markdown(header, lines)}\n\n{hardware(result)}."


def written(figure: Figure, column: Column) -> str:
    """Mean ± standard deviation in the column's scale."""
    spread = "" if figure.sd is None else f" ± {figure.sd * column.scale:.{column.digits}f}"
    return f"{figure.mean * column.scale:.{column.digits}f}{spread}".replace("-", "−")


def run_cell(catalogue: Catalogue, ours: Ours | None, results: Path) -> str:
    """Recipe, seeds and hardware of a row."""
    if ours is None:
        return "no such run here"
    command = catalogue.commands[ours.command]
    result = read_result(results, command)
    recipe = (f"{ours.words}, " if ours.words else "") + (f"recipe {command.recipe}, " if command.recipe else "")
    if result is None:
        return f"{recipe}{NOT_RUN}: {command.needs or 'the command is below'}"
    count = matching(read_runs(results, command) or [], ours)
    if not count:
        return f"{recipe}{NOT_RUN}: {command.needs or 'the command is below'}"
    return f"{recipe}{count} seed{'s' if count != 1 else ''}, {hardware(result)}"


def known_reason(catalogue: Catalogue, ours: Ours | None, results: Path) -> str:
    """Why a row that was run differs from the paper's."""
    runs = None if ours is None else read_runs(results, catalogue.commands[ours.command])
    return catalogue.commands[ours.command].differs if ours and runs and matching(runs, ours) else ""


def matching(runs: Sequence[Mapping[str, Any]], ours: Ours) -> int:
    """How many runs are of a row."""
    return sum(all(one.get(name) == value for name, value in ours.where.items()) for one in runs)


def hardware(result: Mapping[str, Any]) -> str:
    """The machine that a result file names."""
    machine = result.get("environment", {})
    if machine.get("accelerator"):
        return str(machine["accelerator"])
    return f"CPU, {machine['cpu_count']} cores" if "cpu_count" in machine else "machine not recorded"


def commands(catalogue: Catalogue, table: str, results: Path) -> str:
    """Every command of a table; those without results say what they need."""
    lines = []
    for name in catalogue.commands_of(table):
        command: Command = catalogue.commands[name]
        if not (results / command.result).is_file():
            lines.append(f"# {NOT_RUN}: {command.needs}" if command.needs else f"# {NOT_RUN}")
        lines.append(folded(f"python {shlex.join(catalogue.words(name))}"))
    return "```bash\n" + "\n".join(lines) + "\n```"


def folded(command: str, width: int = 118) -> str:
    """A command over several lines, as a shell reads it, broken before flags."""
    parts = re.split(r" (?=--)", command)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > width:  # the space between, and " \\" at the end
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)

"""The figures of docs/reproduction.md, drawn from result files: published numbers beside ours; the paper's Fig. 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bndl_hf.plots import accuracy_by_decile_plot, published_comparison_plot, save_figure
from reproduction_catalogue import (  # type: ignore[import-not-found]  # beside this file
    Catalogue,
    Table,
    figure_of,
    has_image,
    read_result,
    read_runs,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(catalogue: Catalogue, results: Path, images: Path) -> list[Path]:
    """Every figure whose results are there, written to `images`; the paths."""
    drawn = []
    for name, drawing in DRAWINGS.items():
        table = catalogue.tables[name]
        if has_image(catalogue, table, results):
            drawn.append(save_figure(drawing(catalogue, table, results), images / str(table.image)))
    return drawn


def published_beside_ours(catalogue: Catalogue, table: Table, results: Path) -> Figure:
    """The first group of a table, a panel for each column: the paper's numbers and ours, a series for each recipe."""
    group = table.groups[0]
    paper: Mapping[str, Any] = catalogue.paper[group.paper]
    panels: dict[str, dict[str, dict[str, tuple[float, float | None]]]] = {}
    systems: list[str] = []
    for column in group.columns:
        series: dict[str, dict[str, tuple[float, float | None]]] = {"paper": {}}
        for row in group.rows:
            systems.append(row.name)
            if column.measure in paper.get(row.name, {}):
                mean, *sd = paper[row.name][column.measure]
                series["paper"][row.name] = mean, (sd[0] if sd else None)
            for ours in row.ours:
                command = catalogue.commands[ours.command]
                figure = figure_of(read_runs(results, command) or [], ours.where, column.name)
                if figure is not None:
                    spread = None if figure.sd is None else figure.sd * column.scale
                    systems.append(f"{row.name}, {ours.words}" if ours.words else row.name)
                    name = f"ours, recipe {command.recipe}" if command.recipe else "ours"
                    series.setdefault(name, {})[systems[-1]] = figure.mean * column.scale, spread
        panels[column.label] = series
    title = f"{table.title.partition(':')[0]}, {group.title}"
    return published_comparison_plot(panels, list(dict.fromkeys(systems)), title)


def accuracy_by_decile(catalogue: Catalogue, table: Table, results: Path) -> Figure:
    """Accuracy of ten groups of images by entropy, for each head; mean over seeds, of the last group of the table."""
    result = read_result(results, catalogue.commands[str(table.groups[-1].command)])
    heads: dict[str, list[Any]] = {}
    for one in result["runs"]:
        heads.setdefault(f"entropy of {one['head']}", []).append(one["entropy"]["accuracy"])
    return accuracy_by_decile_plot({name: np.mean(values, axis=0) for name, values in heads.items()})


DRAWINGS: dict[str, Callable[[Catalogue, Table, Path], Figure]] = {
    "table1": published_beside_ours,
    "table4": published_beside_ours,
    "figure2": accuracy_by_decile,
}

"""What there is to reproduce: the commands, the tables they fill, and the figures that their result files hold.

scripts/reproduction/ has the data: `paper.yaml`, the paper's numbers; `commands.yaml`, every command and what it needs;
`tables.yaml`, which rows of which result file stand beside which number; `verdicts.yaml`, reviewed sentences.
reproduce.py runs the commands, reproduction_page.py writes the page.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import yaml

from bndl_hf.utils.results import flat

DATA = Path(__file__).with_name("reproduction")
RESULTS = "docs/results"
FOLDERS = ("datasets", "models", "features")  # --datasets_dir and so on


@dataclass(frozen=True)
class Place:
    """Data or a model that commands read.

    Attributes:
        folder: "datasets", "models" or "features": whose --..._dir it lies in.
        name: file or folder there.
        hub: id on the Hub, used where no folder is given; None where there is none.
        get: sentence with the command that makes it, for who lacks it.
    """

    folder: str
    name: str
    get: str
    hub: str | None = None


@dataclass(frozen=True)
class Command:
    """One call of a script.

    Attributes:
        script: below scripts/.
        arguments: its command line but for --output; {place} stands for data and models.
        result: name of its file of results: with a list of "runs", or of one run.
        output: flag that says where results go; --output_dir takes the folder of `result`.
        recipe: of whole trainings: paper, released, best or cpu.
        needs: hardware or data that a reader may lack, for rows that were not run.
        differs: in what its runs differ from the paper's, the known reason why its figures do.
        packages: modules beyond the library's own, and the extra that brings them.
    """

    script: str
    arguments: str
    result: str
    output: str = "--output"
    recipe: str | None = None
    needs: str | None = None
    differs: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A measure of a table; `scale` times the stored value is shown with `digits` decimals.

    Attributes:
        measure: its name in paper.yaml and, unless `stored` says another, in result files.
        label: of the column.
    """

    measure: str
    label: str
    scale: float = 1.0
    digits: int = 3
    stored: str | None = None

    @property
    def name(self) -> str:
        """The measure's name in result files."""
        return self.stored or self.measure


@dataclass(frozen=True)
class Ours:
    """Where a row's figures lie: the runs of a command's result file that agree with `where`.

    Attributes:
        command, where: as said.
        words: what this run is, beyond its recipe.
        compare: whether the difference to the paper means anything: it does not on other images.
    """

    command: str
    where: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    compare: bool = True


@dataclass(frozen=True)
class Row:
    """A system of a table, and the runs that stand beside its numbers."""

    name: str
    ours: Sequence[Ours] = ()


@dataclass(frozen=True)
class Group:
    """Rows under one heading: declared, or one for every value of `by` in the results of `command`.

    Attributes:
        title: of the heading.
        columns: what is shown.
        rows: with the paper's numbers beside ours.
        paper: key in paper.yaml.
        command, where, by: without `rows`: whose results, which of the runs, and what tells the rows apart.
        counted: what the number of runs of a row counts.
        listed: list of the result file to read, of which each entry is a row already if it is not "runs".
        about: a paragraph.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row] = ()
    paper: str | None = None
    command: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    by: Sequence[str] = ()
    counted: str = "seeds"
    listed: str = "runs"
    about: str = ""


@dataclass(frozen=True)
class Table:
    """One thing to reproduce."""

    title: str
    about: str
    groups: Sequence[Group] = ()
    commands: Sequence[str] = ()
    drawn_from: Sequence[str] = ()  # commands whose results the image shows, as far as they are there
    image: str | None = None  # below docs/images: drawn by the report if called reproduction_..., or by a command
    image_words: str = ""  # what it shows, for who does not see it


@dataclass(frozen=True)
class Figure:
    """Mean of one measure over the runs of a row, standard deviation where there are two or more, number of runs."""

    mean: float
    sd: float | None
    runs: int


@dataclass(frozen=True)
class Catalogue:
    """All data files, read."""

    places: Mapping[str, Place]
    commands: Mapping[str, Command]
    tables: Mapping[str, Table]
    paper: Mapping[str, Any]
    verdicts: Sequence[Mapping[str, Any]]

    def commands_of(self, table: str, recipe: str | None = None) -> list[str]:
        """Names of a table's commands, each once; those of one recipe, if that is given.

        Raises:
            ValueError: there is no such table, or it has no such recipe.
        """
        if table not in self.tables:
            raise ValueError(
                f"{table!r} is no table; tables are {', '.join(self.tables)}. See: python scripts/reproduce.py list"
            )
        found = self.tables[table]
        names = [*found.commands]
        for group in found.groups:
            names += [group.command] if group.command else []
            names += [ours.command for row in group.rows for ours in row.ours]
        names = list(dict.fromkeys(names))
        if recipe is None:
            return names
        able = [name for name in names if self.commands[name].recipe == recipe]
        if not able:
            recipes = dict.fromkeys(one for name in names if (one := self.commands[name].recipe))
            choice = f"recipes are {', '.join(recipes)}" if recipes else "it has none; leave --recipe out"
            raise ValueError(f"--recipe {recipe}: {table} has no such recipe; {choice}.")
        return able

    def words(self, name: str, where: Mapping[str, str] | None = None, results: str | Path = RESULTS) -> list[str]:
        """A command as a list of words, after "python"; places as on the page, unless `where` says the paths."""
        command = self.commands[name]
        filled = command.arguments.format(
            **{**{place: shown(one) for place, one in self.places.items()}, **(where or {})}
        )
        path = Path(results) / command.result
        output = (path.parent if command.output == "--output_dir" else path).as_posix()
        return [f"scripts/{command.script}", *shlex.split(filled), command.output, output]

    def paths(self, name: str, folders: Mapping[str, str | None]) -> dict[str, str]:
        """{place: path or Hub id} of what a command reads.

        Args:
            name: of the command.
            folders: "datasets", "models" and "features" -> folder, None where the reader named none.

        Raises:
            ValueError: something is not there, with the command that makes it.
            ImportError: a package is missing, with the extra that brings it.
        """
        command, found = self.commands[name], {}
        for module, extra in command.packages.items():
            if importlib.util.find_spec(module) is None:
                raise ImportError(f"{name} needs {module}, which is not there; pip install bndl-hf[{extra}].")
        for place, one in self.places.items():
            if f"{{{place}}}" not in command.arguments:
                continue
            folder = folders[one.folder]
            if folder is None and one.hub:
                found[place] = one.hub
                continue
            if folder is None:
                what = f"a folder of {one.folder}" if one.name == "." else one.name
                where = "" if one.name == "." else ", the folder it lies in"
                raise ValueError(f"{name} needs {what}: pass --{one.folder}_dir{where}. {one.get}")
            path = Path(folder) / one.name
            if not path.exists():
                raise ValueError(f"{name} needs {one.name}, and {path} does not exist. {one.get}")
            found[place] = str(path)
        return found


def shown(place: Place) -> str:
    """How the page writes a place: its id on the Hub, or its name in a folder in capitals."""
    return place.hub or PurePosixPath(place.folder.upper(), place.name).as_posix()


def read_catalogue(folder: Path = DATA) -> Catalogue:
    """The data files of a folder.

    Raises:
        ValueError: an entry has a field that there is not, or names a command or a number that there is not.
    """
    commands = _yaml(folder / "commands.yaml")
    catalogue = Catalogue(
        places={name: _made(Place, entry, f"place {name}") for name, entry in commands["places"].items()},
        commands={name: _made(Command, entry, f"command {name}") for name, entry in commands["commands"].items()},
        tables={name: _table(name, entry) for name, entry in _yaml(folder / "tables.yaml").items()},
        paper=_yaml(folder / "paper.yaml"),
        verdicts=_yaml(folder / "verdicts.yaml"),
    )
    for table, one in catalogue.tables.items():
        if unknown := {*catalogue.commands_of(table), *one.drawn_from} - set(catalogue.commands):
            raise ValueError(f"Table {table} names {', '.join(sorted(unknown))}, which commands.yaml lacks.")
        for group in one.groups:
            if group.paper is not None and group.paper not in catalogue.paper:
                raise ValueError(f"Table {table} names the numbers {group.paper}, which paper.yaml lacks.")
    return catalogue


def read_runs(results: Path, command: Command, listed: str = "runs") -> list[dict[str, Any]] | None:
    """The runs of a command's result file (or another list of it), one level deep; None where it was not run."""
    found = read_result(results, command)
    return None if found is None else [flat(one) for one in found.get(listed, [found])]


def read_result(results: Path, command: Command) -> dict[str, Any] | None:
    """A command's whole result file; None where it was not run."""
    path = results / command.result
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def has_image(catalogue: Catalogue, table: Table, results: Path) -> bool:
    """Whether a table has an image, and results that it shows; what a command draws lies beside the results."""
    if table.image is None or not any((results / catalogue.commands[one].result).is_file() for one in table.drawn_from):
        return False
    return table.image.startswith("reproduction_") or (results.parent / "images" / table.image).is_file()


def figure_of(runs: Sequence[Mapping[str, Any]], where: Mapping[str, Any], measure: str) -> Figure | None:
    """The measure of the runs that agree with `where`; None where no such run has it."""
    values = [
        float(one[measure])
        for one in runs
        if all(one.get(name) == value for name, value in where.items()) and one.get(measure) is not None
    ]
    if not values:
        return None
    return Figure(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


Made = TypeVar("Made")


def _made(kind: type[Made], entry: Mapping[str, Any], words: str) -> Made:
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    if unknown := sorted(set(entry) - set(known)):
        raise ValueError(f"{words} has the fields {', '.join(unknown)}; fields are {', '.join(known)}.")
    return kind(**entry)


def _table(name: str, entry: Mapping[str, Any]) -> Table:
    groups = []
    for group in entry.get("groups", ()):
        words = f"{name}, {group['title']}"
        rows = [
            _made(Row, {**row, "ours": [_made(Ours, one, words) for one in row.get("ours", ())]}, words)
            for row in group.get("rows", ())
        ]
        columns = [_made(Column, one, words) for one in group["columns"]]
        groups.append(_made(Group, {**group, "rows": rows, "columns": columns}, words))
    return _made(Table, {**entry, "groups": groups}, f"table {name}")


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

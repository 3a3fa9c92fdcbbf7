r"""Run what a table of the paper needs, list what there is, and write the page that compares the numbers.

    python scripts/reproduce.py list
    python scripts/reproduce.py table1 --recipe cpu
    python scripts/reproduce.py table2 --features_dir FEATURES --models_dir MODELS
    python scripts/reproduce.py report

A table is one command or several, which `list` shows; each is printed before it runs. Results go to --results_dir. A
command goes on from what it finds there, so that a killed run loses nothing; --results_dir docs/results goes on from
the results of this repository. What stands after `--` is handed to every command: `-- --seeds 0`.

Datasets come from the Hub, or from --datasets_dir/NAME where that is given. report writes docs/reproduction.md and its
figures from the files of --results_dir (docs/results, unless told otherwise) and from scripts/reproduction/ alone.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bndl_hf.utils.command_line import HelpFormatter, run
from reproduction_catalogue import (  # type: ignore[import-not-found]  # beside this file
    FOLDERS,
    RESULTS,
    Catalogue,
    read_catalogue,
)
from reproduction_figures import draw  # type: ignore[import-not-found]  # beside this file
from reproduction_page import write_page  # type: ignore[import-not-found]  # beside this file

REPOSITORY = Path(__file__).resolve().parents[1]


def run_table(table: str, arguments: Namespace, extra: list[str], catalogue: Catalogue) -> None:
    """Every command of a table, one after the other.

    Raises:
        ValueError: unknown table or recipe, or data that is not there: before anything is run.
        SystemExit: a command failed; its last line says why.
    """
    names = catalogue.commands_of(table, arguments.recipe)
    folders = {folder: getattr(arguments, f"{folder}_dir") for folder in FOLDERS}
    results = arguments.results_dir or "outputs/reproduction"
    calls = [[*catalogue.words(name, catalogue.paths(name, folders), results), *extra] for name in names]
    for number, words in enumerate(calls, 1):
        print(f"[{number}/{len(calls)}] python {shlex.join(words)}", flush=True)
        script, *rest = words
        ended = subprocess.run([sys.executable, str(REPOSITORY / script), *rest])
        if ended.returncode:
            raise SystemExit(ended.returncode)


def list_tables(arguments: Namespace, catalogue: Catalogue) -> None:
    """Every table, its commands, and whether there are results of them."""
    results = Path(arguments.results_dir or REPOSITORY / RESULTS)
    for table, one in catalogue.tables.items():
        print(f"\n{table}: {one.title}")
        for name in catalogue.commands_of(table):
            command = catalogue.commands[name]
            has = "has results" if (results / command.result).is_file() else "not run"
            recipe = f", recipe {command.recipe}" if command.recipe else ""
            print(f"  {name} ({has}{recipe})\n    python {shlex.join(catalogue.words(name))}")


def write_report(arguments: Namespace, catalogue: Catalogue) -> None:
    """The page and its figures."""
    results = Path(arguments.results_dir or REPOSITORY / RESULTS)
    docs = Path(arguments.docs_dir)
    drawn = draw(catalogue, results, docs / "images")
    page = docs / "reproduction.md"
    page.write_text(write_page(catalogue, results), encoding="utf-8")
    print("\n".join(map(str, [*drawn, page])))


def main(argv: list[str] | None = None) -> None:
    """Parse the command line; run, list or report."""
    catalogue = read_catalogue()
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if "--" in words else len(words)
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("table", help=f"list, report, or one of: {', '.join(catalogue.tables)}.")
    parser.add_argument("--recipe", help="Run the commands of this recipe only; of: paper, released, best, cpu.")
    parser.add_argument(
        "--results_dir", help="Folder of result files; outputs/reproduction to run, docs/results to list and report."
    )
    for folder in FOLDERS:
        parser.add_argument(f"--{folder}_dir", help=f"Folder of the {folder}.")
    parser.add_argument(
        "--docs_dir", default=str(REPOSITORY / "docs"), help="Where report writes its page and images/."
    )
    arguments, extra = parser.parse_args(words[:end]), words[end + 1 :]
    if arguments.table in ("list", "report") and (arguments.recipe or extra):
        raise ValueError(f"{arguments.table} runs nothing: leave --recipe and what follows -- out.")
    if arguments.table == "list":
        list_tables(arguments, catalogue)
    elif arguments.table == "report":
        write_report(arguments, catalogue)
    else:
        run_table(arguments.table, arguments, extra, catalogue)


if __name__ == "__main__":
    run(main)

"""The page of reproduction agrees with the result files, and what it tells a reader to run can be run."""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from script_modules import load_script

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "docs" / "results"


@pytest.fixture(scope="module")
def reproduce():
    return load_script("reproduce")


@pytest.fixture(scope="module")
def page():
    return load_script("reproduction_page")


@pytest.fixture(scope="module")
def catalogue():
    return load_script("reproduction_catalogue").read_catalogue()


# ---- the page ----


def test_the_page_and_its_figures_are_what_the_result_files_make_of_them(reproduce, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    reproduce.main(["report", "--docs_dir", str(tmp_path)])
    written = (tmp_path / "reproduction.md").read_text(encoding="utf-8")
    assert written == (REPOSITORY / "docs" / "reproduction.md").read_text(encoding="utf-8"), (
        "docs/reproduction.md is out of date: python scripts/reproduce.py report"
    )
    for image in (tmp_path / "images").iterdir():
        assert (REPOSITORY / "docs" / "images" / image.name).is_file(), f"{image.name} is not checked in"


def test_without_results_every_row_says_so_and_keeps_its_command(page, catalogue, tmp_path):
    bare = replace(catalogue, verdicts=[])
    text = page.write_page(bare, tmp_path)
    commands = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert "![" not in text
    written = [line for block in commands for line in block.splitlines() if line.startswith("python")]
    wanted = [name for table in bare.tables for name in bare.commands_of(table)]
    assert len(written) == len(wanted)
    assert text.count("# not run") == len(wanted)


def small(catalogue, **changes):
    """A catalogue of one table with one row, whose results are named small.json."""
    module = load_script("reproduction_catalogue")
    group = module.Group(
        "CIFAR-10",
        [module.Column("accuracy", "accuracy, %", 100, 2), module.Column("pavpu", "PAvPU, %", 100, 2)],
        [module.Row("dense", [module.Ours("small", {"head": "dense"})])],
        paper="small",
    )
    return replace(
        catalogue,
        commands={
            "small": module.Command("benchmarks/heads.py", "heads", "small.json", recipe="cpu", differs="Fewer epochs.")
        },
        tables={"table1": module.Table("Table 1", "What it is.", [group])},
        paper={"small": {"dense": {"accuracy": [94.98, 0.12]}}},
        **{"verdicts": [], **changes},
    )


def results_of(folder, *accuracies):
    runs = [{"head": "dense", "seed": seed, "accuracy": one} for seed, one in enumerate(accuracies)]
    runs.append({"head": "other", "seed": 0, "accuracy": 0.1})
    environment = {"accelerator": None, "cpu_count": 2}
    (folder / "small.json").write_text(json.dumps({"environment": environment, "runs": runs}))


def test_a_row_has_the_papers_number_ours_the_difference_and_the_run(page, catalogue, tmp_path):
    results_of(tmp_path, 0.93, 0.95)
    text = page.write_page(small(catalogue), tmp_path)
    # (93 + 95) / 2 = 94; sd sqrt((1 + 1) / (2 - 1)) = 1.41; 94 - 94.98 = -0.98
    cells = "dense | 94.98 ± 0.12 | 94.00 ± 1.41 | −0.98 | - | - |  | recipe cpu, 2 seeds, CPU, 2 cores | Fewer epochs."
    assert f"| {cells} |" in text


def test_a_verdict_says_figures_and_stops_the_page_when_they_change(page, catalogue, tmp_path):
    results_of(tmp_path, 0.93, 0.95)
    figure = {"command": "small", "where": {"head": "dense"}, "measure": "accuracy", "reviewed": 0.94}
    verdict = {"claim": "sparsity", "status": "holds", "sentence": "Dense has {x:.3f}.", "figures": {"x": figure}}
    text = page.write_page(small(catalogue, verdicts=[verdict]), tmp_path)
    assert "**What holds.** Dense has 0.940." in text
    results_of(tmp_path, 0.93, 0.951)
    with pytest.raises(ValueError, match=r"read each sentence again.*\[sparsity: x was 0.94, is 0.9405.\]"):
        page.write_page(small(catalogue, verdicts=[verdict]), tmp_path)
    verdict = {"claim": "ImageNet", "status": "open", "sentence": "Nothing of it.", "not_run": ["small"]}
    with pytest.raises(ValueError, match="small was not run, and has results"):
        page.write_page(small(catalogue, verdicts=[verdict]), tmp_path)


def test_a_long_command_is_broken_before_flags_and_reads_the_same(page):
    command = "python scripts/x.py --heads " + " ".join(["dense"] * 15) + ' --config \'{"bias": "none"}\' --output x'
    folded = page.folded(command)
    assert max(map(len, folded.splitlines())) <= 120
    assert shlex.split(folded.replace("\\\n", "")) == shlex.split(command)


# ---- the commands ----


@cache
def help_of(script, command):
    """What --help of a script, or of one of its commands, says."""
    module, out = load_script(script.removesuffix(".py")), io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        module.main([*command, "--help"])
    assert ended.value.code == 0
    return out.getvalue()


def test_every_command_is_one_that_its_script_takes(catalogue):
    for name in catalogue.commands:
        script, *rest = catalogue.words(name)
        command = tuple(rest[:1]) if not rest[0].startswith("--") else ()
        text = help_of(script.removeprefix("scripts/"), command)
        flags = {word for word in rest if word.startswith("--")}
        assert flags <= set(re.findall(r"--\w+", text)), f"{name}: {flags}"
        # argparse reads the values of all that stands before --help
        module = load_script(script.removeprefix("scripts/").removesuffix(".py"))
        with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
            module.main([*rest, "--help"])
        assert ended.value.code == 0, name


def test_results_of_a_command_are_named_once(catalogue):
    names = [command.result for command in catalogue.commands.values()]
    assert len(names) == len(set(names))
    used = {name for table in catalogue.tables for name in catalogue.commands_of(table)}
    assert used == set(catalogue.commands)


def test_list_shows_every_table_with_its_commands(reproduce, catalogue, capsys):
    reproduce.main(["list"])
    shown = capsys.readouterr().out
    for table in catalogue.tables:
        assert f"\n{table}: " in shown
        for name in catalogue.commands_of(table):
            assert f"python {shlex.join(catalogue.words(name))}" in shown


def test_a_table_runs_its_commands_in_order_until_one_fails(reproduce, catalogue, tmp_path, capfd):
    (tmp_path / "echo.py").write_text("import sys; print('ran', *sys.argv[1:])")
    (tmp_path / "fail.py").write_text("raise SystemExit('ValueError: no such head')")
    module = load_script("reproduction_catalogue")
    echo, fail = (os.path.relpath(tmp_path / name, REPOSITORY / "scripts") for name in ("echo.py", "fail.py"))
    commands = {
        "good": module.Command(echo, "--heads nmf", "good.json"),
        "bad": module.Command(fail, "--heads none", "bad.json"),
        "never": module.Command(echo, "", "never.json"),
    }
    table = module.Table("Some table", "", commands=list(commands))
    one = replace(catalogue, commands=commands, tables={"some": table})
    folders = dict.fromkeys(("datasets_dir", "models_dir", "features_dir"))
    given = argparse.Namespace(recipe=None, results_dir="somewhere", **folders)
    with pytest.raises(SystemExit) as ended:
        reproduce.run_table("some", given, ["--seeds", "0"], one)
    assert ended.value.code == 1
    shown = capfd.readouterr()
    assert f"[1/3] python scripts/{echo} --heads nmf --output somewhere/good.json --seeds 0" in shown.out
    assert "ran --heads nmf --output somewhere/good.json --seeds 0" in shown.out
    assert "no such head" in shown.err
    assert "never.json" not in shown.out


# ---- what a reader gets wrong ----


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table9"], "'table9' is no table; tables are .*python scripts/reproduce.py list"),
        (["table3", "--recipe", "fast"], "--recipe fast: table3 has no such recipe; it has none; leave --recipe out"),
        (["table3"], "sepin_cifar10 needs resnet-cifar100: pass --models_dir, the folder it lies in"),
        (["figure2", "--features_dir", "nowhere"], r"nowhere/cifar10_resnet56.safetensors does not exist. Make it"),
        (["list", "--recipe", "cpu"], "list runs nothing"),
    ],
)
def test_a_mistake_is_answered_with_what_helps(reproduce, argv, message):
    with pytest.raises(ValueError, match=message):
        reproduce.main(argv)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(catalogue):
    command = replace(catalogue.commands["frontier_caltech101"], packages={"no_such_module": "baselines"})
    one = replace(catalogue, commands={"frontier": command})
    with pytest.raises(ImportError, match=r"frontier needs no_such_module.*pip install bndl-hf\[baselines\]"):
        one.paths("frontier", {"datasets": None, "models": None, "features": None})


def test_a_field_or_a_command_that_there_is_not_is_named(tmp_path):
    module = load_script("reproduction_catalogue")
    for name in ("paper", "commands", "tables", "verdicts"):
        (tmp_path / f"{name}.yaml").write_text("{}")
    (tmp_path / "commands.yaml").write_text("{places: {}, commands: {}}")
    (tmp_path / "tables.yaml").write_text("{t: {title: T, about: '', commands: [gone]}}")
    with pytest.raises(ValueError, match=r"Table t names gone, which commands\.yaml lacks"):
        module.read_catalogue(tmp_path)
    (tmp_path / "tables.yaml").write_text("{t: {title: T, about: '', comands: [gone]}}")
    with pytest.raises(ValueError, match="table t has the fields comands; fields are title"):
        module.read_catalogue(tmp_path)

"""Who may import whom, that there is no circle, and that no file is long."""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src" / "bndl_hf"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400
# Room -> what it may import from other rooms; a name covers everything below it.
MAY_IMPORT = {
    "utils": (),
    "data": ("utils",),
    "model": (),
    "backbones": (),
    "plots": ("utils",),
    "uncertainty": (
        "model.logit_posterior",
        "model.predictive",
        "model.student_t",
        "model.mean_field",
        "model.prediction_sets",
        "model.decisions",
        "model.familiarity",
        "model.verdicts",
        "model.backbone_inputs",
    ),
    "interpretability": ("model", "plots", "utils"),
    "training": ("model", "data", "uncertainty", "hub", "utils"),
    "evaluation": ("model", "data", "training", "uncertainty", "plots", "utils"),
    "baselines": ("model", "training", "uncertainty"),
    "metrics": ("uncertainty",),
    "hub": ("model", "uncertainty", "interpretability", "plots", "export", "utils"),
    "released": ("model", "utils"),
    "export": ("model", "interpretability", "utils"),
}
# make_cards.py is two files, and makes the demo's model.
SCRIPTS_OF_SCRIPTS = {"make_cards.py": {"card_models"}, "card_models.py": {"demo"}}
HEAVY = ("evaluate", "datasets", "matplotlib", "sklearn", "scipy", "captum", "skimage", "bndl_hf.interpretability")


def module_name(file):
    """Dotted name below `bndl_hf`; "" for the package itself."""
    parts = list(file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    return name.split(".")[0]


def our_imports(file):
    """(line, dotted name below bndl_hf) of everything `file` imports from this package, "" for the package itself."""
    package = ["bndl_hf", *file.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from bndl_hf.model import predictive` names a module, `from bndl_hf.model.predictive import x` a thing.
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "bndl_hf" or name.startswith("bndl_hf."):
                yield node.lineno, name.removeprefix("bndl_hf").removeprefix(".")


def is_below(name, rooms):
    return any(name == allowed or name.startswith(allowed + ".") for allowed in rooms)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_rooms_import_only_whom_they_may(file):
    here = room(module_name(file))
    if here == "":
        return  # the package itself names what is public
    assert here in MAY_IMPORT, f"{here} has no row in the table of rooms"
    for line, name in our_imports(file):
        assert room(name) == here or is_below(name, MAY_IMPORT[here]), f"{file.name}:{line} imports {name}"


def import_graph():
    """Module -> the modules of ours it imports anywhere, in functions and for type checkers too."""
    names = {module_name(file): file for file in FILES}
    graph = {}
    for here, file in names.items():
        found = set()
        for _, name in our_imports(file):
            while name not in names:  # `from bndl_hf.model.loss import negative_elbo` names a thing in a module
                name = name.rpartition(".")[0]
            if name != here and not (here == "" or (here.startswith(name + ".") and names[name].name == "__init__.py")):
                found.add(name)
        graph[here] = found
    return graph


def a_circle_in(graph):
    """Names along one circle of `graph`, or []."""
    done = set()

    def visit(node, path):
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph[node]):
            if circle := visit(other, [*path, node]):
                return circle
        done.add(node)
        return []

    for node in sorted(graph):
        if circle := visit(node, []):
            return circle
    return []


def test_no_circle_of_imports_between_files():
    assert a_circle_in(import_graph()) == []
    assert a_circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_no_circle_of_imports_between_rooms():
    rooms = {}
    for name, others in import_graph().items():
        if name:  # the package itself names what is public
            rooms.setdefault(room(name), set()).update(room(other) for other in others if room(other) != room(name))
    assert a_circle_in(rooms) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_is_longer_than_400_lines(file):
    assert len(file.read_text().splitlines()) <= MAX_LINES


def test_nobody_imports_a_script_but_a_benchmark_its_sibling():
    scripts = {file.stem for file in (REPOSITORY / "scripts").rglob("*.py")} | {"scripts", "benchmarks"}
    scripts -= {folder.name for folder in (REPOSITORY / "tests").iterdir()}  # tests/uncertainty is a package of tests
    for file in [*FILES, *(REPOSITORY / "scripts").glob("*.py"), *(REPOSITORY / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names - set(HEAVY)
            roots -= SCRIPTS_OF_SCRIPTS.get(file.name, set())
            assert not roots & scripts, f"{file.name}:{node.lineno} imports a script"


def test_the_check_reads_relative_and_absolute_imports_alike(tmp_path):
    # The rooms' table is only as good as this reader.
    by_name = {module_name(file): file for file in FILES}
    found = {name for _, name in our_imports(by_name["model.predictive"])}
    assert "model.student_t.student_t_p_value" in found
    found = {name for _, name in our_imports(by_name["training.trainer"])}
    assert "model.outputs.BNDLImageClassifierOutput" in found
    assert is_below("model.predictive.BNDLPrediction", ("model.predictive",))
    assert not is_below("model.predictive_extra", ("model.predictive",))


def test_the_public_names_are_there():
    import bndl_hf

    for name in bndl_hf.__all__:
        assert getattr(bndl_hf, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'BNDLEnsemble'"):
        _ = bndl_hf.BNDLEnsemble

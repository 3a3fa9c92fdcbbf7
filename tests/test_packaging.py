"""What is declared about the package agrees with itself: versions, extras, pins, workflows."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bndl_hf

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def text_of(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads(text_of("pyproject.toml"))["project"]


def test_one_version_everywhere(project):
    version = bndl_hf.__version__
    assert project["dynamic"] == ["version"]  # hatchling reads it in __init__.py
    released, *_ = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert (version, citation["version"]) == (released[0], released[0])
    assert citation["date-released"] == released[1]


def test_unreleased_changes_stand_first_in_the_changelog():
    first, *_ = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert first == "Unreleased"


def test_messages_and_guides_name_extras_that_exist(project):
    files = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "scripts").rglob("*.py")]
    files += [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "pyproject.toml"]
    named = {
        extra.strip()
        for file in files
        for extras in re.findall(r"bndl-hf\[([\w, -]+)\]", file.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"plots", "explain", "metrics"} <= named <= set(project["optional-dependencies"])


def test_every_dependency_is_pinned_within_its_range(project):
    lines = [line for line in text_of("constraints.txt").splitlines() if line and not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(pins) == len(lines)
    extras = [dependency for extra in project["optional-dependencies"].values() for dependency in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name == "bndl-hf" or (requirement.marker and not requirement.marker.evaluate()):
            continue
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


def test_no_file_sends_installers_to_another_index():
    for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", *map(str, WORKFLOWS)):
        assert not re.search(r"index-url|extra-index|find-links\s*=|https?://\S*(pypi|wheels?|whl)\b", text_of(name)), (
            name
        )


def test_the_package_says_that_it_is_typed():
    assert Path(bndl_hf.__file__).with_name("py.typed").is_file()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist_and_actions_of_one_major_version(workflow):
    loaded = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^(\w+):.*##", text_of("Makefile"), flags=re.MULTILINE))
    assert loaded["permissions"] == {"contents": "read"}  # what a job needs beyond that, it says itself
    for job in loaded["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]), step["uses"]
            for target in re.findall(r"^make (\w+)", step.get("run", ""), flags=re.MULTILINE):
                assert target in targets, target


def test_every_python_that_is_promised_is_tested(project):
    promised = {item.rsplit(" ", 1)[1] for item in project["classifiers"] if re.search(r":: 3\.\d+$", item)}
    jobs = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]
    rows = jobs["tests"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in rows} == promised
    assert {row["versions"] for row in rows} == {"oldest", "pinned", "newest"}
    assert f">={min(promised, key=lambda version: int(version.split('.')[1]))}" == project["requires-python"]

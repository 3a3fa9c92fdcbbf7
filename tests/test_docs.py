"""What is written about the repository is true of a clone: links lead somewhere, and named files are there."""

import re
from pathlib import Path

import pytest

from test_rooms import MAY_IMPORT, room

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "scripts", "tests", "docs", ".github", ".ci")
TEXTS = sorted(
    file
    for file in [*REPOSITORY.glob("*.*"), *(path for name in FOLDERS for path in (REPOSITORY / name).rglob("*"))]
    if file.is_file() and file.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".txt", ".cff", ".css"}
)
PAGES = [file for file in TEXTS if file.suffix == ".md" and file.name != "card_template.md"]  # which is filled in first
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
FENCE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
# Notes the developers keep beside the repository: nobody else has them.
NOT_IN_A_CLONE = re.compile("(DESIGN|PAPER|FACTS|STYLE)" + r"\.md")
BESIDE = "../" + "shared"


def named(file):
    return str(file.relative_to(REPOSITORY))


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_and_images_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), f"{named(page)} links to {link}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{named(page)} links to {link}, which has no such heading"


def test_the_check_sees_links_and_images_but_no_code(tmp_path):
    text = "[a](b.md) ![c](d.png#e)\n```python\nf[0](g)\n```\n[h](https://i)"
    assert LINK.findall(FENCE.sub("", text)) == ["b.md", "d.png#e"]
    (tmp_path / "page.md").write_text("# What `x` costs, and why\n")
    assert anchors(tmp_path / "page.md") == {"what-x-costs-and-why"}


def test_no_file_names_a_file_that_a_clone_lacks():
    offenders = [named(file) for file in TEXTS if NOT_IN_A_CLONE.search(file.read_text(encoding="utf-8"))]
    assert offenders == []


def test_no_command_or_text_needs_what_lies_beside_the_repository():
    # Recorded commands of docs/results stay as they were run; the fixture `shared` skips what needs the folder.
    texts = [file for file in TEXTS if file.suffix != ".json" and named(file) != "tests/conftest.py"]
    assert [named(file) for file in texts if BESIDE in file.read_text(encoding="utf-8")] == []


def test_contributing_shows_who_may_import_whom():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", text, flags=re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", others)) for name, others in rows} == {
        name: {room(other) for other in others} for name, others in MAY_IMPORT.items()
    }


def test_every_room_has_a_page_of_the_api():
    # `mkdocs build --strict` then checks that the page shows every public name, and that it is in the navigation.
    rooms = {file.parent.name for file in (REPOSITORY / "src" / "bndl_hf").glob("*/__init__.py")} - {"utils"}
    assert rooms <= {file.stem for file in (REPOSITORY / "docs" / "api").glob("*.md")}

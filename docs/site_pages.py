"""What mkdocs needs to make a site of pages that are written to be read in the repository, too.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, and every relative link to a file outside docs/ becomes the
file's address in the repository. Relative links are therefore written once, as GitHub reads them. mkdocs.yml names this
file under `hooks`, and again under mkdocstrings' `extensions` for `DocstringsAsMarkdown`.
"""

import ast
import dataclasses
import importlib
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# ](target) or ](target#part) of a link or an image; a target with a scheme ("https:") or a part alone ("#part") stays.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the repository's root."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of one page for its place on the site."""
    root_file = {page_name: source for source, page_name in PAGES.items()}.get(page.file.src_uri)
    here = posixpath.dirname(root_file or f"docs/{page.file.src_uri}")

    def on_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))  # from the repository's root
        name = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        if name is not None and files.get_file_from_path(name) is not None:
            return posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        kind = "tree" if (REPOSITORY / target).is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{target}" if (REPOSITORY / target).exists() else link[1]

    return LINK.sub(on_the_site, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Check that every public class and function of a room stands on the room's page."""
    for room in sorted((REPOSITORY / "src" / "bndl_hf").glob("*/__init__.py")):
        page = Path(config.site_dir, "api", room.parent.name, "index.html")
        html = page.read_text(encoding="utf-8") if page.exists() else ""
        entries = set(re.findall(r'id="bndl_hf[\w.]*\.(\w+)"', html))
        missing = [name for name in _public_names(room) if name not in entries]
        if missing:
            raise PluginError(f"docs/api/{room.parent.name}.md does not show {', '.join(missing)}")


def _public_names(package: Path) -> list[str]:
    """The classes and functions in a package's `__all__`, which is read and not imported."""
    for statement in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(statement.value) if not name.isupper()]
    return []


class DocstringsAsMarkdown(griffe.Extension):
    """Docstrings are written to be read in a terminal; some of their habits mean something else in Markdown.

    Of dataclasses whose fields are flags of a command line, the help of every flag is added.
    """

    # "    low, high: ..." with its further lines; names may run over a line; a type may stand before the colon.
    PAIR = re.compile(r"^( {4,})([*\w]+(?:,\s+[*\w]+)+)((?: \(.*?\))?: .*(?:\n\1 +.*)*)", flags=re.MULTILINE)

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Examples as code, "[B, K] [C]" not as a link, types without backticks, "low, high: ..." as two entries."""
        if obj.docstring is not None:
            if isinstance(obj, griffe.Class) and "dataclass" in obj.labels:
                self._describe_flags(obj)
            text = self.PAIR.sub(self._one_by_one, obj.docstring.value)
            obj.docstring.value = "\n".join(map(self._as_markdown, text.splitlines()))

    @staticmethod
    def _describe_flags(obj: griffe.Class) -> None:
        """Fields that are flags of a command line have their help, and their default, in a call of `field`."""
        if not any(name in str(field.value) for field in obj.attributes.values() for name in ("_flag(", "metadata=")):
            return
        made = getattr(importlib.import_module(obj.canonical_path.rpartition(".")[0]), obj.name)
        flags = {f.name: f for f in dataclasses.fields(made) if f.name in obj.attributes and "help" in f.metadata}
        described = "\n".join(f"    {name}: {' '.join(flag.metadata['help'].split())}" for name, flag in flags.items())
        start, raises, end = obj.docstring.value.partition("Raises:")
        obj.docstring.value = f"{start.rstrip()}\n\nArgs:\n{described}\n\n{raises}{end}".rstrip()
        for parameter in obj.members["__init__"].parameters if "__init__" in obj.members else ():
            if parameter.name in flags and flags[parameter.name].default is not dataclasses.MISSING:
                parameter.default = repr(flags[parameter.name].default)

    @staticmethod
    def _one_by_one(pair: re.Match[str]) -> str:
        return "\n".join(f"{pair[1]}{name}{pair[3]}" for name in re.split(r",\s+", pair[2]))

    @staticmethod
    def _as_markdown(line: str) -> str:
        if line.strip() == "Example:":
            return line.replace("Example", "Examples")
        if line.lstrip().startswith((">>>", "...")):
            return line
        if entry := re.match(r"(\s+[\w, ]+ \()(.*?)(\):.*)", line):  # "    objective (`str`, preset): ..."
            kind, preset = entry[2].replace("`", "").removesuffix(", preset"), entry[2].endswith(", preset")
            line = entry[1] + kind + (entry[3].replace("): ", "): (preset) ", 1) if preset else entry[3])
        prose_and_code = line.split("`")  # every other part stands between backticks
        prose_and_code[::2] = [re.sub(r"\](\s*)\[", r"]\1\[", part) for part in prose_and_code[::2]]
        return "`".join(prose_and_code)

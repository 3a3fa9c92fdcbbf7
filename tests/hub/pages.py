"""A card as a page: rendered to HTML, and looked through for what is broken or could run."""

import html.parser

import markdown
from huggingface_hub import ModelCard


class Page(html.parser.HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def rendered(card):
    return Page(markdown.markdown(ModelCard(card).text, extensions=["tables", "fenced_code"]))


def check_page(folder):
    """Every picture is there and has words, nothing runs, no link leads anywhere but out of the citations."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    page = rendered(card)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    for attributes in images:
        assert (folder / attributes["src"]).is_file(), attributes["src"]
        assert len(attributes["alt"]) > 10
        assert set(attributes) <= {"src", "alt", "title"}
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "a"}
    return ModelCard(card).data.to_dict(), images

"""The gallery of factors as one HTML page that needs no other file: pictures and maps are inside it."""

from __future__ import annotations

import base64
import io
import json
from html import escape

import numpy as np
from PIL import Image

from bndl_hf.interpretability.gallery.cards import FactorCard, FactorGallery
from bndl_hf.plots import overlay_colours
from bndl_hf.utils.files import written_whole

_CLASSES_SHOWN = 5  # of a factor; the others are counted

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<header>
<h1>{title}</h1>
<p>{summary}</p>
<form>
<label><input type="checkbox" id="maps" checked> show where</label>
<label>class <select id="class"><option value="">all</option>{options}</select></label>
<output id="count"></output>
</form>
</header>
<main>
{cards}
</main>
<script>{script}</script>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1b2126, #e8ecef); --muted: light-dark(#66707a, #9aa3ab);
  --rule: light-dark(#d9dee2, #39424a); --page: light-dark(#fff, #14181b); --bar: #009e73; }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } header p { max-width: 62rem; color: var(--muted); margin: .3rem 0; }
form { display: flex; gap: 1.2rem; align-items: center; padding: .6rem 0; position: sticky; top: 0; }
article { border-top: 1px solid var(--rule); padding: .9rem 0; display: grid; gap: .4rem 1.4rem;
  grid-template-columns: 15rem 1fr; }
h2 { font-size: 1.05rem; margin: 0; } article p { margin: .15rem 0; color: var(--muted); font-size: .87rem; }
article p b { color: var(--ink); font-weight: 600; }
.feeds { display: grid; grid-template-columns: auto 1fr auto; gap: .1rem .5rem; font-size: .85rem; margin: .3rem 0 0; }
.feeds dt { max-width: 8rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; } .feeds dd { margin: 0; }
.feeds i { display: block; height: .62rem; margin-top: .3rem; background: var(--bar); border-radius: 1px; }
.images { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; width: 6.4rem; } figcaption { font-size: .75rem; color: var(--muted); overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.picture { position: relative; } .picture img { display: block; width: 100%; border-radius: 3px; }
.picture .map { position: absolute; inset: 0; height: 100%; }
.with-maps .picture:not(:hover) img:first-child { filter: grayscale(1); }
body:not(.with-maps) .map, .picture:hover .map, article[hidden] { display: none; }
@media (max-width: 44rem) { article { grid-template-columns: 1fr; } }
"""

_SCRIPT = """
const maps = document.getElementById("maps"), chosen = document.getElementById("class");
const cards = [...document.querySelectorAll("article")], count = document.getElementById("count");
function show() {
  document.body.classList.toggle("with-maps", maps.checked);
  for (const card of cards) card.hidden = chosen.value && !JSON.parse(card.dataset.classes).includes(chosen.value);
  count.textContent = cards.filter(card => !card.hidden).length + " factors";
}
maps.addEventListener("change", show); chosen.addEventListener("change", show); show();
"""


def write_page(gallery: FactorGallery, title: str) -> None:
    """Write `gallery.page`; the file appears whole or stays as it was."""
    classes = sorted({name for card in gallery.cards for name in card.classes})
    largest_loading = max((loading for card in gallery.cards for loading in card.loadings), default=1.0)
    text = _PAGE.format(
        title=escape(title),
        style=_STYLE,
        summary=_summary(gallery),
        options="".join(f'<option value="{escape(name, quote=True)}">{escape(name)}</option>' for name in classes),
        cards="\n".join(_card(card, largest_loading) for card in gallery.cards),
        script=_SCRIPT,
    )
    with written_whole(gallery.page) as partial:
        partial.write_text(text, encoding="utf-8")


def _summary(gallery: FactorGallery) -> str:
    n, active = len(gallery.cards), gallery.num_active
    shown = f"all {active}" if n == active else f"the {n} with most evidence of {active}"
    places = (
        "The green says where, exactly: the parts of all positions add up to the factor's score; vermilion is evidence "
        "against it."
        if gallery.exact
        else f"The green says where, approximately ({gallery.method.replace('_', ' ')}); vermilion is evidence against."
    )
    return (
        f"Every logit is a sum of non-negative parts, one a factor. Of {gallery.num_factors} factors {active} are "
        f"active on {gallery.num_images:,} images; here are {shown}, by how much they added to the answers, each with "
        f"the images that show it most. {places}"
    )


def _card(card: FactorCard, largest_loading: float) -> str:
    facts = [
        f"<b>{card.evidence_share:.1%}</b> of all evidence",
        f"active on <b>{card.active_share:.1%}</b> of the images",
    ]
    if card.purity is not None:
        facts.append(f"top images of one class to <b>{card.purity:.0%}</b>")
    feeds = "".join(
        f"<dt title='{escape(name, quote=True)}'>{escape(name)}</dt>"
        f"<dd><i style='width:{100 * loading / largest_loading:.1f}%'></i></dd><dd>{loading:.2f}</dd>"
        for name, loading in list(zip(card.classes, card.loadings, strict=True))[:_CLASSES_SHOWN]
    )
    others = len(card.classes) - _CLASSES_SHOWN
    more = f"<p>and {others} more {'class' if others == 1 else 'classes'}</p>" if others > 0 else ""
    labels = card.labels or [""] * len(card.images)
    figures = "".join(_figure(card, i, labels[i]) for i in range(len(card.images)))
    return (
        f'<article id="factor-{card.factor}" data-classes="{escape(json.dumps(card.classes), quote=True)}">'
        f"<div><h2>factor {card.factor}</h2><p>{'<br>'.join(facts)}</p>"
        f'<dl class="feeds">{feeds}</dl>{more}</div><div class="images">{figures}</div></article>'
    )


def _figure(card: FactorCard, i: int, label: str) -> str:
    row, score, evidence = card.images[i], card.scores[i], card.maps[i]
    overlay = overlay_colours(evidence / max(float(np.abs(evidence).max()), np.finfo(np.float32).tiny))
    what = f"image {row}, {label}," if label else f"image {row},"
    alt = escape(f"{what} which shows factor {card.factor} with a score of {score:.2f}", quote=True)
    return (
        f'<figure><div class="picture"><img loading="lazy" alt="{alt}" src="{_inside(card.pictures[i], "JPEG")}">'
        f'<img class="map" alt="" src="{_inside((255 * overlay).round().astype(np.uint8), "PNG")}"></div>'
        f'<figcaption title="row {row} of the dataset">{escape(label)} {score:.1f}</figcaption></figure>'
    )


def _inside(pixels: np.ndarray, kind: str) -> str:
    """A picture as a data: URL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

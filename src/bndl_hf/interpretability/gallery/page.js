"use strict";
// The cards of a gallery: which ones, in which order, made as they come near the screen. Names are text, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const main = $("cards"), more = $("more"), search = $("search"), chosen = $("class"), order = $("order");
const STEP = 8; // cards at a time
let view = [], made = 0, round = 0, busy = false;

function element(tag, words, properties = {}) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  return Object.assign(made, properties);
}

// ---- data that lies in files beside the page ----

const loading = new Map();
function details(position) {
  const n = Math.floor(position / data.cardsAFile);
  if (!loading.has(n)) {
    loading.set(n, bndlChunks.has(n) ? Promise.resolve() : new Promise((done, failed) => {
      const script = element("script", undefined, { src: `${data.folder}/cards-${n}.js`, onload: done });
      script.onerror = () => { loading.delete(n); failed(new Error(`${data.folder}/cards-${n}.js is missing`)); };
      document.head.append(script);
    }));
  }
  return loading.get(n).then(() => bndlChunks.get(n)[position % data.cardsAFile]);
}

// ---- one card ----

const percent = (share, digits) => (100 * share).toFixed(digits) + "%";

function line(parent, bold, words) {
  parent.append(element("b", bold), " " + words, element("br"));
}

function feeds(card) {
  const list = element("dl", undefined, { className: "feeds" });
  card.classes.slice(0, data.classesShown).forEach((c, i) => {
    const bar = element("i");
    bar.style.width = percent(card.loadings[i] / data.largestLoading, 1);
    const middle = element("dd");
    middle.append(bar);
    list.append(element("dt", data.classes[c], { title: data.classes[c] }), middle,
      element("dd", card.loadings[i].toFixed(2)));
  });
  return list;
}

function drawMap(canvas, [height, width, packed]) {
  // Bilinear between the positions, green for and vermilion against, opaque as the square of the amount.
  const values = Int8Array.from(atob(packed), c => c.charCodeAt(0));
  const side = 64, context = canvas.getContext("2d");
  const pixels = context.createImageData(side, side);
  canvas.width = canvas.height = side;
  const axis = count => Array.from({ length: side }, (_, i) => {
    const at = Math.min(Math.max((i + .5) * count / side - .5, 0), count - 1), low = Math.floor(at);
    return [low, Math.min(low + 1, count - 1), at - low];
  });
  const rows = axis(height), columns = axis(width);
  rows.forEach(([top, bottom, down], y) => columns.forEach(([left, right, across], x) => {
    const above = values[top * width + left] * (1 - across) + values[top * width + right] * across;
    const below = values[bottom * width + left] * (1 - across) + values[bottom * width + right] * across;
    const value = (above * (1 - down) + below * down) / 127, at = 4 * (y * side + x);
    pixels.data.set(value >= 0 ? [0, 158, 115] : [213, 94, 0], at);
    pixels.data[at + 3] = Math.round(255 * .85 * value * value);
  }));
  context.putImageData(pixels, 0, 0);
}

function picture(card, found, i) {
  const row = found.images[i], label = found.labels ? found.labels[i] : "";
  const box = element("div", undefined, { className: "picture" });
  const image = element("img", undefined, {
    loading: "lazy", decoding: "async",
    alt: `image ${row}, ${label ? label + ", " : ""}which shows factor ${card.k} with a score of ${found.scores[i]}`,
    onload: () => image.classList.toggle("small", image.naturalWidth < 64),
  });
  image.src = data.folder ? `${data.folder}/${row}.jpg` : data.images[row];
  const canvas = element("canvas");
  canvas.setAttribute("aria-hidden", "true");
  drawMap(canvas, found.maps[i]);
  box.append(image, canvas);
  const figure = element("figure");
  const caption = element("figcaption", undefined, { title: `${label} (row ${row} of the dataset)`.trim() });
  caption.append(element("span", label), found.scores[i].toFixed(1));
  figure.append(box, caption);
  return figure;
}

function article(card, found) {
  const made = element("article", undefined, { id: `factor-${card.k}`, tabIndex: -1 });
  made.setAttribute("aria-label", `factor ${card.k}, ${card.name}`);
  const words = element("div"), heading = element("h2", card.name + " ");
  heading.append(element("small", `factor ${card.k}`));
  const facts = element("p");
  line(facts, percent(card.share, 1), `of all evidence, ${card.mean.toPrecision(2)} of a mean answer`);
  line(facts, percent(card.active, 1), "of the images show it");
  if (card.purity !== null) line(facts, percent(card.purity, 0), "of its top images are of one class");
  words.append(heading, facts, feeds(card));
  const others = card.fed - Math.min(card.classes.length, data.classesShown);
  if (others > 0) words.append(element("p", `and ${others} more ${others === 1 ? "class" : "classes"}`));
  const images = element("div", undefined, { className: "images" });
  images.append(...found.images.map((_, i) => picture(card, found, i)));
  made.append(words, images);
  return made;
}

// ---- which cards, in which order ----

const loadingOf = (card, c) => { const i = card.classes.indexOf(c); return i < 0 ? 0 : card.loadings[i]; };
const ORDERS = {
  evidence: (a, b) => a - b, // positions: the page is written in this order
  purity: (a, b) => (data.cards[b].purity ?? -1) - (data.cards[a].purity ?? -1) || a - b,
  active: (a, b) => data.cards[b].active - data.cards[a].active || a - b,
  rare: (a, b) => data.cards[a].active - data.cards[b].active || a - b,
  number: (a, b) => data.cards[a].k - data.cards[b].k,
  name: (a, b) => data.cards[a].name.localeCompare(data.cards[b].name) || a - b,
};
const texts = data.cards.map(card => [card.name, `factor ${card.k}`,
  ...card.classes.slice(0, data.classesShown).map(c => data.classes[c])].join("\n").toLowerCase());

function show() {
  const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const c = chosen.value === "" ? -1 : Number(chosen.value);
  view = data.cards.map((_, i) => i).filter(i => wanted.every(word => texts[i].includes(word))
    && (c < 0 || data.cards[i].classes.includes(c)));
  view.sort(ORDERS[order.value]);
  if (c >= 0 && order.value === "evidence") // of a class: what it leans on most
    view.sort((a, b) => loadingOf(data.cards[b], c) - loadingOf(data.cards[a], c) || a - b);
  $("count").textContent = `${view.length} of ${data.cards.length} factors`;
  main.replaceChildren();
  made = 0; round += 1; busy = false;
  grow();
}

async function grow() {
  if (busy) return;
  busy = true;
  const mine = round;
  try {
    while (mine === round && made < view.length && more.getBoundingClientRect().top < innerHeight + 600) {
      const next = view.slice(made, made + STEP);
      const found = await Promise.all(next.map(details));
      if (mine !== round) return;
      main.append(...next.map((position, i) => article(data.cards[position], found[i])));
      made += next.length;
    }
    if (mine === round) more.textContent = view.length ? "" : "No factor is called that or feeds such a class.";
  } catch (error) {
    if (mine === round) more.textContent = `${error.message}: keep the folder ${data.folder} beside this page.`;
  } finally {
    if (mine === round) busy = false;
  }
}

function step(by) {
  const cards = [...main.children], at = cards.indexOf(document.activeElement.closest("article"));
  const next = cards[at + by];
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}

new IntersectionObserver(grow, { rootMargin: "600px" }).observe(more);
$("maps").addEventListener("change", () => document.body.classList.toggle("with-maps", $("maps").checked));
$("form").addEventListener("submit", event => event.preventDefault());
search.addEventListener("input", show);
chosen.addEventListener("change", show);
order.addEventListener("change", show);
addEventListener("keydown", event => {
  if (event.target.matches("input[type=search], select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") { search.focus(); event.preventDefault(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (event.key === "m") $("maps").click();
});
show();

// What the reader sees of one answer. Names are set as text, never as markup.

import { asPercentage, ranking, spreadOf } from "./decisions.js";
import { pictureOf } from "./model.js";
import { seenPart } from "./pixels.js";

const CLASSES_SHOWN = 5;
const LONGEST = 880; // pixels of the picture
const MARKS = { sure: "●", torn: "◐", unfamiliar: "○" };

export const byId = (id) => document.getElementById(id);

/** An element with its properties and children; strings become text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const hidden = (text) => element("span", { className: "for-readers", textContent: text });
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

/** "sure", "torn" or "unfamiliar" with its mark, as a small label. */
export function verdictLabel(verdict) {
  const mark = element("span", { ariaHidden: "true", textContent: MARKS[verdict] });
  const word = element("span", { textContent: verdict });
  return element("span", { className: `verdict ${verdict}` }, mark, word);
}

/** Answer, verdict and reason in large type; the whole sentence for screen readers. */
export function showSentence(facts, row) {
  const { answer, decided } = row;
  byId("spoken").textContent = `${row.name}: ${decided.sentence}.`;
  const label = element("span", { className: "label", textContent: facts.labels[decided.top] });
  const share = element("span", { className: "share", textContent: asPercentage(answer.probs[decided.top]) });
  byId("headline").replaceChildren(label, " ", share);
  const reason = byId("reason");
  reason.hidden = !decided.verdict;
  if (decided.verdict) {
    // A class keeps its spelling: "Either cat (61 %) or dog (33 %); ...".
    const isSet = decided.verdict === "torn" && decided.set?.length > 1 && facts.verdict.coverage !== null;
    const { reason: why } = decided;
    const words = element("span", { textContent: `${isSet ? `Either ${why}` : why[0].toUpperCase() + why.slice(1)}.` });
    reason.replaceChildren(verdictLabel(decided.verdict), words);
  }
}

/** The most probable classes, each with the range of nine draws in ten. */
export function showProbabilities(facts, row) {
  const { answer, decided } = row;
  const order = ranking(answer.probs);
  const set = decided.verdict === "sure" ? null : decided.set; // sets are promised for answers that are not sure
  const shown = order.slice(0, Math.min(order.length, Math.max(CLASSES_SHOWN, Math.min(set?.length ?? 0, 8))));
  const ranges = spreadOf(answer, facts, shown);
  const rows = shown.map((c, i) => {
    const [low, high] = ranges[i];
    const bar = element("span", { className: "bar" });
    bar.style.width = `${100 * answer.probs[c]}%`;
    const range = element("span", { className: "range" });
    range.style.left = `${100 * low}%`;
    range.style.width = `${100 * (high - low)}%`;
    const track = element("span", { className: "track", ariaHidden: "true" }, bar, range);
    track.title = `nine draws in ten lie between ${asPercentage(low)} and ${asPercentage(high)}`;
    const inSet = Boolean(set?.includes(c));
    const spoken = `, between ${asPercentage(low)} and ${asPercentage(high)}${inSet ? ", in the set" : ""}`;
    const name = element("span", { className: "name", textContent: facts.labels[c], title: facts.labels[c] });
    const value = element("span", { className: "value", textContent: asPercentage(answer.probs[c]) }, hidden(spoken));
    return element("li", { className: inSet ? "in-set" : "" }, name, track, value);
  });
  byId("probabilities").replaceChildren(...rows);
  const covered = set ? ` Bold names make the set: ${asPercentage(facts.conformal.coverage)} of such sets hold the right class.` : "";
  byId("probabilities-note").textContent = `Nine draws in ten of the model put a probability within its fine line.${covered}`;
}

const sheets = new Map(); // name of a sheet -> promise of its address

function sheetAddress(name) {
  if (!sheets.has(name)) sheets.set(name, pictureOf(name).then((picture) => URL.createObjectURL(picture)));
  return sheets.get(name);
}

/** Up to three small pictures of what shows a factor most. */
function thumbnails(facts, factor) {
  const strip = element("span", { className: "thumbnails", ariaHidden: "true" });
  const found = facts.thumbnails?.places[factor];
  if (!found) return strip;
  const [sheet, rowOnSheet, count] = found;
  const size = facts.thumbnails.size;
  sheetAddress(facts.thumbnails.sheets[sheet]).then((address) => {
    for (let i = 0; i < count; i++) {
      const picture = element("span", { className: "thumbnail" });
      picture.style.width = picture.style.height = `${size}px`;
      picture.style.backgroundImage = `url("${address}")`;
      picture.style.backgroundPosition = `-${i * size}px -${rowOnSheet * size}px`;
      strip.append(picture);
    }
  });
  return strip;
}

/** The parts that add up to the score of the answer. */
export function showParts(facts, row) {
  const { answer, decided } = row;
  const total = answer.contributions.reduce((sum, value) => sum + value, answer.rest + answer.bias);
  const [least, most] = [Math.min(0, ...answer.contributions), Math.max(0, ...answer.contributions)];
  const scale = 100 / (most - least || 1);
  const line = (start, track, value) => {
    return element("li", {}, start, track, element("span", { className: "value", textContent: signed(value) }));
  };
  const rows = answer.factors.map((factor, i) => {
    const value = answer.contributions[i];
    const bar = element("span", { className: value < 0 ? "bar against" : "bar" });
    bar.style.left = `${scale * (Math.min(0, value) - least)}%`;
    bar.style.width = `${scale * Math.abs(value)}%`;
    const track = element("span", { className: "track", ariaHidden: "true" }, bar);
    const name = facts.factors[factor];
    const words = element("span", { className: "name", textContent: name, title: `factor ${factor}: ${name}` });
    const pictures = facts.thumbnails ? [thumbnails(facts, factor)] : [];
    return line(element("span", { className: "start" }, ...pictures, words), track, value);
  });
  // Sums of many parts, which would dwarf the bars of single ones: numbers alone.
  for (const [name, value] of [["all other parts", answer.rest], ["bias", answer.bias]]) {
    rows.push(line(element("span", { className: "name sum", textContent: name }), element("span", { className: "no-track" }), value));
  }
  byId("parts").replaceChildren(...rows);
  byId("parts-note").textContent =
    `Together they make the score of ${facts.labels[decided.top]}, ${signed(total)}. ` +
    `Uncertainty: ${answer.total.toFixed(3)} nats, of which ${answer.epistemic.toFixed(3)} come from the model's weights.`;
}

/** What the model sees, and over it where the evidence lies. */
export function showImage(facts, row) {
  const picture = seenPart(row.bitmap, facts.recipe, LONGEST);
  const canvas = byId("picture");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  canvas.setAttribute("aria-label", `${row.name}, as the model sees it`);
  byId("caption").textContent = row.name;
  byId("map-toggle").hidden = !row.answer.map;
  const overlay = byId("map");
  [overlay.width, overlay.height] = [picture.width, picture.height];
  if (row.answer.map) drawMap(overlay, row.answer.map);
}

/** Evidence for the answer in warm colour, evidence against it in cold; smoothed between positions. */
function drawMap(overlay, { values, width, height }) {
  const largest = Math.max(...Array.from(values, Math.abs)) || 1;
  const small = element("canvas", { width, height });
  const context = small.getContext("2d");
  const pixels = context.createImageData(width, height);
  values.forEach((value, i) => {
    const strength = Math.abs(value) / largest;
    pixels.data.set([...(value >= 0 ? [255, 122, 24] : [40, 120, 255]), 255 * 0.75 * strength ** 1.5], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  const target = overlay.getContext("2d");
  target.imageSmoothingQuality = "high";
  target.clearRect(0, 0, overlay.width, overlay.height);
  target.drawImage(small, 0, 0, overlay.width, overlay.height);
}

// Puts the page together: what is chosen goes through the model, one image after the other, and is shown.

import { csvOf, showTable } from "./batch.js";
import { asPercentage, decide, shareAnswered, thresholdAt } from "./decisions.js";
import { loadModel, pictureOf } from "./model.js";
import { decode, ImageProblem, seenPart } from "./pixels.js";
import { byId, element, showImage, showParts, showProbabilities, showSentence } from "./view.js";

const facts = JSON.parse(byId("facts").textContent);
const RISKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3];
const PREVIEW = 72; // pixels
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 1000 ? 2 : 1)} s`;

let risk = facts.verdict?.risk ?? null;
let rows = [];
let current = null;
let firstAnswer = null;
let asking = 0; // counts what was chosen; an older choice stops when a newer one begins

const loading = loadModel(facts);
loading.then(
  () => {
    document.documentElement.dataset.ready = Math.round(performance.now());
    showStatus("");
    showMeasured();
  },
  (error) => showStatus(cannotLoad(error)),
);

function cannotLoad(error) {
  if (location.protocol === "file:" && !byId("file:model.onnx.gz")) {
    return "A browser opens this page from a web server only: run “python -m http.server” in its folder, or export it as a single file.";
  }
  return `The model could not be loaded: ${error.message}. Reload the page; this browser may also be too old.`;
}

function showStatus(text) {
  byId("status").textContent = text;
  byId("status").hidden = !text;
}

function showProblem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function showMeasured() {
  const parts = [facts.size_words, `ready in ${seconds(Number(document.documentElement.dataset.ready))}`];
  if (firstAnswer !== null) parts.push(`first answer in ${seconds(firstAnswer)}`);
  byId("measured").textContent = `${parts.join(" · ")}.`;
}

/** Show one image's answer; its bitmap is decoded again, so that a table of many images stays small. */
async function choose(row, bitmap = null) {
  row.bitmap = bitmap ?? (await decode(row.file));
  if (current && current !== row) {
    current.bitmap?.close();
    current.bitmap = null;
  }
  current = row;
  byId("answer").hidden = false;
  byId("waiting").hidden = true;
  byId("stage").hidden = false;
  showImage(facts, row);
  showDecided();
}

/** Everything that changes with the accepted risk. */
function showDecided() {
  for (const row of rows) if (row.answer) row.decided = decide(row.answer, facts, risk);
  if (current) {
    showSentence(facts, current);
    showProbabilities(facts, current);
    showParts(facts, current);
  }
  showTable(rows, facts, current, choose);
}

/** Answer files in turn; the first that can be read is shown. */
async function ask(files) {
  const mine = ++asking;
  showProblem("");
  rows = [];
  let isShown = false;
  const model = await loading.catch(() => null);
  for (const [number, file] of files.entries()) {
    if (!model || mine !== asking) return;
    if (files.length > 1) showStatus(`Image ${number + 1} of ${files.length} …`);
    const row = { name: file.name || "Pasted image", file };
    const from = performance.now();
    let bitmap = null;
    try {
      bitmap = await decode(file);
      row.answer = await model.answer(bitmap);
      if (mine !== asking) return;
      if (firstAnswer === null) document.documentElement.dataset.firstAnswer = firstAnswer = performance.now() - from;
      row.decided = decide(row.answer, facts, risk);
      row.preview = files.length > 1 ? seenPart(bitmap, facts.recipe, PREVIEW) : null;
      row.preview?.setAttribute("aria-hidden", "true");
    } catch (error) {
      row.problem = error instanceof ImageProblem ? error.message : `${row.name} could not be answered: ${error.message}`;
    }
    rows.push(row);
    if (row.answer && !isShown) {
      isShown = true;
      await choose(row, bitmap);
    } else {
      bitmap?.close();
    }
    if (number % 8 === 7) showTable(rows, facts, current, choose);
  }
  const problems = rows.filter((row) => row.problem);
  if (problems.length) showProblem(files.length === 1 ? problems[0].problem : `${problems.length} of ${files.length} images could not be read; the table says why.`);
  showStatus("");
  showTable(rows, facts, current, choose);
  showMeasured();
  document.documentElement.dataset.asked = String(mine);
}

function setUpChoosing() {
  const input = byId("file");
  input.addEventListener("change", () => {
    if (input.files.length) ask([...input.files]);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) ask(files);
  });
  const zone = document.body;
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("dropping");
  });
  zone.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("dropping");
  });
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("dropping");
    const files = [...event.dataTransfer.files];
    if (files.length) ask(files);
    else showProblem("That was not a file. Save the image first, then drop the file here.");
  });
}

async function setUpExamples() {
  byId("examples-part").hidden = !facts.examples.length;
  const files = await Promise.all(
    facts.examples.map(async ({ name, file }) => {
      const picture = await pictureOf(file);
      return new File([picture], name, { type: picture.type });
    }),
  );
  const buttons = files.map((file) => {
    const image = element("img", { src: URL.createObjectURL(file), alt: "" });
    const button = element("button", { type: "button", className: "example", title: file.name }, image);
    button.setAttribute("aria-label", `Example: ${file.name}`);
    button.addEventListener("click", () => ask([file]));
    return element("li", {}, button);
  });
  byId("examples").replaceChildren(...buttons);
  if (files.length && !asking) ask([files[0]]);
}

/** The risks the stored curve can hold, and the one that was promised. */
function setUpRisk() {
  const rule = facts.verdict;
  if (!rule?.risk_curve.length) return;
  const risks = [...new Set([...RISKS, rule.risk])].sort((a, b) => a - b);
  const offered = risks.filter((value) => value === rule.risk || thresholdAt(rule, value) !== null);
  const slider = byId("risk");
  byId("risk-part").hidden = offered.length < 2;
  slider.max = offered.length - 1;
  slider.value = offered.indexOf(rule.risk);
  const show = () => {
    risk = offered[Number(slider.value)];
    const threshold = thresholdAt(rule, risk);
    const share = shareAnswered(rule, threshold);
    byId("risk-value").textContent = asPercentage(risk);
    slider.setAttribute("aria-valuetext", `at most ${asPercentage(risk)} errors`);
    const promise = `with ${asPercentage(1 - rule.delta)} confidence, from ${rule.num_held_out.toLocaleString("en")} images`;
    byId("risk-note").textContent =
      threshold === null
        ? `Too few images were checked to promise this: no answer is sure.`
        : `Sure from a probability of ${asPercentage(threshold)} on${share === null ? "" : `; ${asPercentage(share)} of familiar images get a sure answer`} (${promise}).`;
    showDecided();
  };
  slider.addEventListener("input", show);
  show();
}

function setUpMap() {
  const toggle = byId("map-toggle");
  toggle.addEventListener("click", () => {
    const isOn = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(isOn));
    byId("map").hidden = !isOn;
    byId("map-note").hidden = !isOn;
  });
}

function setUpCsv() {
  byId("csv").addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([csvOf(rows, facts)], { type: "text/csv;charset=utf-8" }));
    element("a", { href: address, download: "answers.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  });
}

setUpChoosing();
setUpRisk();
setUpMap();
setUpCsv();
setUpExamples();

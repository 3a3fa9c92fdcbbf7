// Several images at once: a table that sorts, and a CSV file of it.

import { asPercentage } from "./decisions.js";
import { byId, element, verdictLabel } from "./view.js";

const DOUBT = { unfamiliar: 2, torn: 1, sure: 0 };
const probabilityOf = (row) => row.answer.probs[row.decided.top];

/** Larger for what a person should look at first: unreadable, unfamiliar, torn, then the least probable answer. */
function doubt(row) {
  return row.problem ? 4 : (DOUBT[row.decided.verdict] ?? 0) + 1 - probabilityOf(row);
}

// Title, what it sorts by, and whether the largest comes first.
const COLUMNS = {
  image: ["Image", (row) => row.name.toLowerCase(), false],
  answer: ["Answer", (row, facts) => (row.problem ? "" : facts.labels[row.decided.top].toLowerCase()), false],
  probability: ["Probability", (row) => (row.problem ? 2 : probabilityOf(row)), false],
  doubt: ["Doubt", doubt, true],
};

let sorting = { column: "doubt", descending: true };

/** The rows in the order of the table. */
function sorted(rows, facts) {
  const [, key] = COLUMNS[sorting.column];
  const sign = sorting.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [key(a, facts), key(b, facts)];
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  });
}

/** Draw the table; `choose(row)` shows one of its images. */
export function showTable(rows, facts, current, choose) {
  byId("batch").hidden = rows.length < 2;
  const again = () => showTable(rows, facts, current, choose);
  const heads = Object.entries(COLUMNS).map(([column, [title, , largestFirst]]) => {
    const isSorted = sorting.column === column;
    const arrow = isSorted ? (sorting.descending ? " ↓" : " ↑") : "";
    const button = element("button", { type: "button", textContent: title + arrow });
    button.addEventListener("click", () => {
      sorting = { column, descending: isSorted ? !sorting.descending : largestFirst };
      again();
      byId("table").querySelector(`[data-column=${column}] button`).focus();
    });
    const head = element("th", { scope: "col" }, button);
    head.dataset.column = column;
    if (isSorted) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
    return head;
  });
  const body = sorted(rows, facts).map((row) => {
    const cells = row.problem
      ? [element("td", { colSpan: 3, className: "problem", textContent: row.problem })]
      : [
          element("td", { textContent: facts.labels[row.decided.top] }),
          element("td", { className: "number", textContent: asPercentage(probabilityOf(row)) }),
          element("td", {}, row.decided.verdict ? verdictLabel(row.decided.verdict) : `${row.answer.total.toFixed(2)} nats`),
        ];
    const name = element("button", { type: "button", className: "row-name", textContent: row.name, title: row.name });
    name.disabled = Boolean(row.problem);
    name.addEventListener("click", () => choose(row));
    const picture = row.preview ?? element("span", { className: "no-preview" });
    const first = element("th", { scope: "row" }, element("span", { className: "row-image" }, picture, name));
    return element("tr", { className: row === current ? "current" : "" }, first, ...cells);
  });
  const table = byId("table");
  table.tHead.replaceChildren(element("tr", {}, ...heads));
  table.tBodies[0].replaceChildren(...body);
}

/** One cell: quoted where it must be, and never a formula of a spreadsheet. */
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Everything in the table as CSV, in its order, with full precision. */
export function csvOf(rows, facts) {
  const names = "image,answer,probability,verdict,reason,set,total_nats,aleatoric_nats,epistemic_nats,problem";
  const lines = sorted(rows, facts).map((row) => {
    if (row.problem) return [row.name, ...Array(8).fill(""), row.problem];
    const { answer, decided } = row;
    const set = decided.set ? decided.set.map((c) => facts.labels[c]).join("; ") : "";
    const uncertainty = [answer.total, answer.aleatoric, answer.epistemic];
    const said = [facts.labels[decided.top], probabilityOf(row), decided.verdict, decided.reason, set];
    return [row.name, ...said, ...uncertainty, ""];
  });
  return [names, ...lines.map((line) => line.map(cell).join(","))].join("\r\n") + "\r\n";
}

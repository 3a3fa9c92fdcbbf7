// From probabilities to a verdict and a sentence; what verdicts.py and prediction_sets.py do in Python.

const NAMED = 3; // classes a sentence names before it counts the others
const DRAWS = 400;

/** "98 %", "99.2 %", "> 99.9 %", "< 0.1 %": never a certain 0 or 100. */
export function asPercentage(value) {
  const percent = 100 * value;
  if (percent < 0.1) return "< 0.1 %";
  if (percent > 99.9) return "> 99.9 %";
  const digits = Math.min(percent, 100 - percent) < 1.95 ? 1 : 0;
  return `${rounded(percent, digits).replace(/\.0$/, "")} %`;
}

/** Decimal digits as Python writes them: a number half-way between two goes to the even one. */
function rounded(value, digits) {
  const halves = value * (digits ? 4 : 2); // half-way and exact in binary: x.5, or x.25 and x.75
  if (!Number.isInteger(halves) || halves % 2 === 0) return value.toFixed(digits);
  const below = Math.floor(value * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}

/** "cat or dog"; beyond three classes "cat, dog, owl or 4 others". */
function listed(names) {
  if (names.length > NAMED + 1) return `${names.slice(0, NAMED).join(", ")} or ${names.length - NAMED} others`;
  return names.length === 1 ? names[0] : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** Classes, most probable first; of equal ones the first. */
export function ranking(probs) {
  return Array.from(probs.keys()).sort((a, b) => probs[b] - probs[a] || a - b);
}

/** Classes of the prediction set, most probable first; null without sets. */
export function predictionSet(probs, conformal) {
  if (!conformal) return null;
  const order = ranking(probs);
  const u = conformal.randomized ? Math.random() : 0;
  const thresholdOf = (c) => (Array.isArray(conformal.threshold) ? conformal.threshold[c] : conformal.threshold);
  let before = 0;
  return order.filter((c, rank) => {
    let score = conformal.method === "lac" ? 1 - probs[c] : before + u * probs[c];
    if (conformal.method === "raps") score += conformal.penalty * Math.max(0, rank + 1 - conformal.free_ranks);
    before += probs[c];
    return score <= thresholdOf(c) || (rank === 0 && !conformal.allow_empty);
  });
}

/** The least threshold of the stored curve that holds `risk`; null where no image could be answered at it. */
export function thresholdAt(rule, risk) {
  if (risk === rule.risk) return rule.threshold;
  const held = rule.risk_curve.filter((point) => point[1] <= risk).map((point) => point[0]);
  return held.length ? Math.min(...held) : null;
}

/** Share of held-out images answered from a threshold on; null where the curve does not say. */
export function shareAnswered(rule, threshold) {
  if (threshold === null) return 0;
  const shares = rule.risk_curve.filter((point) => point[0] <= threshold).map((point) => point[2]);
  return shares.length ? Math.min(...shares) : null;
}

/** "sure", "torn" or "unfamiliar"; null where nothing was fitted. */
export function verdictOf(probs, fisherStatistic, rule, threshold) {
  if (!rule) return null;
  if (rule.unfamiliar_above !== null && fisherStatistic > rule.unfamiliar_above) return "unfamiliar";
  return threshold !== null && Math.max(...probs) >= threshold ? "sure" : "torn";
}

/** Why an answer has its verdict, in words that follow it. */
export function reasonOf(verdict, rule, names, risk, threshold) {
  if (!verdict) return "";
  if (verdict === "sure") return `at most ${asPercentage(risk)} of answers this sure are wrong`;
  if (verdict === "unfamiliar") return `unlike ${asPercentage(rule.familiar)} of the images it was checked on`;
  if (names.length && rule.coverage !== null) {
    if (names.length === 1) return `too unsure to promise ${asPercentage(risk)} errors`;
    return `${listed(names)}; ${asPercentage(rule.coverage)} of such sets hold the right class`;
  }
  if (threshold === null) return `too few images were checked to promise ${asPercentage(risk)} errors`;
  return `too unsure to promise ${asPercentage(risk)} errors`;
}

/** Everything that is decided about one answer of the graph, at an accepted risk. */
export function decide(answer, facts, risk) {
  const rule = facts.verdict;
  const { probs } = answer;
  const threshold = rule ? thresholdAt(rule, risk) : null;
  const verdict = verdictOf(probs, answer.fisher, rule, threshold);
  const set = predictionSet(probs, facts.conformal);
  const names = (set ?? []).map((c) => `${facts.labels[c]} (${asPercentage(probs[c])})`);
  const reason = reasonOf(verdict, rule, names, risk, threshold);
  const top = ranking(probs)[0];
  const answered = `${facts.labels[top]}, ${asPercentage(probs[top])}`;
  const sentence = verdict ? `${answered}: ${verdict}, ${reason}` : answered;
  return { top, verdict, set, reason, sentence };
}

/** Numbers in [0, 1) that are the same for every visitor. */
function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Where nine of ten draws of a probability lie, for the classes asked for: [[5 %, 95 %], ...]. The logits are drawn as
 * independent normals of the model's mean and variance, recalibrated; what they share is left out.
 */
export function spreadOf(answer, facts, classes) {
  const uniform = randomNumbers(1);
  const C = answer.mean.length;
  const spread = Array.from(answer.variance, (v) => Math.sqrt(facts.variance_scale * v));
  const drawn = classes.map(() => []);
  const logits = new Float64Array(C);
  for (let draw = 0; draw < DRAWS; draw++) {
    let largest = -Infinity;
    for (let c = 0; c < C; c++) {
      const normal = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
      logits[c] = (answer.mean[c] + spread[c] * normal) / facts.temperature;
      largest = Math.max(largest, logits[c]);
    }
    let sum = 0;
    for (let c = 0; c < C; c++) sum += logits[c] = Math.exp(logits[c] - largest);
    classes.forEach((c, i) => drawn[i].push(logits[c] / sum));
  }
  return drawn.map((values) => {
    values.sort((a, b) => a - b);
    return [values[Math.floor(0.05 * DRAWS)], values[Math.ceil(0.95 * DRAWS) - 1]];
  });
}

// The files of the page, wherever they lie, and the model in onnxruntime-web.

import { pixelValues } from "./pixels.js";

const MODULE = "ort.wasm.bundle.min.mjs";
const BINARY = "ort-wasm-simd-threaded.wasm";

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Bytes of one of the page's files: inside the page, beside it, or at a pinned address whose hash the browser checks. */
async function bytesOf(name, facts) {
  const remote = facts.remote?.[name];
  if (remote) {
    const answer = await fetch(remote.url, { integrity: remote.integrity, credentials: "omit" });
    if (!answer.ok) throw new Error(`${remote.url} answered ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  }
  const stored = facts.files[name];
  const inside = document.getElementById(`file:${stored}`);
  let packed;
  if (inside) {
    packed = new Blob([fromBase64(inside.textContent)]);
    inside.remove(); // its text is not needed twice in memory
  } else {
    const answer = await fetch(stored);
    if (!answer.ok) throw new Error(`${stored} is missing (${answer.status})`);
    packed = await answer.blob();
  }
  const start = new Uint8Array(await packed.slice(0, 2).arrayBuffer());
  const isPacked = start[0] === 0x1f && start[1] === 0x8b; // some servers have the browser unpack .gz files
  if (!isPacked) return new Uint8Array(await packed.arrayBuffer());
  const unpacked = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

/** The runtime's code: from its file where it lies beside the page, which needs no permission for blobs. */
async function importRuntime(facts) {
  const beside = facts.files[MODULE];
  if (beside && !document.getElementById(`file:${beside}`)) return import(new URL(beside, document.baseURI).href);
  const address = URL.createObjectURL(new Blob([await bytesOf(MODULE, facts)], { type: "text/javascript" }));
  try {
    return await import(address);
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** A picture of the page (an example, a sheet of thumbnails), inside it or beside it. */
export async function pictureOf(name) {
  const inside = document.getElementById(`file:${name}`);
  const type = `image/${name.split(".").pop()}`;
  if (inside) return new Blob([fromBase64(inside.textContent)], { type });
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing (${answer.status})`);
  return new Blob([await answer.arrayBuffer()], { type });
}

/** The model, warmed up once with zeros: `answer(bitmap)` is everything the graph says of an image. */
export async function loadModel(facts) {
  const [ort, binary, graph] = await Promise.all([
    importRuntime(facts),
    bytesOf(BINARY, facts),
    bytesOf("model.onnx", facts),
  ]);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // threads need headers that a plain server does not send
  ort.env.wasm.wasmBinary = binary.buffer;
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const [height, width] = facts.image_size;
  const shape = [1, 3, height, width];
  let turn = Promise.resolve(); // the session answers one image at a time

  async function run(values) {
    const pixels = new ort.Tensor("float32", values, shape);
    const found = await session.run({ pixel_values: pixels });
    pixels.dispose();
    return found;
  }

  await run(new Float32Array(3 * height * width));
  return {
    answer(bitmap) {
      const values = pixelValues(bitmap, facts.recipe);
      const next = turn.then(() => run(values)).then(plainAnswer);
      turn = next.catch(() => undefined);
      return next;
    },
  };
}

function plainAnswer(found) {
  const numbers = (name) => (found[name] ? Float64Array.from(found[name].data, Number) : null);
  const one = (name) => (found[name] ? Number(found[name].data[0]) : null);
  const map = found.class_map;
  const answer = {
    probs: numbers("probs"),
    mean: numbers("logits_mean"),
    variance: numbers("logits_variance"),
    total: one("total"),
    aleatoric: one("aleatoric"),
    epistemic: one("epistemic"),
    fisher: one("fisher_statistic"),
    factors: Array.from(numbers("factors")),
    contributions: Array.from(numbers("contributions")),
    rest: one("rest"),
    bias: one("bias"),
    map: map ? { values: numbers("class_map"), height: map.dims[1], width: map.dims[2] } : null,
  };
  Object.values(found).forEach((tensor) => tensor.dispose());
  return answer;
}

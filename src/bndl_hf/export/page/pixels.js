// From a file to what the model reads: looked at, decoded, resized, cropped, normalised.

import { resize } from "./resize.js";

const MEGAPIXELS = 64; // larger images are refused: decoded, one takes 4 bytes a pixel
const ascii = (bytes, from, length) => String.fromCharCode(...bytes.subarray(from, from + length));

/** A sentence for the reader; anything else that is thrown is a mistake of the page. */
export class ImageProblem extends Error {}

/** What kind of image the bytes are, and its size where the header says so. */
export function lookAt(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length > 24 && ascii(bytes, 1, 3) === "PNG" && bytes[0] === 0x89) {
    return { kind: "PNG", width: view.getUint32(16), height: view.getUint32(20), whole: contains(bytes, "IEND") };
  }
  if (bytes.length > 10 && ascii(bytes, 0, 4) === "GIF8") {
    const [width, height] = [view.getUint16(6, true), view.getUint16(8, true)];
    return { kind: "GIF", width, height, whole: contains(bytes, ";") };
  }
  if (bytes.length > 4 && bytes[0] === 0xff && bytes[1] === 0xd8) return lookAtJpeg(bytes, view);
  if (bytes.length > 30 && ascii(bytes, 0, 4) === "RIFF" && ascii(bytes, 8, 4) === "WEBP") {
    const found = { kind: "WebP", whole: bytes.length >= view.getUint32(4, true) + 8 };
    if (ascii(bytes, 12, 4) !== "VP8X") return found; // at most 16383 x 16383; the decoded size is looked at later
    const side = (at) => 1 + bytes[at] + (bytes[at + 1] << 8) + (bytes[at + 2] << 16);
    return { ...found, width: side(24), height: side(27) };
  }
  if (bytes.length > 26 && ascii(bytes, 0, 2) === "BM") {
    const found = { kind: "BMP", width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) };
    return { ...found, whole: bytes.length >= view.getUint32(2, true) };
  }
  if (bytes.length > 16 && ascii(bytes, 4, 4) === "ftyp" && ascii(bytes, 8, 4).startsWith("avi")) {
    return { kind: "AVIF", whole: true };
  }
  return null;
}

function lookAtJpeg(bytes, view) {
  let at = 2;
  while (at + 9 < bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const [height, width] = [view.getUint16(at + 5), view.getUint16(at + 7)];
      return { kind: "JPEG", width, height, whole: contains(bytes.subarray(at), "\xff\xd9") };
    }
    at += marker === 0xff ? 1 : 2 + view.getUint16(at + 2);
  }
  return { kind: "JPEG", whole: false };
}

/** Whether the bytes hold a text, sought from their end, where it belongs. */
function contains(bytes, text) {
  for (let at = bytes.length - text.length; at >= 0; at--) {
    if (bytes[at] === text.charCodeAt(0) && ascii(bytes, at, text.length) === text) return true;
  }
  return false;
}

/** The file as an ImageBitmap: upright, colours as stored. */
export async function decode(file) {
  const name = file.name || "The image";
  if (file.size === 0) throw new ImageProblem(`${name} is empty: it has 0 bytes.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const found = lookAt(bytes);
  if (found === null) {
    throw new ImageProblem(`${name} is not an image this page reads. Choose a PNG, JPEG, WebP, GIF, BMP or AVIF file.`);
  }
  checkSize(name, found);
  if (!found.whole) throw new ImageProblem(`${name} is cut off: the end of the ${found.kind} file is missing.`);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  let bitmap;
  try {
    const blob = new Blob([bytes], { type: `image/${found.kind.toLowerCase()}` });
    bitmap = await createImageBitmap(blob, options);
  } catch {
    throw new ImageProblem(`${name} cannot be read: the ${found.kind} file is damaged.`);
  }
  checkSize(name, bitmap);
  return bitmap;
}

function checkSize(name, { width, height }) {
  if (width * height > MEGAPIXELS * 1e6) {
    const millions = Math.round((width * height) / 1e6);
    throw new ImageProblem(`${name} has ${width} × ${height} pixels, ${millions} million; this page reads up to ${MEGAPIXELS} million.`);
  }
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
}

/** Size after the resize, and where the crop lies in it. */
export function geometry(recipe, width, height) {
  let [newWidth, newHeight] = [width, height];
  if (recipe.resize?.shortest_edge) {
    const edge = recipe.resize.shortest_edge;
    const longest = Math.trunc((edge * Math.max(width, height)) / Math.min(width, height));
    [newWidth, newHeight] = width <= height ? [edge, longest] : [longest, edge];
  } else if (recipe.resize) {
    [newWidth, newHeight] = [recipe.resize.width, recipe.resize.height];
  }
  const crop = recipe.crop ?? { width: newWidth, height: newHeight };
  return {
    width: newWidth,
    height: newHeight,
    left: Math.floor((newWidth - crop.width) / 2),
    top: Math.floor((newHeight - crop.height) / 2),
    cropWidth: crop.width,
    cropHeight: crop.height,
  };
}

/** Pixel values [3, height, width] of a bitmap, float32, by the recipe of the model's image processor. */
export function pixelValues(bitmap, recipe) {
  const place = geometry(recipe, bitmap.width, bitmap.height);
  if (place.width * place.height > MEGAPIXELS * 1e6) {
    throw new ImageProblem(`The image has ${bitmap.width} × ${bitmap.height} pixels: it is too narrow for this model.`);
  }
  const context = canvasOf(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  let image = context.getImageData(0, 0, bitmap.width, bitmap.height);
  if (recipe.resize) image = resize(image, place.width, place.height, recipe.filter);
  const plane = place.cropWidth * place.cropHeight;
  const values = new Float32Array(3 * plane);
  for (let channel = 0; channel < 3; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, byte) => {
      return (byte * recipe.scale - recipe.mean[channel]) / recipe.std[channel];
    });
    for (let y = 0; y < place.cropHeight; y++) {
      for (let x = 0; x < place.cropWidth; x++) {
        const at = ((y + place.top) * image.width + x + place.left) * 4 + channel;
        values[channel * plane + y * place.cropWidth + x] = table[image.data[at]];
      }
    }
  }
  return values;
}

/** The part of the image that the model sees, on a canvas of at most `longest` pixels. */
export function seenPart(bitmap, recipe, longest) {
  const place = geometry(recipe, bitmap.width, bitmap.height);
  const [x, y] = [bitmap.width / place.width, bitmap.height / place.height];
  const [width, height] = [place.cropWidth * x, place.cropHeight * y];
  const scale = longest / Math.max(width, height);
  const canvas = canvasOf(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 2; // a digit of 8 pixels stays 8 pixels
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, place.left * x, place.top * y, width, height, 0, 0, canvas.width, canvas.height);
  return canvas;
}

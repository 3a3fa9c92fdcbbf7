// Pillow's resize of 8-bit images, byte for byte: two passes, weights rounded to 22-bit fixed point.

const PRECISION = 22; // bits

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// Support in pixels and weight by distance, under the names of Python's recipe.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, bicubic],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** First pixel and fixed-point weights of every output pixel along one axis. */
function weightsAlong(from, to, filter) {
  const [support, weight] = FILTERS[filter];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = [];
    let sum = 0;
    for (let x = start; x < end; x++) {
      weights.push(weight((x - centre + 0.5) * (1 / stretch)));
      sum += weights[weights.length - 1];
    }
    const fixed = weights.map((w) => {
      const share = sum === 0 ? w : w / sum;
      return Math.trunc(share * (1 << PRECISION) + (share < 0 ? -0.5 : 0.5));
    });
    return { start, fixed };
  });
}

/** One pass: lines of `count` pixels; `step` is between pixels of a line and `stride` between lines, in bytes. */
function pass(source, target, columns, lines, [step, stride], [newStep, newStride]) {
  for (let i = 0; i < columns.length; i++) {
    const { start, fixed } = columns[i];
    for (let line = 0; line < lines; line++) {
      const base = line * stride + start * step;
      let red = 1 << (PRECISION - 1), green = red, blue = red;
      for (let j = 0, at = base; j < fixed.length; j++, at += step) {
        red += source[at] * fixed[j];
        green += source[at + 1] * fixed[j];
        blue += source[at + 2] * fixed[j];
      }
      const to = line * newStride + i * newStep;
      target[to] = red >> PRECISION; // Uint8ClampedArray clips
      target[to + 1] = green >> PRECISION;
      target[to + 2] = blue >> PRECISION;
      target[to + 3] = 255;
    }
  }
}

/** RGBA pixels [height, width, 4] at another size; alpha becomes opaque. No pass along an axis that stays. */
export function resize(image, width, height, filter) {
  if (image.height > image.width * 100 && height < image.height && width !== image.width) {
    image = resize(image, image.width, height, filter); // Pillow shrinks such columns first
  }
  let { data } = image;
  if (width !== image.width) {
    const target = new Uint8ClampedArray(width * image.height * 4);
    const columns = weightsAlong(image.width, width, filter);
    pass(data, target, columns, image.height, [4, image.width * 4], [4, width * 4]);
    data = target;
  }
  if (height !== image.height) {
    const target = new Uint8ClampedArray(width * height * 4);
    pass(data, target, weightsAlong(image.height, height, filter), width, [width * 4, 4], [width * 4, 4]);
    data = target;
  }
  return { data, width, height };
}

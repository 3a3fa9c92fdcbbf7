"""The corruptions of Hendrycks and Dietterich (2019, arXiv:1903.12261) for images of 32 pixels: shift.py reads them.

Eighteen of the nineteen, at the five severities that were published for CIFAR-10-C; the parameters of ImageNet-C, which
the packages on the index apply, are made for 224 pixels and leave little of a small image. Only NumPy, SciPy and Pillow
are needed. A function takes an image [H, W, 3] in [0, 1], one entry of its severities and a generator, and may leave
that range: `corrupt` clips and rounds.

Departures: no frost, which is made from photographs of frost; zooms and warps are interpolated once, about the centre;
drops of water are lit evenly, not by the relief of their edges.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

_GREY = np.array([0.299, 0.587, 0.114])
_WATER = np.array([175, 238, 238]) / 255  # pale turquoise
_MUD = np.array([63, 42, 20]) / 255
SEVERITIES = 5


def corrupt(image: Image.Image, name: str, severity: int, generator: Generator) -> Image.Image:
    """An RGB image after one corruption; severity 0 is the image as it is.

    Args:
        image: of any size; the parameters are meant for 32 x 32 pixels.
        name: a key of `CORRUPTIONS`.
        severity: 0 to 5.
        generator: of what is random.

    Raises:
        ValueError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption {name!r} is unknown; corruptions are {', '.join(CORRUPTIONS)}.")
    if severity not in range(SEVERITIES + 1):
        raise ValueError(f"severity={severity} is unknown; 0 (clean) to {SEVERITIES} fit.")
    if severity == 0:
        return image
    function, parameters = CORRUPTIONS[name]
    pixels = function(np.asarray(image.convert("RGB")) / 255, parameters[severity - 1], generator)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


# ---- noise ----


def gaussian_noise(x: np.ndarray, scale: float, generator: Generator) -> np.ndarray:
    """Normal noise of standard deviation `scale`."""
    return x + generator.normal(scale=scale, size=x.shape)


def shot_noise(x: np.ndarray, photons: float, generator: Generator) -> np.ndarray:
    """Poisson counts, `photons` for a white pixel: mean x, variance x / photons."""
    return generator.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, share: float, generator: Generator) -> np.ndarray:
    """A share of the values becomes 0 or 1, with equal chances."""
    hit, white = generator.random(x.shape) < share, generator.random(x.shape) < 0.5
    return np.where(hit, white, x)


def speckle_noise(x: np.ndarray, scale: float, generator: Generator) -> np.ndarray:
    """Normal noise in proportion to the value."""
    return x * (1 + generator.normal(scale=scale, size=x.shape))


# ---- blur ----


def gaussian_blur(x: np.ndarray, sigma: float, generator: Generator) -> np.ndarray:
    """A Gaussian of standard deviation `sigma`, pixels."""
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def defocus_blur(x: np.ndarray, parameters: tuple[float, float], generator: Generator) -> np.ndarray:
    """A disk of a radius, pixels, its rim softened by three taps of a Gaussian."""
    radius, softness = parameters
    places = np.arange(-8, 9)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    taps = np.exp(-np.array([1, 0, 1]) / (2 * softness**2))
    for axis in (0, 1):
        disk = ndimage.convolve1d(disk, taps / taps.sum(), axis=axis, mode="constant")
    return ndimage.convolve(x, (disk / disk.sum())[:, :, None], mode="mirror")


def glass_blur(x: np.ndarray, parameters: tuple[float, int], generator: Generator) -> np.ndarray:
    """Blurred; so many times every pixel takes the colour of itself or of a neighbour above or left; blurred again."""
    sigma, rounds = parameters
    x = gaussian_blur(x, sigma, generator)
    places = np.mgrid[: x.shape[0], : x.shape[1]]
    for steps in generator.integers(-1, 1, size=(rounds, *places.shape)):  # -1 or 0
        h, w = np.clip(places + steps, 0, None)
        x = x[h, w]
    return gaussian_blur(x, sigma, generator)


def motion_blur(x: np.ndarray, parameters: tuple[int, float], generator: Generator) -> np.ndarray:
    """A trail of falling weight in a direction within 45 degrees of the rows."""
    return trail(x, *parameters, generator.uniform(-45, 45))


def trail(x: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Half a Gaussian along a line: weights exp(-i^2 / (2 sigma^2)), i = 0 .. 2 radius pixels; [H, W] or [H, W, 3]."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows = np.rint(steps * math.sin(math.radians(degrees))).astype(int)
    columns = np.rint(steps * math.cos(math.radians(degrees))).astype(int)
    height, width = x.shape[:2]
    found = np.zeros_like(x)
    for weight, row, column in zip(weights / weights.sum(), rows, columns, strict=True):
        h = np.clip(np.arange(height) + row, 0, height - 1)
        w = np.clip(np.arange(width) + column, 0, width - 1)
        found += weight * x[h[:, None], w]
    return found


def zoom_blur(x: np.ndarray, largest: float, generator: Generator) -> np.ndarray:
    """The image and its enlargements by 1.00, 1.01, ... below `largest`, averaged."""
    factors = np.arange(1, largest, 0.01)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image [H, W, ...], enlarged to the whole by linear interpolation."""
    scale = np.array([1 / factor, 1 / factor, *[1.0] * (x.ndim - 2)])
    centre = (np.array(x.shape) - 1) / 2
    return ndimage.affine_transform(x, scale, offset=centre * (1 - scale), order=1, mode="nearest")


# ---- weather ----


def snow(x: np.ndarray, parameters: tuple[float, ...], generator: Generator) -> np.ndarray:
    """Flakes that fall, from two sides, before a picture that is paler."""
    mean, scale, zoom, threshold, radius, sigma, kept = parameters
    flakes = zoomed(generator.normal(mean, scale, x.shape[:2]), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = trail(flakes, int(radius), sigma, generator.uniform(-135, -45))[:, :, None]
    paler = np.maximum(x, (x @ _GREY)[:, :, None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * paler + flakes + np.rot90(flakes, 2)


def fog(x: np.ndarray, parameters: tuple[float, float], generator: Generator) -> np.ndarray:
    """Plasma of a density added to the picture, at the picture's own brightness."""
    density, decay = parameters
    brightest = x.max()
    size = max(x.shape[:2])
    mist = plasma(size, decay, generator)[: x.shape[0], : x.shape[1], None]
    return (x + density * mist) * brightest / (brightest + density)


def plasma(size: int, decay: float, generator: Generator) -> np.ndarray:
    """A cloud in [0, 1], [n, n] with n the next power of two: midpoint displacement on a torus (Fournier et al. 1982).

    Noise is uniform, its range divided by decay^2 whenever the grid doubles.
    """
    grid, reach = np.zeros((1, 1)), 1.0
    while len(grid) < size:
        n = len(grid)
        right = np.roll(grid, -1, 1)
        middles = (grid + right + np.roll(grid + right, -1, 0)) / 4 + generator.uniform(-reach, reach, (n, n))
        across = (grid + right + middles + np.roll(middles, 1, 0)) / 4 + generator.uniform(-reach, reach, (n, n))
        down = grid + np.roll(grid, -1, 0) + middles + np.roll(middles, 1, 1)
        fine = np.empty((2 * n, 2 * n))
        fine[::2, ::2], fine[1::2, 1::2], fine[::2, 1::2] = grid, middles, across
        fine[1::2, ::2] = down / 4 + generator.uniform(-reach, reach, (n, n))
        grid, reach = fine, reach / decay**2
    grid = grid - grid.min()
    return grid / grid.max()


def spatter(x: np.ndarray, parameters: tuple[float, ...], generator: Generator) -> np.ndarray:
    """Drops of water, at severities 4 and 5 of mud."""
    mean, scale, sigma, threshold, strength, is_mud = parameters
    liquid = ndimage.gaussian_filter(generator.normal(mean, scale, x.shape[:2]), sigma, mode="nearest")
    if is_mud:
        cover = ndimage.gaussian_filter((liquid > threshold).astype(float), strength, mode="nearest")
        cover = np.where(cover < 0.8, 0, cover)[:, :, None]
        return x * (1 - cover) + _MUD * cover
    drops = np.where(liquid < threshold, 0, liquid)
    return x + strength * drops[:, :, None] / max(drops.max(), 1e-8) * _WATER


# ---- digital ----


def brightness(x: np.ndarray, added: float, generator: Generator) -> np.ndarray:
    """V of HSV raised; hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    raised = np.clip(value + added, 0, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1) * raised, raised)


def saturate(x: np.ndarray, parameters: tuple[float, float], generator: Generator) -> np.ndarray:
    """S of HSV times one number plus another; grey has the hue of red, as usual."""
    factor, added = parameters
    value = x.max(-1, keepdims=True)
    distance = value - x  # V S for the least channel, 0 for the largest
    saturation = distance.max(-1, keepdims=True) / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + added, 0, 1)
    hue = np.where(saturation > 0, distance / np.where(saturation > 0, saturation, 1), value * np.array([0, 1, 1]))
    return value - hue * wanted


def contrast(x: np.ndarray, factor: float, generator: Generator) -> np.ndarray:
    """Distances to each channel's mean, times `factor`."""
    mean = x.mean((0, 1))
    return (x - mean) * factor + mean


def elastic_transform(x: np.ndarray, parameters: tuple[float, float, float], generator: Generator) -> np.ndarray:
    """A random affine map of three points and a smooth displacement; lengths are shares of the image's size."""
    size = min(x.shape[:2])
    reach, sigma, corner = (size * share for share in parameters)
    centre, side = np.array(x.shape[:2]) // 2, size // 3
    before = np.array([centre + side, [centre[0] + side, centre[1] - side], centre - side], dtype=float)
    after = before + generator.uniform(-corner, corner, before.shape)
    # Of every place after, where it was before: affine weights from the three points.
    inverse = np.linalg.solve(np.column_stack([after, np.ones(3)]), before)  # [3, 2]
    places = np.moveaxis(np.mgrid[: x.shape[0], : x.shape[1]], 0, -1).astype(float)  # [H, W, 2]
    if reach:
        noise = generator.uniform(-1, 1, places.shape)
        places += reach * ndimage.gaussian_filter(noise, (sigma, sigma, 0), mode="reflect", truncate=3)
    rows, columns = np.moveaxis(places @ inverse[:2] + inverse[2], -1, 0)
    channels = [ndimage.map_coordinates(x[:, :, c], [rows, columns], order=1, mode="mirror") for c in range(3)]
    return np.stack(channels, axis=-1)


def pixelate(x: np.ndarray, share: float, generator: Generator) -> np.ndarray:
    """Reduced to a share of its size and enlarged again, without smoothing."""
    image = _as_image(x)
    small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BOX)) / 255


def jpeg_compression(x: np.ndarray, quality: int, generator: Generator) -> np.ndarray:
    """Written and read as JPEG of a quality."""
    file = io.BytesIO()
    _as_image(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


def _as_image(x: np.ndarray) -> Image.Image:
    return Image.fromarray((x * 255).round().astype(np.uint8))


# Name -> function and its five severities, those of CIFAR-10-C (Hendrycks and Dietterich 2019).
CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, Any, Generator], np.ndarray], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "spatter": (
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}

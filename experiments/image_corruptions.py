"""The 15 corruptions of CIFAR-10-C at five severities, made from clean 32 x 32 pixels.

Implemented anew on numpy, scipy and Pillow, with the parameters that the authors of CIFAR-10-C give for images of this
size: these are not the published files. Two corruptions differ in kind: frost overlays a drawn texture where the
authors overlay photographs of frost, and motion blur is computed here where they call ImageMagick. The packages that
make ImageNet-C's corruptions have parameters for 224 pixels, which leave nothing of a 32 x 32 image.

Source: Hendrycks and Dietterich (2019), Benchmarking neural network robustness to common corruptions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.float64]
Generator = np.random.Generator

SIDE = 32


def corrupt(images: NDArray[np.uint8], kind: str, severity: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (count, 32, 32, 3), each corrupted in its own way: a pure function of its arguments.

    Raises:
        ValueError: if the kind is not one of `CORRUPTIONS`, the severity not 1 to 5, or the images have another shape.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption {kind!r} is unknown: use one of {', '.join(CORRUPTIONS)}")
    if severity not in range(1, 6):
        raise ValueError(f"severity={severity} is not allowed: use 1 to 5")
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"images of type {images.dtype} and shape {images.shape}: give uint8, (count, 32, 32, 3)")
    work, parameters = CORRUPTIONS[kind]
    generator = np.random.default_rng([seed, list(CORRUPTIONS).index(kind), severity])
    corrupted = work(images / 255, parameters[severity - 1], generator)
    # As the authors do: cut off, not rounded. The small term undoes what the division above lost.
    return (np.clip(corrupted, 0, 1) * 255 + 1e-6).astype(np.uint8)


# ---- noise ----


def _gaussian_noise(images: Pixels, deviation: float, generator: Generator) -> Pixels:
    return images + generator.normal(scale=deviation, size=images.shape)


def _shot_noise(images: Pixels, photons: float, generator: Generator) -> Pixels:
    return generator.poisson(images * photons) / photons


def _impulse_noise(images: Pixels, share: float, generator: Generator) -> Pixels:
    hit = generator.random(images.shape) < share
    return np.where(hit, generator.random(images.shape) < 0.5, images)


# ---- blur ----


def _defocus_blur(images: Pixels, parameters: tuple[float, float], _: Generator) -> Pixels:
    radius, alias = parameters
    places = np.arange(-3, 4)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    edge = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(edge, edge) / edge.sum() ** 2, mode="constant")
    return ndimage.convolve(images, kernel[None, :, :, None], mode="mirror")


def _gaussian_blur(images: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def _glass_blur(images: Pixels, parameters: tuple[float, int, int], generator: Generator) -> Pixels:
    sigma, reach, rounds = parameters
    blurred, every = np.floor(_gaussian_blur(images, sigma) * 255) / 255, np.arange(len(images))
    for _ in range(rounds):
        for row in range(SIDE - reach, reach, -1):
            for column in range(SIDE - reach, reach, -1):
                down, right = generator.integers(-reach, reach, (2, len(images)))
                # The authors mean a swap, but their views make a copy of it; so are the published images.
                blurred[:, row, column] = blurred[every, row + down, column + right]
    return _gaussian_blur(blurred, sigma)


def _along(images: Pixels, degrees: Pixels, radius: int, sigma: float) -> Pixels:
    """Each image smeared in its own direction by one half of a Gaussian, the border repeated."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    down, right = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    smeared = np.zeros_like(images)
    every, places = np.arange(len(images))[:, None, None], np.arange(SIDE)
    for step, weight in enumerate(weights / weights.sum()):
        rows = np.clip(places + np.rint(step * down)[:, None], 0, SIDE - 1).astype(int)
        columns = np.clip(places + np.rint(step * right)[:, None], 0, SIDE - 1).astype(int)
        smeared += weight * images[every, rows[:, :, None], columns[:, None, :]]
    return smeared


def _motion_blur(images: Pixels, parameters: tuple[int, float], generator: Generator) -> Pixels:
    return _along(images, generator.uniform(-45, 45, len(images)), *parameters)


def _magnified(images: Pixels, factor: float) -> Pixels:
    """The middle of each image, shape (count, 32, 32, channels), magnified to 32 x 32."""
    side = int(np.ceil(SIDE / factor))
    start = (SIDE - side) // 2
    length = round(side * factor)
    trim = (length - SIDE) // 2
    places = np.linspace(0, side - 1, length)[trim : trim + SIDE]
    # Linear interpolation along rows and columns as two matrix products: scipy's zoom takes a hundred times as long.
    weights = np.stack([np.interp(places, np.arange(side), row) for row in np.eye(side)], 1)
    middle = images[:, start : start + side, start : start + side]
    return np.einsum("ir,jc,nrck->nijk", weights, weights, middle, optimize=True)


def _zoom_blur(images: Pixels, most: float, _: Generator) -> Pixels:
    factors = np.arange(1, most, 0.01)
    return (images + sum(_magnified(images, factor) for factor in factors)) / (len(factors) + 1)


# ---- weather ----


def _grey(images: Pixels) -> Pixels:
    return (images @ np.array([0.299, 0.587, 0.114]))[..., None]


def _snow(images: Pixels, parameters: Sequence[float], generator: Generator) -> Pixels:
    mean, deviation, factor, threshold, radius, sigma, share = parameters
    flakes = _magnified(generator.normal(mean, deviation, (len(images), SIDE, SIDE, 1)), factor)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _along(flakes, generator.uniform(-135, -45, len(images)), int(radius), sigma)
    whitened = share * images + (1 - share) * np.maximum(images, _grey(images) * 1.5 + 0.5)
    return whitened + flakes + np.rot90(flakes, 2, (1, 2))


def _plasma(count: int, decay: float, generator: Generator) -> Pixels:
    """Clouds from 0 to 1 by the diamond-square algorithm on a torus, shape (count, 32, 32)."""
    clouds = np.zeros((count, SIDE, SIDE))
    step, wobble = SIDE, 100.0

    def noisy(total: Pixels) -> Pixels:
        return total / 4 + wobble * generator.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        across = corners + np.roll(corners, -1, 1)
        clouds[:, half::step, half::step] = noisy(across + np.roll(across, -1, 2))
        centres = clouds[:, half::step, half::step]
        clouds[:, ::step, half::step] = noisy(centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 2))
        clouds[:, half::step, ::step] = noisy(centres + np.roll(centres, 1, 2) + corners + np.roll(corners, -1, 1))
        step, wobble = half, wobble / decay
    clouds -= clouds.min((1, 2), keepdims=True)
    return clouds / clouds.max((1, 2), keepdims=True)


def _fog(images: Pixels, parameters: tuple[float, float], generator: Generator) -> Pixels:
    thickness, decay = parameters
    brightest = images.max((1, 2, 3), keepdims=True)
    fog = thickness * _plasma(len(images), decay, generator)[..., None]
    return (images + fog) * brightest / np.maximum(brightest + thickness, 1e-9)


def _frost(images: Pixels, parameters: tuple[float, float], generator: Generator) -> Pixels:
    """A drawn texture: needles of ice, white on blue, thicker where a cloud is."""
    kept, added = parameters
    count = len(images)
    needles = np.zeros((count, SIDE, SIDE, 1))
    for _ in range(4):
        seeds = (generator.random(needles.shape) < 0.06).astype(float)
        needles += _along(seeds, generator.uniform(0, 360, count), 6, 4.0)
    needles = np.clip(needles * 3, 0, 1)
    cloud = _plasma(count, 2.0, generator)[..., None]
    ice = np.clip(0.25 + 0.35 * cloud + 0.6 * needles * cloud, 0, 1)
    return kept * images + added * ice * np.array([0.88, 0.96, 1.0])


def _brightness(images: Pixels, added: float, _: Generator) -> Pixels:
    # Value up by `added` in HSV, hue and saturation as they are: every channel in proportion.
    value = images.max(-1, keepdims=True)
    raised = np.clip(value + added, 0, 1)
    return np.where(value > 0, images * raised / np.maximum(value, 1e-9), raised)


# ---- digital ----


def _contrast(images: Pixels, share: float, _: Generator) -> Pixels:
    means = images.mean((1, 2), keepdims=True)
    return (images - means) * share + means


def _elastic(images: Pixels, parameters: tuple[float, float, float], generator: Generator) -> Pixels:
    """A random affine map, and then every pixel moved along a smooth random field."""
    strength, sigma, shift = (SIDE * value for value in parameters)
    middle, half = SIDE // 2, SIDE // 3
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * half + middle
    places = np.indices((SIDE, SIDE))
    warped = np.empty_like(images)
    for image, out in zip(images, warped, strict=True):
        moved = corners + generator.uniform(-shift, shift, corners.shape)
        # Where each pixel of the result comes from: the map from the moved corners back.
        back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
        source = np.tensordot(back[:2], places, (0, 0)) + back[2][:, None, None]
        first = np.stack(
            [ndimage.map_coordinates(image[..., c], source, order=1, mode="mirror") for c in range(3)], -1
        )
        field = generator.uniform(-1, 1, (2, SIDE, SIDE))
        field = strength * ndimage.gaussian_filter(field, (0, sigma, sigma), mode="reflect", truncate=3)
        for channel in range(3):
            out[..., channel] = ndimage.map_coordinates(first[..., channel], places + field, order=1, mode="reflect")
    return warped


def _each(images: Pixels, work: Callable[[Image.Image], Image.Image]) -> Pixels:
    pictures = [work(Image.fromarray(pixels)) for pixels in np.rint(images * 255).astype(np.uint8)]
    return np.stack([np.asarray(picture) for picture in pictures]) / 255


def _pixelate(images: Pixels, share: float, _: Generator) -> Pixels:
    small = (int(SIDE * share), int(SIDE * share))
    box = Image.Resampling.BOX
    return _each(images, lambda picture: picture.resize(small, box).resize((SIDE, SIDE), box))


def _jpeg(images: Pixels, quality: int, _: Generator) -> Pixels:
    def through_jpeg(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _each(images, through_jpeg)


CORRUPTIONS: dict[str, tuple[Callable[..., Pixels], tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": (_glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "elastic_transform": (
        _elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (_jpeg, (80, 65, 58, 50, 40)),
}

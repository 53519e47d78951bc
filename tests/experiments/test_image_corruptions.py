"""The corruptions of CIFAR-10-C, on small drawn images."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments.image_corruptions import CORRUPTIONS, _magnified, corrupt

SMOOTH = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "elastic_transform", "contrast")


def drawn(count: int = 3) -> np.ndarray:
    """Discs and stripes in colours, with edges and without."""
    down, right = np.mgrid[:32, :32]
    images = []
    for number in range(count):
        disc = ((down - 12 - number) ** 2 + (right - 18 + 2 * number) ** 2 < 80)[..., None]
        ground = np.stack([4 * right + 60, 3 * down + 80, 100 + 40 * ((right // 4) % 2)], -1)
        images.append(np.where(disc, [200, 60, 30 + 20 * number], ground))
    return np.stack(images).astype(np.uint8)


def test_there_are_fifteen() -> None:
    assert len(CORRUPTIONS) == 15
    assert all(len(parameters) == 5 for _, parameters in CORRUPTIONS.values())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_is_a_pure_function_and_grows_with_severity(kind: str) -> None:
    images = drawn()
    before = images.copy()
    distances = []
    for severity in range(1, 6):
        found = corrupt(images, kind, severity)
        assert found.shape == images.shape
        assert found.dtype == np.uint8
        assert np.array_equal(found, corrupt(images, kind, severity))
        distances.append(np.abs(found.astype(float) - images).mean())
    assert np.array_equal(images, before)
    assert min(distances) > 0
    # Glass and elastic trade one parameter for another on the way.
    assert distances[-1] > distances[0] or kind == "elastic_transform"
    fixed = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert np.array_equal(corrupt(images, kind, 3), corrupt(images, kind, 3, seed=1)) == (kind in fixed)


@pytest.mark.parametrize("kind", SMOOTH)
@pytest.mark.parametrize("severity", [1, 5])
def test_blurs_leave_a_plain_image_alone(kind: str, severity: int) -> None:
    plain = np.full((2, 32, 32, 3), (30, 120, 255), np.uint8)
    assert np.abs(corrupt(plain, kind, severity).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_black_and_white_images_stay_in_range(kind: str, level: int) -> None:
    images = np.full((2, 32, 32, 3), level, np.uint8)
    with np.errstate(all="raise"):
        found = corrupt(images, kind, 5)
    if kind in ("brightness", "fog") and level == 0:
        assert len(np.unique(found)) == 1


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.1, 1.25, 1.75, 2.25])
def test_magnifying_is_scipys_zoom_trimmed(factor: float) -> None:
    images = drawn() / 255
    side = int(np.ceil(32 / factor))
    start = (32 - side) // 2
    large = ndimage.zoom(images[:, start : start + side, start : start + side], (1, factor, factor, 1), order=1)
    trim = (large.shape[1] - 32) // 2
    expected = large[:, trim : trim + 32, trim : trim + 32]
    np.testing.assert_allclose(_magnified(images, factor), expected, atol=1e-9)


def test_noise_has_the_size_asked_for() -> None:
    grey = np.full((40, 32, 32, 3), 128, np.uint8)
    difference = (corrupt(grey, "gaussian_noise", 5).astype(float) - 127.5) / 255
    assert difference.std() == pytest.approx(0.10, rel=0.02)
    shot = (corrupt(grey, "shot_noise", 1).astype(float) - 127.5) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 500), rel=0.02)
    assert abs(shot.mean()) < 0.001
    hit = corrupt(grey, "impulse_noise", 5)
    assert (hit != 128).mean() == pytest.approx(0.07, rel=0.05)
    assert set(np.unique(hit)) == {0, 128, 255}


def test_brightness_is_value_in_hsv() -> None:
    images = drawn(1)
    found = corrupt(images, "brightness", 4)
    for row, column in [(0, 0), (12, 18), (31, 5)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*images[0, row, column] / 255)
        expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))) * 255
        assert np.abs(found[0, row, column] - expected).max() <= 1


def test_contrast_and_jpeg_by_hand() -> None:
    images = drawn(1)
    means = images.mean((1, 2), keepdims=True)
    assert np.abs(corrupt(images, "contrast", 5) - ((images - means) * 0.15 + means)).max() <= 1
    buffer = io.BytesIO()
    Image.fromarray(images[0]).save(buffer, "JPEG", quality=40)
    assert np.array_equal(corrupt(images, "jpeg_compression", 5)[0], np.asarray(Image.open(buffer)))


def test_weather_brightens_and_motion_has_a_direction() -> None:
    images = drawn() // 3
    for kind in ("snow", "frost"):
        assert corrupt(images, kind, 3).mean() > images.mean() + 5
    # Fog is grey: the colours of a pixel come closer by brightest / (brightest + thickness).
    brightest = images.max((1, 2, 3))[:, None, None] / 255
    colours = np.ptp(images, axis=-1) * brightest / (brightest + 1.5)
    assert np.abs(np.ptp(corrupt(images, "fog", 5), axis=-1) - colours).max() <= 1
    line = np.zeros((1, 32, 32, 3), np.uint8)
    line[:, :, 16] = 255
    smeared = corrupt(line, "motion_blur", 5)[0, 16, :, 0]
    assert (smeared > 0).sum() > 3
    assert smeared.sum() == pytest.approx(255, abs=20)


@pytest.mark.parametrize(
    ("images", "kind", "severity", "message"),
    [
        (drawn(1), "rain", 1, "corruption 'rain' is unknown"),
        (drawn(1), "fog", 0, "severity=0"),
        (drawn(1) / 255, "fog", 1, "give uint8"),
        (drawn(1)[:, :16], "fog", 1, r"shape \(1, 16, 32, 3\)"),
    ],
)
def test_mistakes(images: np.ndarray, kind: str, severity: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(images, kind, severity)

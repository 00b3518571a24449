"""Paints scenes of scikit-learn's digits: pasted at random sizes and places on textured canvases, some overlapping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

SCENE_SEED = 0
CANVAS = 96
DIGIT_SIZES = (20, 40)
DIGITS_PER_SCENE = (1, 6)
MIN_VISIBLE = 0.6
PLACES_TRIED = 20
BACKGROUND, UNCERTAIN = -1, -2


@dataclass
class Scene:
    """One image and what is on it, in the order of pasting.

    Attributes:
        image (np.ndarray): RGB, uint8, (CANVAS, CANVAS, 3).
        owner (np.ndarray): int8, (CANVAS, CANVAS): position in the lists below of the digit whose stroke is seen,
            ``BACKGROUND``, or ``UNCERTAIN`` on the soft edge of a stroke.
        sources (list[int]): Index in ``load_digits`` of each digit.
        boxes (list[tuple]): x, y, width, height in pixels, tight around all strokes of a digit, hidden ones too.
        areas (list[int]): Pixels of all strokes of a digit, hidden ones too.
    """

    image: np.ndarray
    owner: np.ndarray
    sources: list[int] = field(default_factory=list)
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)


def paint(digits: np.ndarray, candidates: np.ndarray, seed: Sequence[int]) -> Scene:
    """Paint one scene.

    A digit that hides too much of another at every place tried is left out, so that each keeps at least
    ``MIN_VISIBLE`` of its strokes and of its box. The first one always finds a place.

    Args:
        digits (np.ndarray): All digits, (N, 8, 8), from 0 to 16.
        candidates (np.ndarray): Indices of the digits to draw from.
        seed (Sequence[int]): Integers that decide everything random in it.
    """
    # RandomState: its stream is frozen for all NumPy versions, Generator's is not.
    random = np.random.RandomState([SCENE_SEED, *seed])
    canvas = _texture(random)
    scene = Scene(canvas, np.full(canvas.shape[:2], BACKGROUND, dtype=np.int8))
    for _ in range(random.randint(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1] + 1)):
        source = int(candidates[random.randint(len(candidates))])
        ink = _ink(digits[source], size=random.randint(DIGIT_SIZES[0], DIGIT_SIZES[1] + 1))
        _paste(scene, source, ink, random)
    scene.image = scene.image.round().astype(np.uint8)
    return scene


def _texture(random: np.random.RandomState) -> np.ndarray:
    """A canvas of gradient, smooth noise and grain around a random colour; float, from 0 to 255."""
    base = random.uniform(40, 140) + random.uniform(-25, 25, 3)
    places = np.linspace(-1, 1, CANVAS)
    slope = random.uniform(-20, 20, 2)
    gradient = slope[0] * places[:, None] + slope[1] * places[None, :]
    cells = random.randint(3, 17)
    smooth = _enlarge(random.uniform(-1, 1, (cells, cells)), CANVAS) * random.uniform(5, 30)
    grain = random.standard_normal((CANVAS, CANVAS, 1)) * random.uniform(0, 8)
    return np.clip(base + (gradient + smooth)[..., None] + grain, 0, 255)


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation of a square image to ``size`` x ``size``; the border pixels go on outside."""
    cells = len(image)
    places = ((np.arange(size) + 0.5) * cells / size - 0.5).clip(0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells)))
    return weights @ image @ weights.T


def _ink(digit: np.ndarray, size: int) -> np.ndarray:
    """Opacity of a digit's strokes, 0 to 1, without empty rows and columns; its 8 pixels become ``size``."""
    opacity = _enlarge(np.pad(digit, 1) / digit.max(), round(size * 10 / 8))
    # At least 0.5 is stroke; the fringe below 0.25 would only blur.
    opacity = (2 * opacity - 0.5).clip(0, 1)
    seen = opacity > 0
    return opacity[np.ix_(seen.any(axis=1), seen.any(axis=0))]


def _paste(scene: Scene, source: int, ink: np.ndarray, random: np.random.RandomState) -> None:
    """Paste at the first place tried that leaves the others visible; nowhere if there is none."""
    stroke = ink >= 0.5
    rows, columns = (np.flatnonzero(stroke.any(axis=axis)) for axis in (1, 0))
    for _ in range(PLACES_TRIED):
        top, left = (random.randint(CANVAS - extent + 1) for extent in ink.shape)
        window = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
        width, height = (int(found[-1] - found[0]) + 1 for found in (columns, rows))
        box = (int(left + columns[0]), int(top + rows[0]), width, height)
        owner = scene.owner.copy()
        owner[window][ink > 0] = UNCERTAIN
        owner[window][stroke] = len(scene.sources)
        if _others_visible(scene, owner, box):
            break
    else:
        return
    scene.owner = owner
    colour = _ink_colour(scene.image[window].mean(axis=(0, 1)), random)
    scene.image[window] += ink[..., None] * (colour - scene.image[window])
    scene.sources.append(source)
    scene.boxes.append(box)
    scene.areas.append(int(stroke.sum()))


def _others_visible(scene: Scene, owner: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    x, y, width, height = box
    for i, (other, area) in enumerate(zip(scene.boxes, scene.areas, strict=True)):
        common_x = min(x + width, other[0] + other[2]) - max(x, other[0])
        common_y = min(y + height, other[1] + other[3]) - max(y, other[1])
        common = max(common_x, 0) * max(common_y, 0)
        # Of the smaller box: strokes that run between one another are no digits to a reader.
        if common > (1 - MIN_VISIBLE) * min(width * height, other[2] * other[3]):
            return False
        if np.count_nonzero(owner == i) < MIN_VISIBLE * area:
            return False
    return True


def _ink_colour(ground: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A colour that is clearly lighter than the ground, by another step in each channel."""
    return (ground + random.uniform(70, 120) + random.uniform(-30, 30, 3)).clip(0, 255)

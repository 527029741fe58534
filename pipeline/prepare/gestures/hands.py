"""Draw a hand from a look and a pose, with smooth edges and fast enough for video.

Lengths are fractions of the image's short side, measured from its centre, so that a pose is independent of the image
size. Only `random_look` is random, with a generator as argument.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Factor of supersampling, for smooth edges and sub-pixel motion.
SUPERSAMPLING = 3

# Base and length of each finger, in units of the palm's half width, for an upright hand, with y downwards.
FINGER_ROOTS: tuple[Point, ...] = ((-0.72, -0.62), (-0.25, -0.82), (0.24, -0.80), (0.70, -0.58))
FINGER_LENGTHS = (1.35, 1.60, 1.50, 1.15)
THUMB_ROOT: Point = (-0.80, 0.25)
THUMB_LENGTH = 1.15
# Largest distance of any part except the arm from the centre of the palm.
REACH = 2.9


@dataclass(frozen=True)
class HandLook:
    """Appearance of a hand that does not change with motion: colours, proportions, left or right.

    `side` is 1 with the thumb on the image's left when the hand is upright, -1 mirrored.
    """

    skin: Colour
    line: Colour
    sleeve: Colour
    side: int
    finger_width: float
    finger_length: float
    palm_height: float
    sleeve_start: float


@dataclass(frozen=True)
class HandPose:
    """Position and pose of a hand.

    `x` and `y` are the palm's centre (y downwards), `size` the palm's half width, `angle` clockwise from upright in
    radians, `openness` 0 for a fist and 1 for straight fingers, `spread` the angle between neighbouring fingers in
    radians.
    """

    x: float
    y: float
    size: float
    angle: float
    openness: float
    spread: float


def random_look(generator: np.random.Generator) -> HandLook:
    """Draw a look: mostly skin tones from light to dark, one in five a glove of any colour."""
    if generator.random() < 0.2:
        hue, saturation, value = generator.random(), generator.uniform(0.2, 0.9), generator.uniform(0.35, 0.95)
    else:
        # Skin tones have a narrow range of hues; darker ones are more saturated.
        depth = generator.random()
        hue = generator.uniform(0.035, 0.085)
        saturation = 0.22 + 0.38 * depth + generator.uniform(-0.06, 0.06)
        value = 0.97 - 0.62 * depth + generator.uniform(-0.05, 0.03)
    skin = _rgb(hue, saturation, value)
    shade = generator.uniform(0.35, 0.65)
    return HandLook(
        skin=skin,
        line=(int(skin[0] * shade), int(skin[1] * shade), int(skin[2] * shade)),
        sleeve=_rgb(generator.random(), generator.uniform(0.0, 0.9), generator.uniform(0.1, 0.95)),
        side=1 if generator.random() < 0.5 else -1,
        finger_width=generator.uniform(0.36, 0.46),
        finger_length=generator.uniform(0.88, 1.12),
        palm_height=generator.uniform(0.95, 1.15),
        sleeve_start=generator.uniform(1.5, 2.6),
    )


def paint_hand(frame: np.ndarray, look: HandLook, pose: HandPose) -> np.ndarray:
    """Paint a hand into a frame in place, and return its coverage of each pixel.

    The coverage excludes the sleeve, so that it shows the position of the hand.

    Shape:
        frame:   (H, W, 3), uint8.
        returns: (H, W), uint8, 255 where the hand covers the whole pixel.
    """
    height, width = frame.shape[:2]
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    colour, cover, hand = Image.new("RGB", size), Image.new("L", size), Image.new("L", size)
    short = min(height, width) * SUPERSAMPLING
    pen = _Pen(
        colour=ImageDraw.Draw(colour),
        cover=ImageDraw.Draw(cover),
        hand=ImageDraw.Draw(hand),
        centre=(size[0] / 2 + pose.x * short, size[1] / 2 + pose.y * short),
        unit=pose.size * short,
        turn=(math.cos(pose.angle), math.sin(pose.angle)),
        side=look.side,
    )
    _draw(pen, look, pose)
    # Downsampling multiplies the colour by the coverage, because the hand was drawn on black.
    box = cover.getbbox()
    if box is None:
        return np.zeros((height, width), np.uint8)
    left, top = box[0] // SUPERSAMPLING, box[1] // SUPERSAMPLING
    right, bottom = -(-box[2] // SUPERSAMPLING), -(-box[3] // SUPERSAMPLING)
    scaled = (left * SUPERSAMPLING, top * SUPERSAMPLING, right * SUPERSAMPLING, bottom * SUPERSAMPLING)
    colours = np.asarray(colour.reduce(SUPERSAMPLING, scaled), np.uint16)
    uncovered = 255 - np.asarray(cover.reduce(SUPERSAMPLING, scaled), np.uint16)[:, :, None]
    part = frame[top:bottom, left:right]
    part[:] = np.minimum(colours + (part * uncovered + 127) // 255, 255)
    covered = np.zeros((height, width), np.uint8)
    covered[top:bottom, left:right] = np.asarray(hand.reduce(SUPERSAMPLING, scaled))
    return covered


@dataclass(frozen=True)
class _Pen:
    """Pen in units of the hand that draws three images at once: colours, coverage, and coverage of the hand alone."""

    colour: ImageDraw.ImageDraw
    cover: ImageDraw.ImageDraw
    hand: ImageDraw.ImageDraw
    centre: Point
    unit: float
    turn: Point
    side: int

    def place(self, point: Point) -> Point:
        x, y = point[0] * self.side * self.unit, point[1] * self.unit
        cosine, sine = self.turn
        return self.centre[0] + x * cosine - y * sine, self.centre[1] + x * sine + y * cosine

    def limb(self, points: list[Point], width: float, colour: Colour, line: Colour, is_hand: bool = True) -> None:
        """Draw a thick line with round ends through `points`, with an outline."""
        edge = 0.075
        placed = [self.place(point) for point in points]
        self._stroke(placed, (width + 2 * edge) * self.unit, line, is_hand)
        self._stroke(placed, width * self.unit, colour, is_hand)

    def shape(self, points: list[Point], colour: Colour, line: Colour) -> None:
        placed = [self.place(point) for point in points]
        for sheet, ink in ((self.colour, colour), (self.cover, 255), (self.hand, 255)):
            sheet.polygon(placed, fill=ink)
        self.colour.line([*placed, placed[0]], fill=line, width=max(1, round(0.1 * self.unit)), joint="curve")

    def _stroke(self, placed: list[Point], width: float, colour: Colour, is_hand: bool) -> None:
        radius = width / 2
        sheets: list[tuple[ImageDraw.ImageDraw, Colour | int]] = [(self.colour, colour), (self.cover, 255)]
        if is_hand:
            sheets.append((self.hand, 255))
        for sheet, ink in sheets:
            sheet.line(placed, fill=ink, width=max(1, round(width)))
            for x, y in placed:
                sheet.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)


def _draw(pen: _Pen, look: HandLook, pose: HandPose) -> None:
    height, width = look.palm_height, look.finger_width
    skin, line = look.skin, look.line
    # Draw the arm first, because all other parts are in front of it.
    pen.limb([(0.0, 0.6 * height), (0.0, look.sleeve_start + 0.3)], 1.15, skin, line)
    pen.limb([(0.0, look.sleeve_start + 0.75), (0.0, 14.0)], 1.6, look.sleeve, line, is_hand=False)
    fingers = [
        _finger(root, length * look.finger_length, (index - 1.5) * pose.spread, pose.openness, height)
        for index, (root, length) in enumerate(zip(FINGER_ROOTS, FINGER_LENGTHS, strict=True))
    ]
    # Straight fingers are behind the palm's edge; bent ones are in front of it, as on a fist.
    is_bent = pose.openness < 0.5
    if not is_bent:
        for points in fingers:
            pen.limb(points, width, skin, line)
    pen.shape(_palm(height), skin, line)
    if is_bent:
        for points in fingers:
            pen.limb(points, width, skin, line)
    pen.limb(_thumb(look.finger_length, pose.openness, pose.spread), width * 1.05, skin, line)


def _finger(root: Point, length: float, fan: float, openness: float, palm_height: float) -> list[Point]:
    # Two halves bend towards the viewer: the visible length of each is its length times the cosine of its angle.
    bend = (1.0 - openness) * math.radians(95)
    start = (root[0], root[1] * palm_height)
    direction = math.sin(fan), -math.cos(fan)
    seen_near, seen_far = 0.5 * length * math.cos(bend), 0.5 * length * math.cos(2 * bend)
    middle = start[0] + direction[0] * seen_near, start[1] + direction[1] * seen_near
    return [start, middle, (middle[0] + direction[0] * seen_far, middle[1] + direction[1] * seen_far)]


def _thumb(length: float, openness: float, spread: float) -> list[Point]:
    # From across the palm to pointing sideways.
    away = math.radians(70 - 115 * openness) - 1.2 * spread * openness
    seen = THUMB_LENGTH * length * (0.7 + 0.3 * openness)
    middle = THUMB_ROOT[0] + 0.5 * seen * math.sin(away), THUMB_ROOT[1] - 0.5 * seen * math.cos(away)
    bent = away + math.radians(18)
    return [THUMB_ROOT, middle, (middle[0] + 0.5 * seen * math.sin(bent), middle[1] - 0.5 * seen * math.cos(bent))]


def _palm(height: float) -> list[Point]:
    corners = [
        (-0.92, -0.55),
        (-0.45, -0.86),
        (0.40, -0.86),
        (0.90, -0.52),
        (0.82, 0.45),
        (0.55, 0.85),
        (-0.55, 0.85),
        (-0.90, 0.45),
    ]
    return [(x, y * height) for x, y in corners]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    clipped = (float(np.clip(part, 0.0, 1.0)) for part in (hue, saturation, value))
    red, green, blue = colorsys.hsv_to_rgb(*clipped)
    return round(255 * red), round(255 * green), round(255 * blue)

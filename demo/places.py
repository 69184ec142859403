"""Paint the ten places with gradients, polygons and noise, each time differently.

A painter gets a canvas of SIZE x SIZE pixels, twice the size of the image, so that scaling it down smooths edges.
Positions are fractions of the canvas. It returns the ground: the band of heights on which things stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from PIL import Image, ImageChops, ImageDraw

SIZE = 512
Colour = tuple[int, int, int]
Band = tuple[float, float]


class Canvas:
    """An unfinished image, with drawing methods that several places use."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (SIZE, SIZE))
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def between(self, low: float, high: float) -> float:
        return self.rng.uniform(low, high)

    def vary(self, colour: Colour, spread: int = 14) -> Colour:
        """The colour with random changes of brightness and hue."""
        shift = self.rng.randint(-spread, spread)
        red, green, blue = (max(0, min(255, c + shift + self.rng.randint(-spread // 3, spread // 3))) for c in colour)
        return red, green, blue

    def gradient(self, top: float, bottom: float, *colours: Colour) -> None:
        """Fill the band between two heights with evenly spaced colours from top to bottom."""
        y0, y1 = round(top * SIZE), round(bottom * SIZE)
        column = Image.new("RGB", (1, len(colours)))
        column.putdata([self.vary(colour, 8) for colour in colours])
        # Resampling spreads a pixel around its centre: crop half a source pixel at both ends for the full range.
        self.image.paste(
            column.resize((SIZE, y1 - y0), Image.Resampling.BILINEAR, box=(0, 0.5, 1, len(colours) - 0.5)), (0, y0)
        )

    def hills(self, height: float, roughness: float, colour: Colour, waves: float = 2.0, to: float = 1.0) -> None:
        """A wavy line across the image, filled down to `to`."""
        a, b = self.between(0, math.tau), self.between(0, math.tau)
        f, g = self.between(0.6, 1.2) * waves, self.between(1.8, 3.0) * waves
        line = [
            (
                x,
                (height + roughness * (0.7 * math.sin(a + f * x / SIZE * 3) + 0.3 * math.sin(b + g * x / SIZE * 3)))
                * SIZE,
            )
            for x in range(-16, SIZE + 17, 16)
        ]
        self.polygon([*line, (SIZE + 16, to * SIZE), (-16, to * SIZE)], colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour | tuple[int, int, int, int]) -> None:
        self.draw.polygon(list(points), fill=colour)

    def disc(
        self, x: float, y: float, radius: float, colour: Colour | tuple[int, int, int, int], squash: float = 1.0
    ) -> None:
        x, y, rx, ry = x * SIZE, y * SIZE, radius * SIZE, radius * SIZE * squash
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour | tuple[int, int, int, int]) -> None:
        self.draw.rectangle((x0 * SIZE, y0 * SIZE, x1 * SIZE, y1 * SIZE), fill=colour)

    def sun(self, x: float, y: float, radius: float, colour: Colour, alpha: int = 16) -> None:
        """A disc in a halo that fades outwards; faint for the moon."""
        for ring in range(8, 0, -1):
            self.disc(x, y, radius * (1 + 0.2 * ring), (*colour, alpha))
        self.disc(x, y, radius, colour)

    def cloud(self, x: float, y: float, width: float, colour: tuple[int, int, int, int]) -> None:
        for _ in range(6):
            self.disc(
                x + self.between(-0.5, 0.5) * width,
                y + self.between(-0.1, 0.05) * width,
                self.between(0.18, 0.32) * width,
                colour,
                0.6,
            )

    def clouds(self, maximum: int, colour: tuple[int, int, int, int] = (255, 255, 255, 150), low: float = 0.3) -> None:
        for _ in range(self.rng.randint(0, maximum)):
            self.cloud(self.between(0, 1), self.between(0.06, low), self.between(0.12, 0.24), colour)

    def specks(self, count: int, top: float, bottom: float, radius: Band, *colours: Colour) -> None:
        for _ in range(count):
            self.disc(
                self.rng.random(), self.between(top, bottom), self.between(*radius), self.vary(self.rng.choice(colours))
            )

    def tufts(self, count: int, top: float, bottom: float, *colours: Colour) -> None:
        """Blades of grass, taller in the foreground."""
        for _ in range(count):
            x, y = self.between(0, SIZE), self.between(top, bottom)
            tall = SIZE * (0.015 + 0.035 * (y - top) / max(0.01, bottom - top))
            lean = self.between(-0.4, 0.4) * tall
            self.draw.line((x, y * SIZE, x + lean, y * SIZE - tall), fill=self.vary(self.rng.choice(colours)), width=3)

    def ripples(self, count: int, top: float, bottom: float, colour: tuple[int, int, int, int]) -> None:
        for _ in range(count):
            x, y, half = self.between(0, 1), self.between(top, bottom), self.between(0.02, 0.08)
            self.box(x - half, y, x + half, y + 0.004, colour)

    def fir(self, x: float, foot: float, tall: float, colour: Colour) -> None:
        self.box(x - tall * 0.03, foot - tall * 0.15, x + tall * 0.03, foot, (84, 58, 40))
        for tier in range(3):
            y = foot - tall * (0.12 + 0.26 * tier)
            half, top = tall * (0.24 - 0.06 * tier), y - tall * 0.38
            self.polygon([((x - half) * SIZE, y * SIZE), ((x + half) * SIZE, y * SIZE), (x * SIZE, top * SIZE)], colour)

    def grain(self, strength: int = 10) -> None:
        """Fine noise over the whole image."""
        half = SIZE // 2
        noise = Image.frombytes("L", (half, half), self.rng.randbytes(half * half))
        noise = noise.point(lambda v: round(v * strength / 255)).resize((SIZE, SIZE))
        self.image.paste(ImageChops.subtract(self.image, Image.merge("RGB", (noise, noise, noise))))


def beach(c: Canvas) -> Band:
    sea, sand = c.between(0.3, 0.4), c.between(0.5, 0.6)
    c.gradient(0, sea, (86, 172, 235), (190, 228, 250))
    c.sun(c.between(0.1, 0.9), c.between(0.08, 0.15), 0.045, (255, 240, 150))
    c.clouds(3)
    c.gradient(sea, sand + 0.06, (24, 118, 178), (64, 186, 200))
    c.ripples(30, sea + 0.01, sand, (255, 255, 255, 90))
    c.hills(sand, 0.012, (240, 250, 250), 3)
    c.hills(sand + 0.014, 0.012, c.vary((224, 200, 144)), 3)
    c.hills(sand + 0.05, 0.02, c.vary((240, 218, 164)), 2)
    c.specks(60, sand + 0.1, 1, (0.002, 0.005), (205, 180, 130), (250, 236, 200))
    return sand + 0.16, 0.95


def forest(c: Canvas) -> Band:
    c.gradient(0, 0.7, (150, 190, 150), (196, 216, 170))
    ground = c.between(0.58, 0.66)
    for depth, green in ((0.0, (112, 152, 110)), (0.35, (70, 122, 74)), (0.8, (38, 90, 50))):
        for _ in range(9):
            c.fir(
                c.between(-0.05, 1.05), ground + 0.03 + 0.05 * depth, c.between(0.4, 0.56) + 0.2 * depth, c.vary(green)
            )
    c.hills(ground + 0.05, 0.015, c.vary((70, 92, 48)))
    c.hills(ground + 0.16, 0.02, c.vary((58, 78, 40)))
    c.tufts(70, ground + 0.08, 1, (52, 88, 40), (86, 112, 54), (110, 92, 52))
    for _ in range(c.rng.randint(1, 2)):
        x, width = c.rng.choice((c.between(0.0, 0.1), c.between(0.9, 1.0))), c.between(0.03, 0.055)
        c.box(x - width, 0, x + width, c.between(0.72, 0.86), c.vary((74, 52, 38)))
        c.box(x - width, 0, x - width * 0.4, 0.72, (54, 38, 28, 130))
    return ground + 0.17, 0.95


def night_sky(c: Canvas) -> Band:
    ground = c.between(0.7, 0.78)
    c.gradient(0, ground + 0.1, (6, 8, 34), (20, 24, 74), (52, 50, 116))
    c.specks(90, 0, ground, (0.0015, 0.005), (255, 255, 255), (255, 240, 200), (200, 220, 255))
    x, y, radius = c.between(0.1, 0.9), c.between(0.08, 0.2), c.between(0.05, 0.075)
    c.sun(x, y, radius, (250, 244, 214), alpha=8)
    for _ in range(3):
        c.disc(
            x + c.between(-0.5, 0.5) * radius,
            y + c.between(-0.5, 0.5) * radius,
            radius * c.between(0.12, 0.25),
            (226, 218, 186),
        )
    c.hills(ground, 0.035, c.vary((30, 36, 70), 6))
    c.hills(ground + 0.08, 0.03, c.vary((22, 28, 54), 5))
    return ground + 0.08, 0.95


def snow(c: Canvas) -> Band:
    ground = c.between(0.48, 0.56)
    c.gradient(0, ground, (150, 190, 228), (216, 232, 246))
    for _ in range(c.rng.randint(2, 4)):
        x, peak, half = c.between(0, 1), c.between(0.12, 0.28), c.between(0.2, 0.34)
        foot = ground + 0.04
        c.polygon(
            [((x - half) * SIZE, foot * SIZE), (x * SIZE, peak * SIZE), ((x + half) * SIZE, foot * SIZE)],
            c.vary((120, 142, 172)),
        )
        cap = [
            (x - half * 0.36, peak + (foot - peak) * 0.36),
            (x - half * 0.1, peak + (foot - peak) * 0.28),
            (x, peak + (foot - peak) * 0.4),
        ]
        cap += [
            (x + half * 0.14, peak + (foot - peak) * 0.3),
            (x + half * 0.36, peak + (foot - peak) * 0.36),
            (x, peak),
        ]
        c.polygon([(px * SIZE, py * SIZE) for px, py in cap], (246, 250, 255))
    c.hills(ground, 0.02, c.vary((226, 236, 246), 6))
    for _ in range(c.rng.randint(2, 6)):
        c.fir(c.between(0, 1), ground + c.between(0.01, 0.05), c.between(0.12, 0.2), c.vary((76, 112, 112)))
    c.hills(ground + 0.08, 0.025, c.vary((240, 246, 252), 5))
    c.hills(ground + 0.22, 0.02, (250, 252, 255))
    c.specks(110, 0, 1, (0.003, 0.007), (255, 255, 255), (244, 248, 255))
    return ground + 0.18, 0.95


def desert(c: Canvas) -> Band:
    ground = c.between(0.42, 0.52)
    c.gradient(0, ground + 0.08, (104, 176, 226), (250, 226, 180))
    c.sun(c.between(0.1, 0.9), c.between(0.09, 0.18), 0.055, (255, 236, 140))
    c.hills(ground, 0.045, c.vary((222, 156, 88)), 1.6)
    c.hills(ground + 0.07, 0.05, c.vary((206, 134, 66)), 1.4)
    c.hills(ground + 0.15, 0.04, c.vary((226, 160, 84)), 1.2)
    c.hills(ground + 0.3, 0.04, c.vary((236, 176, 100)), 1.0)
    for _ in range(26):
        x, y, half = c.between(0, 1), c.between(ground + 0.2, 0.98), c.between(0.03, 0.09)
        c.box(x - half, y, x + half, y + 0.004, (176, 112, 54, 80))
    return ground + 0.22, 0.95


def city_street(c: Canvas) -> Band:
    street = c.between(0.6, 0.66)
    c.gradient(0, street, (150, 178, 206), (214, 222, 226))
    x = c.between(-0.1, 0)
    while x < 1:
        width, top = c.between(0.12, 0.22), c.between(0.08, 0.34)
        wall = c.vary(c.rng.choice(((150, 96, 80), (124, 128, 140), (178, 160, 132), (96, 112, 136), (168, 130, 110))))
        c.box(x, top, x + width - 0.006, street, wall)
        lit = c.rng.choice(((250, 232, 160), (198, 222, 238), (70, 84, 104)))
        columns = max(2, round(width / 0.055))
        for row in range(int((street - top - 0.05) / 0.07)):
            for column in range(columns):
                left, up = x + width * (column + 0.25) / columns, top + 0.025 + 0.07 * row
                c.box(left, up, left + width * 0.5 / columns, up + 0.038, c.vary(lit, 20))
        x += width
    c.box(0, street, 1, street + 0.07, c.vary((178, 176, 172)))
    c.box(0, street + 0.066, 1, street + 0.076, (120, 118, 116))
    c.gradient(street + 0.076, 1, (92, 94, 98), (66, 68, 72))
    offset, lane = c.between(-0.2, 0), street + c.between(0.2, 0.24)
    for dash in range(6):
        left = offset + 0.24 * dash
        c.polygon(
            [
                (left * SIZE, lane * SIZE),
                ((left + 0.12) * SIZE, lane * SIZE),
                ((left + 0.11) * SIZE, (lane + 0.018) * SIZE),
                ((left - 0.01) * SIZE, (lane + 0.018) * SIZE),
            ],
            (236, 226, 160),
        )
    return street + 0.12, 0.95


def kitchen(c: Canvas) -> Band:
    counter = c.between(0.56, 0.62)
    wall = c.vary(c.rng.choice(((236, 224, 200), (206, 226, 222), (240, 232, 222), (228, 212, 214))), 8)
    c.box(0, 0, 1, counter, wall)
    step, joint = c.between(0.085, 0.11), tuple(max(0, v - 26) for v in wall)
    for number in range(14):
        at = number * step
        c.box(at, 0.24, at + 0.006, counter, joint)
        if at + 0.24 < counter:
            c.box(0, 0.24 + at, 1, 0.246 + at, joint)
    wood = c.vary(c.rng.choice(((150, 100, 62), (226, 226, 220), (92, 124, 132), (178, 130, 84))))
    doors = c.rng.randint(3, 4)
    for door in range(doors):
        left, right = door / doors, (door + 1) / doors
        c.box(left, 0, right - 0.008, 0.22, wood)
        c.box(left + 0.03, 0.02, right - 0.04, 0.19, (*c.vary(wood, 4), 255))
        c.box(left + 0.03, 0.02, right - 0.04, 0.19, (0, 0, 0, 26))
        c.disc(right - 0.035, 0.2, 0.008, (210, 206, 196))
    if c.rng.random() < 0.6:
        left = c.between(0.08, 0.6)
        c.box(left - 0.012, 0.268, left + 0.312, 0.502, (250, 250, 246))
        c.box(left, 0.28, left + 0.3, 0.49, (160, 208, 238))
        c.box(left + 0.145, 0.28, left + 0.157, 0.49, (250, 250, 246))
    c.gradient(counter, 1, (196, 160, 120), (166, 124, 84))
    c.box(0, counter, 1, counter + 0.014, (232, 204, 168))
    for _ in range(24):
        x, y, half = c.between(0, 1), c.between(counter + 0.03, 1), c.between(0.04, 0.2)
        c.box(x - half, y, x + half, y + 0.003, (130, 92, 58, 60))
    return counter + 0.12, 0.95


def meadow(c: Canvas) -> Band:
    ground = c.between(0.44, 0.52)
    c.gradient(0, ground + 0.05, (92, 168, 236), (204, 232, 248))
    c.clouds(4, low=0.26)
    c.hills(ground - 0.03, 0.04, c.vary((140, 188, 128)), 1.4)
    c.hills(ground + 0.03, 0.025, c.vary((124, 190, 76)), 1.6)
    c.hills(ground + 0.18, 0.02, c.vary((106, 178, 62)), 1.2)
    c.tufts(130, ground + 0.08, 1, (80, 148, 46), (142, 206, 86), (96, 166, 56))
    c.specks(c.rng.randint(12, 40), ground + 0.1, 1, (0.005, 0.009), (255, 255, 255), (252, 226, 92), (240, 170, 200))
    return ground + 0.18, 0.95


def underwater(c: Canvas) -> Band:
    c.gradient(0, 1, (70, 186, 214), (20, 112, 172), (8, 58, 118))
    for _ in range(c.rng.randint(3, 5)):
        x, width, lean = c.between(0, 1), c.between(0.03, 0.08), c.between(-0.2, 0.2)
        ray = [(x, 0.0), (x + width, 0.0), (x + 2.2 * width + lean, 0.9), (x - width + lean, 0.9)]
        c.polygon([(px * SIZE, py * SIZE) for px, py in ray], (220, 250, 255, 26))
    floor = c.between(0.82, 0.88)
    c.hills(floor, 0.025, c.vary((150, 150, 112)))
    c.hills(floor + 0.05, 0.02, c.vary((176, 170, 122)))
    for _ in range(c.rng.randint(5, 11)):
        x, tall, sway, green = c.between(0, 1), c.between(0.1, 0.26), c.between(0, 6), c.vary((34, 132, 88))
        weed = [((x + 0.014 * math.sin(sway + step)) * SIZE, (0.98 - tall * step / 8) * SIZE) for step in range(9)]
        c.draw.line(weed, fill=green, width=8, joint="curve")
    for _ in range(c.rng.randint(10, 24)):
        x, y, radius = c.rng.random(), c.between(0, 0.9), c.between(0.004, 0.014)
        c.disc(x, y, radius, (220, 245, 255, 110))
        c.disc(x - radius * 0.3, y - radius * 0.3, radius * 0.4, (255, 255, 255, 190))
    return 0.3, 0.93


def sunset(c: Canvas) -> Band:
    lake, shore = c.between(0.48, 0.56), c.between(0.72, 0.78)
    c.gradient(0, lake, (70, 44, 110), (206, 82, 100), (252, 150, 76), (255, 206, 120))
    x = c.between(0.15, 0.85)
    c.sun(x, lake - 0.03, 0.07, (255, 232, 160))
    c.clouds(3, (250, 140, 130, 90), low=0.3)
    c.hills(lake - 0.01, 0.02, c.vary((96, 50, 86), 8), 2.4, to=lake)
    c.gradient(lake, shore + 0.06, (238, 134, 90), (120, 60, 110), (70, 40, 92))
    for step in range(14):
        y = lake + 0.006 + (shore - lake) * step / 14
        half = 0.02 + 0.05 * c.rng.random()
        c.box(x - half, y, x + half, y + 0.006, (255, 226, 150, 170))
    c.hills(shore, 0.02, c.vary((62, 38, 58), 8))
    c.tufts(40, shore + 0.04, 1, (40, 26, 44), (90, 52, 66))
    return shore + 0.06, 0.95


PAINTERS: dict[str, Callable[[Canvas], Band]] = {
    "beach": beach,
    "forest": forest,
    "night sky": night_sky,
    "snow": snow,
    "desert": desert,
    "city street": city_street,
    "kitchen": kitchen,
    "meadow": meadow,
    "underwater": underwater,
    "sunset": sunset,
}

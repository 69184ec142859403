"""Paint scenes: `python demo/scenes.py --seed S --count N --out DIR` writes JPEGs and captions.jsonl.

A scene is a place with one thing, two of a thing, or two things in it. `(seed, index)` decides everything: what is
there, where, the captions and the queries. Each 1,000 consecutive scenes show every thing in every place. The things
are glyphs of Noto Color Emoji.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

if not __package__:  # run as a file, without the package installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import phrases
from demo.phrases import Item
from demo.places import PAINTERS, Band, Canvas
from demo.vocabulary import PLACES, THINGS, Place, Thing

DEFAULT_SIZE = 256
JPEG_QUALITY = 85
FONT_PATHS = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),
)
FONT_PIXELS = 109  # the only size of the font's bitmaps
# A round of scenes shows every thing in every place exactly once, in three of the places two of it.
SCENES_PER_PLACE = 100
ROUND = SCENES_PER_PLACE * len(PLACES)
_TWICE = 3


class FontMissingError(Exception):
    """Noto Color Emoji is not installed."""


@dataclass(frozen=True)
class Scene:
    """The content of one image."""

    seed: int
    index: int
    place: Place
    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        return f"{self.seed:04d}-{self.index:06d}.jpg"

    def record(self) -> dict[str, str | list[str]]:
        """The record in captions.jsonl; its tags are the general words for the things."""
        rng = Random(f"words {self.seed} {self.index}")
        return {
            "key": self.key,
            "caption": phrases.english(rng, rng.choice(phrases.CAPTIONS), self.place, self.items),
            "caption_zh": phrases.chinese(rng, rng.choice(phrases.CAPTIONS_ZH), self.place, self.items),
            "query": phrases.english(rng, rng.choice(phrases.QUERIES), self.place, self.items),
            "query_zh": phrases.chinese(rng, rng.choice(phrases.QUERIES_ZH), self.place, self.items),
            "tags": sorted({group for item in self.items for group in item.thing.groups}),
            "place": self.place.name,
        }


def compose(seed: int, index: int) -> Scene:
    """Choose the content of scene `index` of `seed`."""
    place, items = _round(seed, index // ROUND)[index % ROUND]
    return Scene(seed, index, place, items)


@cache
def _round(seed: int, number: int) -> tuple[tuple[Place, tuple[Item, ...]], ...]:
    """The places and items of `ROUND` consecutive scenes, in random order."""
    rng = Random(f"round {seed} {number}")
    places = rng.sample(PLACES, len(PLACES))
    twice: dict[str, list[Thing]] = {place.name: [] for place in PLACES}
    for turn, thing in enumerate(rng.sample(THINGS, len(THINGS))):  # in turn, so that each place gets its share
        for step in range(_TWICE):
            twice[places[(turn + 3 * step) % len(places)].name].append(thing)
    dealt = [(place, items) for place in PLACES for items in _deal(rng, twice[place.name])]
    rng.shuffle(dealt)
    return tuple(dealt)


def _deal(rng: Random, twice: list[Thing]) -> list[tuple[Item, ...]]:
    """Deal all things to the scenes of one place. Those in `twice` are there alone, two of each."""
    once = [Item(thing, 1) for thing in rng.sample(THINGS, len(THINGS)) if thing not in twice]
    pairs = len(THINGS) - SCENES_PER_PLACE
    dealt: list[tuple[Item, ...]] = [(Item(thing, 2),) for thing in twice]
    dealt += zip(once[:pairs], once[pairs : 2 * pairs], strict=True)
    dealt += [(item,) for item in once[2 * pairs :]]
    return dealt


def paint(seed: int, index: int, size: int = DEFAULT_SIZE) -> Image.Image:
    """Paint scene `index` of `seed`, a square RGB image.

    Raises FontMissingError without Noto Color Emoji.
    """
    scene = compose(seed, index)
    rng = Random(f"paint {seed} {index}")
    canvas = Canvas(rng)
    ground = PAINTERS[scene.place.name](canvas)
    canvas.grain()
    image = canvas.image.reduce(2)
    floating = scene.place.name == "underwater"
    for spot in sorted(_arrange(rng, scene, ground), key=lambda spot: spot.foot):
        _place_sprite(rng, image, spot, floating)
    return image if image.width == size else image.resize((size, size), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Spot:
    """Position of a sprite in fractions of the image: its middle, its foot and its side length."""

    emoji: str
    x: float
    foot: float
    side: float
    in_air: bool


def _arrange(rng: Random, scene: Scene, ground: Band) -> Iterator[_Spot]:
    """Place every thing at the position, out of a few tries, that overlaps least with those before."""
    total = sum(item.count for item in scene.items)
    low, high = (0.38, 0.52) if total == 1 else (0.31, 0.4)
    taken: list[_Spot] = []
    for item in scene.items:
        kind_side = rng.uniform(low, high)
        for _ in range(item.count):
            side = kind_side * rng.uniform(0.88, 1.08)
            tries = [_try_spot(rng, item.thing.emoji, item.thing.zone, side, ground) for _ in range(40)]
            best = min(tries, key=lambda spot: sum(_overlap(spot, other) for other in taken))
            taken.append(best)
            yield best


def _try_spot(rng: Random, emoji: str, zone: str, side: float, ground: Band) -> _Spot:
    in_air = zone == "sky" or (zone == "any" and rng.random() < 0.5)
    top, bottom = (side + 0.03, max(side + 0.05, ground[0])) if in_air else (max(ground[0], side + 0.03), ground[1])
    foot = rng.uniform(top, bottom)
    if not in_air:  # things in the foreground are bigger
        side *= 0.85 + 0.25 * (foot - top) / max(0.05, bottom - top)
    return _Spot(emoji, rng.uniform(0.03 + side / 2, 0.97 - side / 2), foot, side, in_air)


def _overlap(a: _Spot, b: _Spot) -> float:
    wide = min(a.x + a.side / 2, b.x + b.side / 2) - max(a.x - a.side / 2, b.x - b.side / 2)
    high = min(a.foot, b.foot) - max(a.foot - a.side, b.foot - b.side)
    return max(0.0, wide) * max(0.0, high)


def _place_sprite(rng: Random, image: Image.Image, spot: _Spot, floating: bool) -> None:
    full = image.width
    whole = sprite(spot.emoji)
    scale = spot.side * full / max(whole.size)
    glyph = whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tilt = rng.uniform(-14, 14) if spot.in_air or floating else rng.uniform(-5, 5)
    glyph = glyph.rotate(tilt, Image.Resampling.BILINEAR, expand=True)
    x, foot = round(spot.x * full), round(spot.foot * full)
    if not (spot.in_air or floating):
        half, flat = round(glyph.width * 0.42), max(2, round(glyph.height * 0.07))
        shadow = Image.new("L", (4 * half, 4 * flat))
        ImageDraw.Draw(shadow).ellipse((0, 0, 4 * half - 1, 4 * flat - 1), fill=90)
        image.paste((20, 20, 30), (x - half, foot - flat - flat // 2), shadow.reduce(2))
    image.paste(glyph, (x - glyph.width // 2, foot - glyph.height), glyph)


@cache
def sprite(emoji: str) -> Image.Image:
    """The glyph on a transparent background, cropped."""
    glyph = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(glyph).text((8, 8), emoji, font=_font(), embedded_color=True)
    box = glyph.getbbox()
    if box is None:
        raise FontMissingError(
            f"The installed Noto Color Emoji has no glyph for {emoji!r}; install a version of 2020 or later."
        )
    return glyph.crop(box)


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(find_font(), FONT_PIXELS)


def find_font(paths: Sequence[Path] = FONT_PATHS) -> Path:
    """Path of the installed Noto Color Emoji. Raise FontMissingError."""
    for path in paths:
        if path.is_file():
            return path
    raise FontMissingError(
        f"Noto Color Emoji is not installed (looked for {', '.join(map(str, paths))}). "
        "On Debian or Ubuntu: apt-get install fonts-noto-color-emoji."
    )


def _write(seed: int, index: int, size: int, out: Path) -> dict[str, str | list[str]]:
    scene = compose(seed, index)
    paint(seed, index, size).save(out / scene.key, quality=JPEG_QUALITY)
    return scene.record()


def main(argv: list[str] | None = None, font_paths: Sequence[Path] = FONT_PATHS) -> int:
    parser = argparse.ArgumentParser(
        prog="demo/scenes.py", description="Paint sample scenes with captions and queries."
    )
    parser.add_argument(
        "--seed",
        type=int,
        required=True,
        help="decides what is painted; 1 and 2 are the shipped models' training and evaluation",
    )
    parser.add_argument("--count", type=int, required=True, help="number of scenes")
    parser.add_argument("--out", type=Path, required=True, help="directory for the JPEGs and captions.jsonl")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="side of an image in pixels (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="painting processes (%(default)s)")
    args = parser.parse_args(argv)
    if args.seed < 0 or min(args.count, args.workers) < 1 or not 16 <= args.size <= 2048:
        parser.error("--seed must not be negative, --count and --workers at least 1, --size between 16 and 2048")
    try:
        find_font(font_paths)
        args.out.mkdir(parents=True, exist_ok=True)
        _paint_all(args.seed, args.count, args.size, args.workers, args.out)
    except (FontMissingError, OSError) as error:
        print(f"demo/scenes.py: {error}", file=sys.stderr)
        return 2
    return 0


def _paint_all(seed: int, count: int, size: int, workers: int, out: Path) -> None:
    started = time.monotonic()
    with ProcessPoolExecutor(workers) as pool, (out / "captions.jsonl").open("w", encoding="utf-8") as captions:
        records = pool.map(_write, repeat(seed), range(count), repeat(size), repeat(out), chunksize=16)
        for done, record in enumerate(records, 1):
            captions.write(json.dumps(record, ensure_ascii=False) + "\n")
            if done == count or done % 50 == 0:
                rate = done / (time.monotonic() - started)
                end = "\n" if done == count else "\r"
                print(f"{done:,} of {count:,} scenes, {rate:.0f} a second  ", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Train the demo's models: `python demo/train.py [--model demo|demo-small] [--out DIR]`, about an hour on two cores.

A CLIP of open_clip's own classes, saved as a directory that `local-dir:` loads. Only the tokens of the painted world
are trained; all others share one zero vector, so that unknown words neither help nor hurt.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from random import Random

import open_clip
import torch
from torch.nn.functional import cross_entropy, normalize

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.clip import DIRECTORIES, MODELS, PREPROCESS, build, encode_text, load, save, with_unknown_words
from demo.phrases import FACTS
from demo.recall import evaluate
from demo.refinement import MAX_LOGIT_SCALE, Queries, image_features, refine
from demo.scenes import FontMissingError, find_font
from demo.training_data import LANGUAGES, Batch, Dataset

TRAINING_SEED = 1
BATCH_SIZE = 256
LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
CHECKPOINT_STEPS = 250
FACT_SCALE = 20.0
MASKED_SHARE, MASKED_UNTIL = 0.5, 0.7  # mask half the patches until 70 % of the run, as in FLIP (arXiv:2212.00794)
REFINING_STEPS = 400
# Steps, scenes, and the minutes after which the schedule ends in any case.
DEFAULTS = {"demo": (2_400, 30_000, 45), "demo-small": (2_000, 20_000, 10)}


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss over scaled logits, ignoring pairs that are not `allowed` as negatives."""
    logits = (images @ texts.T).masked_fill(~allowed, float("-inf"))
    labels = torch.arange(len(logits))
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def augment(images: torch.Tensor, rng: Random) -> torch.Tensor:
    """Mirror half of the images, shift all, vary brightness; uint8 in, normalized float32 out."""
    size, margin = images.shape[-1], 3
    pixels = images.float() / 255
    mirrored = torch.rand(len(pixels)) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(-1)
    top, left = rng.randint(0, 2 * margin), rng.randint(0, 2 * margin)
    pixels = torch.nn.functional.pad(pixels, (margin,) * 4, mode="reflect")[..., top : top + size, left : left + size]
    pixels = pixels * (0.85 + 0.3 * torch.rand(len(pixels), 1, 1, 1))
    mean, std = (torch.tensor(PREPROCESS[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels.clamp(0, 1) - mean) / std


class Facts(torch.nn.Module):
    """One direction for each fact of the painted world, used only in training.

    Images and texts are pulled towards the facts that they show or state, so that each tower learns before the other
    one is useful to it.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.directions = torch.nn.Parameter(torch.randn(len(FACTS), dimension))

    def forward(self, vectors: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Cross entropy of unit vectors [B, D] against the facts [B, F] that are 1 where true."""
        logits = FACT_SCALE * vectors @ normalize(self.directions, dim=-1).T
        return cross_entropy(logits, true / true.sum(1, keepdim=True))


def step_loss(
    model: open_clip.CLIP, facts: Facts, batch: Batch, known: torch.Tensor, rng: Random, bf16: bool
) -> torch.Tensor:
    """The mean of the contrastive losses of the two languages, and that of the fact losses of images and texts."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # the text towers are too narrow to benefit
        images = model.encode_image(augment(batch.images, rng))
    images = normalize(images.float(), dim=-1)
    loss = facts(images, batch.shown)
    for language in LANGUAGES:
        tokens = with_unknown_words(torch.searchsorted(known, batch.tokens[language]))
        texts = normalize(encode_text(model, tokens), dim=-1)
        contrastive = contrastive_loss(model.logit_scale.exp() * images, texts, batch.allowed[language])
        loss = loss + (contrastive + facts(texts, batch.claimed[language])) / len(LANGUAGES)
    return loss


def train(
    name: str,
    out: Path,
    steps: int,
    scenes: int,
    minutes: float,
    rate: float,
    bf16: bool,
    start: Path | None,
    refining_steps: int,
) -> int:
    """Train, refine and save; returns the steps done before the refinement.

    The schedule of the training ends after `steps` or `minutes`, whichever comes first.
    """
    torch.manual_seed(0)
    rng = Random(0)
    config = MODELS[name]
    data = Dataset(TRAINING_SEED, scenes, config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"])
    queries = Queries(data, rng)
    known = torch.unique(torch.cat([data.known_tokens(), queries.known_tokens()]))
    model = build(config, len(known))
    if start:
        load(model, known, start)
    model.visual.patch_dropout = open_clip.transformer.PatchDropout(MASKED_SHARE)
    facts = Facts(config["embed_dim"])
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": [*plain, *facts.parameters()], "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    counts = {
        part: sum(p.numel() for p in module.parameters()) for part, module in (("all", model), ("image", model.visual))
    }
    print(
        f"{name}: {counts['image']:,} image parameters, {counts['all']:,} trained in all, {len(known):,} known tokens"
    )

    started, smooth, done = time.monotonic(), 0.0, 0
    model.train()
    while done < steps:
        elapsed = time.monotonic() - started
        progress = max(done / steps, elapsed / 60 / minutes)
        if progress >= 1:
            break
        if progress >= MASKED_UNTIL:
            model.visual.patch_dropout = torch.nn.Identity()
        warm = min(1.0, (done + 1) / WARMUP_STEPS)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        loss = step_loss(model, facts, data.batch(rng, BATCH_SIZE), known, rng, bf16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        done += 1
        smooth = loss.item() if done == 1 else 0.95 * smooth + 0.05 * loss.item()
        _progress_line(done, steps, smooth, progress, time.monotonic() - started)
        if done % CHECKPOINT_STEPS == 0:
            save(model, known, config, out)
    print(file=sys.stderr)
    model.visual.patch_dropout = torch.nn.Identity()
    refine(model, image_features(model, data.images), known, data, queries, refining_steps)
    save(model, known, config, out)
    return done


def _progress_line(done: int, steps: int, loss: float, progress: float, elapsed: float) -> None:
    bar = "#" * round(24 * progress)
    left = elapsed / max(progress, 1e-6) * (1 - progress)
    rate = done * BATCH_SIZE / elapsed
    line = f"[{bar:24}] {done:,}/{steps:,} loss {loss:.3f}  {rate:.0f} scenes/s  {left / 60:.1f} min left "
    print(line, file=sys.stderr, end="\r", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo/train.py", description="Train a demo model on painted scenes.")
    parser.add_argument("--model", choices=MODELS, default="demo", help="model to train (%(default)s)")
    parser.add_argument("--out", type=Path, help="directory to write (default: that of the shipped model)")
    parser.add_argument("--steps", type=int, help="steps of 256 scenes; 0 with --start: only refine")
    parser.add_argument(
        "--refining-steps", type=int, default=REFINING_STEPS, help="steps of the refinement (%(default)s)"
    )
    parser.add_argument("--scenes", type=int, help="scenes to paint for training")
    parser.add_argument("--minutes", type=float, help="the learning rate reaches zero after this time at the latest")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 autocast")
    parser.add_argument(
        "--learning-rate", type=float, default=LEARNING_RATE, help="maximum learning rate (%(default)s)"
    )
    parser.add_argument("--start", type=Path, help="a model directory to train further")
    args = parser.parse_args(argv)
    try:
        find_font()
    except FontMissingError as error:
        print(f"demo/train.py: {error}", file=sys.stderr)
        return 2
    steps, scenes, minutes = DEFAULTS[args.model]
    out = args.out or DIRECTORIES[args.model]
    steps = steps if args.steps is None else args.steps
    scenes, minutes = args.scenes or scenes, args.minutes or minutes
    if scenes < BATCH_SIZE or min(steps, args.refining_steps) < 0 or minutes <= 0:
        parser.error(f"--scenes must be at least {BATCH_SIZE}, --minutes positive, and no number of steps negative")
    started = time.monotonic()
    done = train(
        args.model, out, steps, scenes, minutes, args.learning_rate, args.bf16, args.start, args.refining_steps
    )
    print(f"{done:,} steps, {(time.monotonic() - started) / 60:.1f} minutes with painting, written to {out}")
    for name, value in evaluate(out).items():
        print(f"{name:28} {value:6.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train the linear part of the stand-in's VAE.

    python -m weights.stand_in.train_vae FOLDER [--fit-only]

`FOLDER` holds the unpacked packages that `photographs.py` names. Written are `vae.safetensors`, the
trained numbers, and `vae_training.json`, how they came about, beside this file.

Encoder and decoder are trained together; see `chain.py`. What moves a picture by part of a cell is
fitted after that; see `fit_shifts.py`. With `--fit-only` encoder and decoder stay as they are.
Seconds are those of the training, on one core.
"""

import argparse
import bz2
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from weights.stand_in.chain import Chain, decode, encode, first_chain
from weights.stand_in.fit_shifts import crops as fit_crops
from weights.stand_in.fit_shifts import fit, fit_token, move_tokens, view
from weights.stand_in.layout import MOVES
from weights.stand_in.photographs import TRAINING, Photograph
from weights.stand_in.vae import NUMBERS

HERE = Path(__file__).parent
REPORT = HERE / "vae_training.json"
HELD_OUT = HERE.parents[1] / "benchmarks" / "photographs"
SEED = 0
STEPS = 5000
BATCH, CROP = 12, 96
SHIFT_STEPS = 1000
SHIFT_BATCH, SHIFT_CROP = 8, 144


def picture(photograph: Photograph, folder: Path) -> Image.Image:
    path = photograph.find(folder)
    if path.suffix == ".dat":
        rgb = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
        return Image.fromarray(rgb)
    return Image.open(path).convert("RGB")


def tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy())
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def training_pictures(folder: Path) -> list[torch.Tensor]:
    """Each at three sizes, the shorter side 416 pixels at most."""
    pictures = []
    for photograph in TRAINING:
        image = picture(photograph, folder)
        for side in (416, 290, 200):
            scale = min(1.0, side / min(image.size))
            size = (round(image.width * scale), round(image.height * scale))
            pictures.append(tensor(image.resize(size, Image.Resampling.LANCZOS)))
    return pictures


def held_out() -> torch.Tensor:
    return torch.stack([tensor(Image.open(path)) for path in sorted(HELD_OUT.glob("*.png"))])


def crops(
    pictures: list[torch.Tensor], rng: np.random.Generator, batch_size: int, side: int
) -> Iterator[torch.Tensor]:
    while True:
        batch = []
        for index in rng.integers(len(pictures), size=batch_size):
            _, height, width = pictures[index].shape
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            crop = pictures[index][:, top : top + side, left : left + side]
            batch.append(crop.flip(2) if rng.random() < 0.5 else crop)
        yield torch.stack(batch)


def psnr(pictures: torch.Tensor, others: torch.Tensor) -> list[float]:
    """In decibels, of each picture."""
    errors = (pictures.clamp(-1, 1) - others).square().mean((1, 2, 3))
    return [round(float(10 * torch.log10(4 / error)), 2) for error in errors]


def block_pca(pictures: list[torch.Tensor], tests: torch.Tensor, components: int) -> list[float]:
    """What the best `components` numbers for a block of 8x8 pixels would reach."""

    def blocks(image: torch.Tensor) -> torch.Tensor:
        _, height, width = image.shape
        image = image[:, : height // 8 * 8, : width // 8 * 8]
        return image.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).reshape(-1, 192)

    generator = torch.Generator().manual_seed(SEED)
    sample = []
    for image in pictures:
        rows = blocks(image)
        sample.append(rows[torch.randperm(len(rows), generator=generator)[:1500]])
    rows = torch.cat(sample)
    mean = rows.mean(0)
    directions = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:components]
    values = []
    for test in tests:
        rows = blocks(test)
        again = (rows - mean) @ directions.T @ directions + mean
        error = (again.clamp(-1, 1) - rows).square().mean()
        values.append(round(float(10 * torch.log10(4 / error)), 2))
    return values


def train(pictures: list[torch.Tensor], tests: torch.Tensor) -> tuple[Chain, list[dict[str, Any]]]:
    """The chain, averaged over the last steps, and its mean PSNR on the way."""
    chain = first_chain(torch.Generator().manual_seed(SEED))
    parameters = [value.requires_grad_() for value in chain.values()]
    average = {name: value.detach().clone() for name, value in chain.items()}
    optimizer = torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.99))
    curve = []
    batches = crops(pictures, np.random.default_rng(SEED), BATCH, CROP)
    for step in range(STEPS):
        progress = step / STEPS
        rate = 4e-3 * min(1.0, step / 50 + 0.02) * min(1.0, (1 - progress) / 0.5 + 0.01)
        optimizer.param_groups[0]["lr"] = rate
        batch = next(batches)
        latents = encode(chain, batch)
        # Noise keeps the latents at a size at which the sampler's last errors do not show.
        latents = latents + 0.03 * torch.randn(latents.shape)
        error = decode(chain, latents) - batch
        # A channel of variance 1 is what the sampler expects.
        spread = (latents.square().mean((0, 2, 3)) - 1).square().mean()
        loss = _size(error) + 0.001 * spread
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # it has no annotations
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        with torch.no_grad():
            for name, value in chain.items():
                average[name].lerp_(value, 1 - min(0.99, step / (step + 10)))
            if (step + 1) % 250 == 0:
                values = psnr(decode(average, encode(average, tests)), tests)
                curve.append({"step": step + 1, "psnr_db": round(sum(values) / len(values), 2)})
                print(curve[-1], flush=True)
    return average, curve


def train_for_shifts(
    chain: Chain, pictures: list[torch.Tensor], tests: torch.Tensor
) -> list[dict[str, Any]]:
    """Go on, in place, until latents can also be moved by half a cell; the mean PSNR on the way.

    The best maps for a chain that was trained for pictures that stand still lose 4 dB.
    """
    torch.manual_seed(SEED)
    moves = [move for move in MOVES if move.speed == 1]
    with torch.no_grad():
        maps = {move: fit_token(chain, fit_crops(pictures), move) for move in moves}
    kernels = [value.requires_grad_() for value in chain.values()]
    matrices = [value.requires_grad_() for value in maps.values()]
    groups = [{"params": kernels}, {"params": matrices}]
    optimizer = torch.optim.Adam(groups, lr=1.0, betas=(0.9, 0.99))
    batches = crops(pictures, np.random.default_rng(SEED + 1), SHIFT_BATCH, SHIFT_CROP)
    curve = []
    for step in range(SHIFT_STEPS):
        progress = step / SHIFT_STEPS
        rate = 1.5e-3 * min(1.0, step / 30 + 0.03) * min(1.0, (1 - progress) / 0.7 + 0.01)
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, 2 * rate
        batch, move = next(batches), moves[step % len(moves)]
        still, moved = view(batch, move, 0), view(batch, move, 4)
        latents = encode(chain, still)
        spread = (latents.square().mean((0, 2, 3)) - 1).square().mean()
        latents = latents + 0.03 * torch.randn(latents.shape)
        error = decode(chain, latents) - still
        shifted = move_tokens(latents, move, maps[move])
        shift_error = (decode(chain, shifted) - moved)[..., 24:-24, 24:-24]
        loss = _size(error) + 0.4 * _size(shift_error) + 0.001 * spread
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # it has no annotations
        torch.nn.utils.clip_grad_norm_(kernels + matrices, 0.5)
        optimizer.step()
        if (step + 1) % 500 == 0:
            with torch.no_grad():
                values = psnr(decode(chain, encode(chain, tests)), tests)
            curve.append({"step": STEPS + step + 1, "psnr_db": round(sum(values) / len(values), 2)})
            print(curve[-1], flush=True)
    for value in chain.values():
        value.requires_grad_(False)
    return curve


def _size(error: torch.Tensor) -> torch.Tensor:
    return error.square().mean() + 0.1 * error.abs().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the linear part of the stand-in's VAE.")
    parser.add_argument("folder", type=Path, help="where the unpacked packages are")
    parser.add_argument("--fit-only", action="store_true", help="keep the encoder and the decoder")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pictures, tests = training_pictures(options.folder), held_out()
    if options.fit_only:
        numbers = {name: value.float() for name, value in load_file(NUMBERS).items()}
        chain = {name: numbers[name] for name in first_chain(torch.Generator())}
        report = json.loads(REPORT.read_text())
    else:
        begun = time.process_time()
        chain, curve = train(pictures, tests)
        curve += train_for_shifts(chain, pictures, tests)
        report = {
            "seed": SEED,
            "steps": STEPS + SHIFT_STEPS,
            "cpu_seconds": round(time.process_time() - begun),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "curve": curve,
        }
    with torch.no_grad():
        chain |= fit(chain, pictures)
    chain = {name: value.to(torch.float16).contiguous() for name, value in chain.items()}
    save_file(chain, NUMBERS)
    kept = {name: value.float() for name, value in chain.items()}
    report |= {
        "numbers": sum(value.numel() for value in chain.values()),
        "held_out": [path.stem for path in sorted(HELD_OUT.glob("*.png"))],
        "psnr_db": psnr(decode(kept, encode(kept, tests)), tests),
        "block_pca_16_db": block_pca(pictures, tests, 16),
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

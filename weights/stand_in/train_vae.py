"""Train the linear part of the stand-in's VAE: `python -m weights.stand_in.train_vae FOLDER`.

`FOLDER` holds the unpacked packages that `photographs.py` names. Written are `vae.safetensors`, the
trained numbers, and `vae_training.json`, how they came about, beside this file.

Encoder and decoder are chains of convolutions with nothing between them; `vae.py` puts them where
the layers of AutoencoderKLWan compute the same. Seconds are of one core.
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
from safetensors.torch import save_file
from torch.nn import functional

from weights.stand_in.photographs import TRAINING, Photograph

HERE = Path(__file__).parent
HELD_OUT = HERE.parents[1] / "benchmarks" / "photographs"
SEED = 0
STEPS = 5000
BATCH, CROP = 12, 96
COLOURS = 14
"""Latent channels that hold the picture. The other two of 16 hold the camera's move."""

Chain = dict[str, torch.Tensor]


def first_chain(generator: torch.Generator) -> Chain:
    """Random kernels by name: outputs, inputs, 3, 3."""

    def kernel(outputs: int, inputs: int, gain: float = 1.0) -> torch.Tensor:
        random = torch.randn((outputs, inputs, 3, 3), generator=generator)
        return random.mul(gain / (9 * inputs) ** 0.5)

    return {
        "encode.0": kernel(12, 3, 2.0),
        "encode.1": kernel(12, 12, 2.0),
        "encode.2": kernel(24, 12, 2.0),
        "encode.3": kernel(COLOURS, 24, 2.0),
        "encode.bias": torch.zeros(COLOURS),
        "decode.in": kernel(16, COLOURS),
        "decode.0": kernel(16, 16),
        "decode.1": kernel(32, 16),
        "decode.shortcut": torch.randn((16, 32, 1, 1), generator=generator) / 32**0.5,
        "decode.2": kernel(3, 16),
        "decode.out": kernel(3, 3),
        "decode.bias": torch.zeros(3),
    }


def encode(chain: Chain, pictures: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] in -1..1 to latents [N, 14, H/8, W/8]."""
    hidden = functional.conv2d(pictures, chain["encode.0"], padding=1)
    for layer in ("encode.1", "encode.2", "encode.3"):
        # The encoder of the class pads below and on the right alone.
        hidden = functional.conv2d(functional.pad(hidden, (0, 1, 0, 1)), chain[layer], stride=2)
    return hidden + chain["encode.bias"][:, None, None]


def decode(chain: Chain, latents: torch.Tensor) -> torch.Tensor:
    """The inverse, as well as it can."""
    hidden = functional.conv2d(latents, chain["decode.in"], padding=1)
    for layer in ("decode.0", "decode.1", "decode.2"):
        hidden = functional.interpolate(hidden, scale_factor=2.0, mode="nearest-exact")
        hidden = functional.conv2d(hidden, chain[layer], padding=1)
        if layer == "decode.1":
            hidden = functional.conv2d(hidden, chain["decode.shortcut"])
    return functional.conv2d(hidden, chain["decode.out"], chain["decode.bias"], padding=1)


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


def crops(pictures: list[torch.Tensor], rng: np.random.Generator) -> Iterator[torch.Tensor]:
    while True:
        batch = []
        for index in rng.integers(len(pictures), size=BATCH):
            _, height, width = pictures[index].shape
            top, left = rng.integers(height - CROP + 1), rng.integers(width - CROP + 1)
            crop = pictures[index][:, top : top + CROP, left : left + CROP]
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


STEPS_OF_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def half_shifts(chain: Chain, pictures: list[torch.Tensor]) -> Chain:
    """Matrices [56, 112] that move the picture by 4 pixels in a token, by direction.

    Least squares, from the latents of a token (2x2 cells of 14 numbers, a channel's four together)
    and those of the token that the picture comes from, to those of the same token of the moved one.
    """
    matrices = {}
    for name, (x, y) in STEPS_OF_DIRECTIONS.items():
        before, after = [], []
        for picture in pictures:
            height, width = (size // 16 * 16 - 16 for size in picture.shape[1:])
            still, moved = (
                picture[None, :, 8 - 4 * y * by :, 8 - 4 * x * by :][:, :, :height, :width]
                for by in (0, 1)
            )
            own = tokens(encode(chain, still))
            beyond = own.roll((y, x), dims=(0, 1))
            # The tokens at the border are left out.
            inner = (slice(1, -1), slice(1, -1))
            before.append(torch.cat([own, beyond], -1)[inner].flatten(0, 1))
            after.append(tokens(encode(chain, moved))[inner].flatten(0, 1))
        rows, wanted = torch.cat(before).double(), torch.cat(after).double()
        # A ridge, because neighbouring numbers say nearly the same.
        gram = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1]).double()
        matrices[f"half.{name}"] = torch.linalg.solve(gram, rows.T @ wanted).T.float()
        error = (rows @ matrices[f"half.{name}"].double().T - wanted).square().mean().sqrt()
        print(name, "error of a moved latent", round(float(error), 3), flush=True)
    return matrices


def tokens(latents: torch.Tensor) -> torch.Tensor:
    """[1, C, 2 R, 2 S] to [R, S, 4 C]: of channel c and cell s, number 4 c + s."""
    grid = latents[0].unfold(1, 2, 2).unfold(2, 2, 2)
    return grid.permute(1, 2, 0, 3, 4).flatten(2)


def train(pictures: list[torch.Tensor], tests: torch.Tensor) -> tuple[Chain, list[dict[str, Any]]]:
    """The chain, averaged over the last steps, and its mean PSNR on the way."""
    chain = first_chain(torch.Generator().manual_seed(SEED))
    parameters = [value.requires_grad_() for value in chain.values()]
    average = {name: value.detach().clone() for name, value in chain.items()}
    optimizer = torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.99))
    curve = []
    batches = crops(pictures, np.random.default_rng(SEED))
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
        loss = error.square().mean() + 0.1 * error.abs().mean() + 0.001 * spread
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the unpacked packages are")
    folder = parser.parse_args().folder
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pictures, tests = training_pictures(folder), held_out()
    begun = time.process_time()
    chain, curve = train(pictures, tests)
    seconds = time.process_time() - begun
    with torch.no_grad():
        chain |= half_shifts(chain, pictures)
    chain = {name: value.to(torch.float16) for name, value in chain.items()}
    save_file({name: value.contiguous() for name, value in chain.items()}, HERE / "vae.safetensors")
    kept = {name: value.float() for name, value in chain.items()}
    report = {
        "seed": SEED,
        "steps": STEPS,
        "cpu_seconds": round(seconds),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "numbers": sum(value.numel() for value in chain.values()),
        "held_out": [path.stem for path in sorted(HELD_OUT.glob("*.png"))],
        "psnr_db": psnr(decode(kept, encode(kept, tests)), tests),
        "block_pca_16_db": block_pca(pictures, tests, 16),
        "curve": curve,
    }
    (HERE / "vae_training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

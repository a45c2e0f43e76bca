"""Draw the figures of docs/stand-in.md from the stand-in's weights.

python -m benchmarks.stand_in_figures docs
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.load import load_pipeline
from pipeline.network.attention import attend_native
from pipeline.network.transformer import CosmosTransformer
from weights.stand_in.checkpoint import write_stand_in
from weights.stand_in.layout import MOVES, SCALE, Stream, code_place
from weights.stand_in.text import RIGHT
from weights.store import WeightStore

FRAMES, ROWS, COLUMNS = 24, 11, 20
"""Of the longest video, in latent frames and tokens."""
INK, PAPER, LINE, MARK = (20, 60, 140), (255, 255, 255), (200, 200, 200), (220, 80, 20)


class Watched:
    """One step of the network for a video that moves right by 2 pixels a frame.

    Attributes:
        attention: of each block, queries and keys as its self-attention compares them, [S, H, E].
        made: of each block's input, and of the final layer's, which frames are made, [FRAMES].
    """

    @torch.inference_mode()
    def __init__(self, network: CosmosTransformer, text: Tensor, rows: int, columns: int) -> None:
        self.attention: list[tuple[Tensor, Tensor]] = []
        self.made: list[Tensor] = []
        tokens = FRAMES * rows * columns

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if key.shape[1] == tokens:
                self.attention.append((query[0].clone(), key[0].clone()))
            return attend_native(query, key, value)

        def see(_: object, inputs: tuple[Tensor, ...]) -> None:
            normed = inputs[0].reshape(FRAMES, rows * columns, -1).mean(1)
            # A norm subtracts the mean, which is what has become of a 0.
            self.made.append(SCALE * (normed[:, Stream.RESOLVED] - normed[:, Stream.STEADY_NULL]))

        blocks: Any = network.transformer_blocks
        # After block 0 and each block behind the pattern's.
        layers = [*(block.attn1 for block in blocks[2:]), network.proj_out]
        hooks = [layer.register_forward_pre_hook(see) for layer in layers]
        network.attend = attend
        noisy = torch.randn(1, 16, FRAMES, 2 * rows, 2 * columns)
        move = next(move for move in MOVES if (move.direction, move.speed) == (RIGHT, 2))
        code, sign = move.code
        channel, cell = code_place(code)
        noisy[:, 14:] = 0
        noisy[:, channel, 1:, cell // 2 :: 2, cell % 2 :: 2] = 6 * sign
        given = torch.zeros(1, FRAMES)
        given[:, 0] = 1
        rotary = network.rotary_tables(FRAMES, 2 * rows, 2 * columns)
        shared = network.forward_shared(noisy, given, 0.3 * (1 - given), rotary)
        network.forward_branch(shared, network.text_keys_values(text))
        for hook in hooks:
            hook.remove()


def draw_attention(watched: Watched, path: Path) -> None:
    """Where head 0 of block 5, which makes frames 4 to 7, looks from three places of frame 6."""
    query, key = (x[:, 0] for x in watched.attention[5])
    size, gap = 9, 6
    places = ((2, 4), (5, 12), (8, 0))
    step = COLUMNS * size + 2 * gap
    image = Image.new("RGB", (len(places) * step, ROWS * size + 2 * gap), PAPER)
    draw = ImageDraw.Draw(image)
    for index, (row, column) in enumerate(places):
        place = (6 * ROWS + row) * COLUMNS + column
        weights = torch.softmax(key @ query[place] / query.shape[-1] ** 0.5, 0)
        for y, x in torch.cartesian_prod(torch.arange(ROWS), torch.arange(COLUMNS)).tolist():
            # Of the frame that the weights are on, 4 before.
            weight = float(weights.view(FRAMES, ROWS, COLUMNS)[2, y, x])
            corner = (gap + index * step + x * size, gap + y * size)
            draw_square(draw, corner, size, weight)
        corner = (gap + index * step + column * size, gap + row * size)
        draw.rectangle((*corner, corner[0] + size, corner[1] + size), outline=MARK, width=2)
    image.save(path, optimize=True)


def draw_doubling(watched: Watched, path: Path) -> None:
    """Which latent frames are made, from left to right, after each block, from top to bottom."""
    size, gap = 18, 6
    shape = (FRAMES * size + 2 * gap + 1, len(watched.made) * size + 2 * gap + 1)
    image = Image.new("RGB", shape, PAPER)
    draw = ImageDraw.Draw(image)
    for row, made in enumerate(watched.made):
        for frame, share in enumerate(made.tolist()):
            draw_square(draw, (gap + frame * size, gap + row * size), size, share)
    image.save(path, optimize=True)


def draw_square(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, share: float
) -> None:
    """Filled from PAPER, for 0, to INK, for 1."""
    share = min(1.0, max(0.0, share))
    fill = tuple(round(p + share * (i - p)) for p, i in zip(PAPER, INK, strict=True))
    draw.rectangle((*corner, corner[0] + size, corner[1] + size), fill=fill, outline=LINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the figures go")
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch, "stand-in")
        write_stand_in(checkpoint, weights="moving")
        pipeline = load_pipeline(WeightStore(checkpoint), "cpu")
    watched = Watched(pipeline.transformer, pipeline.text.encode(""), ROWS, COLUMNS)
    draw_attention(watched, folder / "stand-in-attention.png")
    draw_doubling(watched, folder / "stand-in-doubling.png")


if __name__ == "__main__":
    main()

"""A Cosmos transformer whose weights are written down: it moves the given picture.

No number in here was trained but for four matrices that move a picture by 4 pixels, and three
directions of colour; both come from the VAE. The network predicts a velocity,
`(noisy - estimate) / sigma`, where the estimate of frame `t` is the given frame moved by `t` times
the camera's move:

1. Block 0 reads the move. The text asks for one of twelve (four directions, three speeds), or to
   hold still, by a code in two latent channels that the VAE does not show; all else reads the move
   from the noisy code, averaged over the whole video. So both guidance branches make the same
   picture, and guidance scales the code alone. Where nothing is asked for, the mean of
   the noise feeds itself until it is a code: a slow drift, the seed decides where.
2. Block 1 sees to it that one move is on at most, and writes what the text or the noise asks for.
   It also makes a pattern for the first frame, if none is given (`pattern.py`).
3. Block 2 makes the next frame from the given one: attention fetches the token that the picture
   comes from, or the halves of two, by rotary phase; the feed-forward lets it in. Block 3 moves the
   new frame by a quarter of a token if that is a slow one.
4. Blocks 4 to 7 double: frames 2 and 3 from 0 and 1, 4 to 7 from 0 to 3, and so on to 31.
5. The final layer subtracts the estimate and divides by sigma, which the modulation of the final
   norm computes from the time.

A latent frame is four frames of video; a cell 8 pixels, a token 2x2 cells.

A distilled one is sampled in few steps and without guidance, so its text may do more: the words
turn the move on, and the code only tells the decoder. Without a word the larger mean of the noise
does so at once.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weights.stand_in import camera, pattern, text
from weights.stand_in.copying import Aim, fetch, let_in, move_by_a_quarter
from weights.stand_in.feed_forward import Units
from weights.stand_in.layout import (
    AMPLITUDES,
    CELLS,
    CODES,
    COLOURS,
    CONSTANT,
    CONTENT,
    HEAD_WIDTH,
    HEADS,
    HOLD_AMPLITUDE,
    HOLD_CODE,
    LEVELS,
    MLP_RATIO,
    MOVES,
    QUIET,
    SCALE,
    WIDTH,
    Stream,
    code_place,
)

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
    from torch import Tensor

_ITSELF = Aim(0)
_AHEAD = Aim(2)
"""A frame that is not made yet, seen from the two that are: what is fetched there is 0, and
need not be cleared before the next block fetches more."""


def construct(
    transformer: "CosmosTransformer3DModel",
    quarters: "Mapping[int, tuple[Tensor, Tensor]]",
    colours: "Tensor",
    *,
    distilled: bool = False,
) -> None:
    """Write every weight, in place.

    Args:
        transformer: of `config()`.
        quarters: what moves a token by 4 pixels; see `copying.move_by_a_quarter`.
        colours: see `pattern.read_colours`.
        distilled: whether it is for TrigFlow, in few steps and without guidance.
    """
    import torch

    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.fill_(1 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0)
        _time(transformer)
        pattern.strengthen(transformer.time_embed)
        _final_layer(transformer, asks=not distilled)
        patch = transformer.patch_embed.proj.weight
        for dimension in Stream.NOISY:
            patch[dimension, dimension] = 1
        # The mask of given frames follows the 16 channels.
        for dimension in (Stream.RESOLVED, Stream.GIVEN):
            patch[dimension, 64 : 64 + CELLS] = 1 / CELLS
        blocks: Any = transformer.transformer_blocks
        units = [Units(block.ff) for block in blocks]
        _pool_code_and_bring_in_constants(blocks[0].attn1)
        camera.read_text(transformer.crossattn_proj[0], blocks[0].attn2)
        _read_given(units[0])
        pattern.tell_the_first_frame(blocks[0].attn1, units[0])
        pattern.read_colours(units[0], colours)
        pattern.paint(blocks[1].attn1, units[1], colours)
        if distilled:
            camera.let_words_move(units[0])
            camera.let_noise_move(blocks[0].attn1, units[0], units[1])
        else:
            camera.read_code(units[0])
            camera.let_one_move_be_on(units[1])
            camera.let_words_ask(units[1])
            camera.let_noise_ask(units[1])
            camera.confirm(units[4], units[5])
        # A slow move is less than half a token, and left to block 3.
        fast = {move: move.shift_px(0) for move in MOVES if move.speed > 1}
        slow = {move: move.shift_px(0) for move in MOVES if move.speed == 1}
        fetch(blocks[2].attn1, 1, fast, _ITSELF)
        let_in(units[2])
        fetch(blocks[3].attn1, 0, slow, _AHEAD)
        move_by_a_quarter(units[3], quarters)
        for level in range(1, LEVELS):
            shifts = {move: move.shift_px(level) for move in MOVES}
            fetch(blocks[3 + level].attn1, 2**level, shifts, _ITSELF)
            let_in(units[3 + level])
        _take_out_means(transformer)


def config() -> dict[str, Any]:
    """The arguments of CosmosTransformer3DModel."""
    return {
        "in_channels": 17,
        "out_channels": 16,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_WIDTH,
        "num_layers": 3 + LEVELS,
        "mlp_ratio": MLP_RATIO,
        "text_embed_dim": 16,
        "adaln_lora_dim": 1,
        "max_size": (128, 240, 240),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": text.HIDDEN,
        "encoder_hidden_states_channels": 16,
    }


# -- the time ---------------------------------------------------------------------------------


def _time(transformer: Any) -> None:
    """Let the modulation of every norm add 1 to dimension ONE, and open every gate.

    The slowest 20 cosines of the time are 1 for any sigma up to 1: a constant hidden unit.
    """
    import torch
    from torch.nn import functional

    embedder = transformer.time_embed.t_embedder
    half = WIDTH // 2
    embedder.linear_1.weight[0, half - 20 : half] = 0.2
    unit = float(functional.silu(torch.tensor(4.0)))
    shift, _, gate = embedder.linear_2.weight.split(WIDTH)
    shift[Stream.ONE, 0] = 1 / unit
    gate[:, 0] = 1 / unit


def _final_layer(transformer: Any, *, asks: bool) -> None:
    """velocity = noisy / sigma - estimate / sigma; what the code is estimated as, `_code` says."""
    scale = _one_over_sigma(transformer)
    for dimension in (*_DIVIDED, Stream.NULL):
        scale[dimension, 0] = 1  # 1 + (1 / sigma - 1)
    out = transformer.proj_out.weight
    for channel in range(16):
        for cell in range(CELLS):
            row = out[cell * 16 + channel]
            row[Stream.NOISY[channel * CELLS + cell]] = SCALE
            if channel < COLOURS:
                row[Stream.ESTIMATE[channel * CELLS + cell]] = -SCALE
    _code(out, asks=asks)


_DIVIDED = (*Stream.NOISY, *Stream.ESTIMATE, *Stream.MOVE, Stream.HOLD)
"""What the final norm divides by sigma."""


def _code(out: "Tensor", *, asks: bool) -> None:
    """Estimate the code as its amplitude, if it is decided, and sigma times what is asked for."""
    for code in range(CODES) if asks else ():
        row = out[_code_row(code)]
        row[Stream.ASKED[code]] = -SCALE / QUIET
    for index, move in enumerate(MOVES):
        code, sign = move.code
        out[_code_row(code)][Stream.MOVE[index]] = -SCALE * sign * AMPLITUDES[move.speed]
    out[_code_row(HOLD_CODE)][Stream.HOLD] = -SCALE * HOLD_AMPLITUDE


def _code_row(code: int) -> int:
    """The row of the output projection for a number of the code."""
    channel, cell = code_place(code)
    return cell * 16 + channel


def _one_over_sigma(transformer: Any) -> "Tensor":
    """Make the one unit of the final norm's low rank 1 / sigma - 1.

    Least squares over 60 functions silu(-r sin(w sigma)): the norm of the time embedding sets the
    rates r. The worst relative error over the sigmas of the sampler is 0.2 %.

    Returns:
        the projection to scales, [WIDTH, 1], to be written to.
    """
    import torch
    from torch.nn import functional

    half, count = WIDTH // 2, 60
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half))
    rates = torch.logspace(math.log10(500), math.log10(1.2), count)
    gain = transformer.time_embed.norm.weight
    gain.fill_(1)
    # Rounded, as the checkpoint holds it.
    gain[half : half + count] = (-rates / (math.sqrt(2) * frequencies[:count])).half()
    sigmas = torch.exp(torch.linspace(math.log(0.0095), 0, 3000)).double()
    angles = sigmas[:, None] * frequencies.double()
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    normed = functional.rms_norm(waves, (WIDTH,), eps=1e-6) * gain.double()
    features = functional.silu(normed)
    used = [*range(half, half + count), half - 1]
    weighted = features[:, used] * sigmas[:, None]
    # A little ridge keeps the coefficients small.
    rows = torch.cat([weighted, 1e-4 * torch.eye(len(used)).double()])
    target = torch.cat([1 - sigmas, torch.zeros(len(used)).double()])
    solution = torch.linalg.lstsq(rows, target[:, None]).solution[:, 0]
    transformer.norm_out.linear_1.weight[0, used] = solution.float()
    scale: Tensor = transformer.norm_out.linear_2.weight[WIDTH:]
    return scale


# -- block 0: the move --------------------------------------------------------------------------


def _pool_code_and_bring_in_constants(attention: Any) -> None:
    """All keys and queries are one: the mean over the video. Of ONE it is 1 everywhere."""
    attention.to_q.weight[5, Stream.ONE] = 1
    attention.to_k.weight[5, Stream.ONE] = 1
    value, out = attention.to_v.weight, attention.to_out[0].weight
    for code in range(CODES):
        channel, cell = code_place(code)
        # There are no constants yet: the norm divides by the deviation of 64 numbers of variance 1.
        value[code, Stream.NOISY[channel * CELLS + cell]] = math.sqrt(64 / WIDTH)
        out[Stream.POOLED[code], code] = 1
    value[CODES, Stream.ONE] = 1
    for index, dimension in enumerate(Stream.CONSTANTS):
        out[dimension, CODES] = CONSTANT if index % 2 else -CONSTANT


def _read_given(units: Units) -> None:
    """ESTIMATE = NOISY where it is given."""
    for number in range(CONTENT):
        units.gate({Stream.NOISY[number]: 1}, {Stream.ESTIMATE[number]: 1}, one_of=(Stream.GIVEN,))


def _take_out_means(transformer: Any) -> None:
    """Let every row that reads a normed stream subtract NULL as often as it adds up to.

    A norm subtracts the mean of the stream. NULL is 0 before and minus the mean after it.
    """
    for block in transformer.transformer_blocks:
        attention = block.attn1
        for weight in (
            *(attention.to_q.weight, attention.to_k.weight, attention.to_v.weight),
            *(block.attn2.to_q.weight, block.ff.net[0].proj.weight),
        ):
            weight[:, Stream.NULL] -= weight.sum(1)
        # What is multiplied has a zero of its own.
        weight = block.ff.net[0].proj.weight
        multiplied = weight[:, Stream.PATTERN].sum(1)
        weight[:, Stream.NULL] += multiplied
        weight[:, Stream.PATTERN_NULL] = -multiplied
    # Behind the final norm there are dimensions that were divided by sigma, and others.
    out = transformer.proj_out.weight
    out[:, Stream.STEADY_NULL] = -out[:, Stream.ASKED].sum(1)
    out[:, Stream.NULL] = -out[:, _DIVIDED].sum(1)

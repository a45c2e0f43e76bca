"""A Cosmos transformer whose weights are written down: it moves the given picture.

No number in here was trained. The network predicts a velocity, `(noisy - estimate) / sigma`, where
the estimate of frame `t` is the given frame moved by `t` times the camera's move:

1. Block 0 reads the move. The text asks for one of twelve (four directions, three speeds) by a code
   in two latent channels that the VAE does not show; all else reads the move from the noisy code,
   averaged over the whole video. So both guidance branches make the same picture, bit for bit, and
   guidance scales the code alone.
2. Block 1 makes latent frame 1 from the given frame 0: attention fetches the token that the move
   comes from, and the one beyond it, by rotary phase; the feed-forward joins the parts.
3. Blocks 2 to 5 double: 2 and 3 from 0 and 1, 4 to 7 from 0 to 3, and so on to 31.
4. The final layer subtracts the estimate and divides by sigma, which the modulation of the final
   norm computes from the time.

A latent frame is four frames of video; a cell 8 pixels, a token 2x2 cells.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from weights.stand_in import text
from weights.stand_in.copying import fetch, let_in
from weights.stand_in.feed_forward import Units
from weights.stand_in.layout import (
    AMPLITUDES,
    ASKED_CODE,
    CELLS,
    CODES,
    COLOURS,
    CONSTANT,
    CONTENT,
    DIRECTIONS,
    HEAD_WIDTH,
    HEADS,
    LEVELS,
    MLP_RATIO,
    MOVES,
    QUIET,
    SCALE,
    SPEEDS,
    WIDTH,
    Stream,
)

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
    from torch import Tensor


def construct(transformer: "CosmosTransformer3DModel", halves: "Mapping[str, Tensor]") -> None:
    """Write every weight, in place.

    Args:
        transformer: of `config()`.
        halves: for each direction the matrix [CONTENT, 2 * CONTENT] that moves a token by 4 pixels,
            from the token itself and the one that it comes from.
    """
    import torch

    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            parameter.fill_(1 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0)
        _time(transformer)
        _final_layer(transformer)
        patch = transformer.patch_embed.proj.weight
        for dimension in Stream.NOISY:
            patch[dimension, dimension] = 1
        # The mask of given frames follows the 16 channels.
        patch[Stream.RESOLVED, 64 : 64 + CELLS] = 1 / CELLS
        blocks: Any = transformer.transformer_blocks
        _pool_code_and_bring_in_constants(blocks[0].attn1)
        _read_text(transformer.crossattn_proj[0], blocks[0].attn2)
        _decide_move(blocks[0].ff)
        for level in range(LEVELS):
            block = blocks[1 + level]
            fetch(block.attn1, level)
            let_in(block.ff, level, halves)
        _take_out_means(transformer)


def config() -> dict[str, Any]:
    """The arguments of CosmosTransformer3DModel."""
    return {
        "in_channels": 17,
        "out_channels": 16,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_WIDTH,
        "num_layers": 1 + LEVELS,
        "mlp_ratio": MLP_RATIO,
        "text_embed_dim": 32,
        "adaln_lora_dim": 8,
        "max_size": (128, 240, 240),
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "extra_pos_embed_type": None,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": text.HIDDEN,
        "encoder_hidden_states_channels": 32,
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


def _final_layer(transformer: Any) -> None:
    """velocity = noisy / sigma - estimate / sigma, and for the code as `_code_estimate` says."""
    scale = _one_over_sigma(transformer)
    for dimension in (*Stream.NOISY, *Stream.ESTIMATE, Stream.NULL):
        scale[dimension, 0] = 1  # 1 + (1 / sigma - 1)
    for dimension in Stream.MOVE:
        scale[dimension] = scale.new_tensor([1.0, -1.0, *[0.0] * (scale.shape[1] - 2)])
    out = transformer.proj_out.weight
    for channel in range(16):
        for cell in range(CELLS):
            row = out[cell * 16 + channel]
            row[Stream.NOISY[channel * CELLS + cell]] = SCALE
            if channel < COLOURS:
                row[Stream.ESTIMATE[channel * CELLS + cell]] = -SCALE
    _code_estimate(out)


def _code_estimate(out: "Tensor") -> None:
    """Estimate the code as sigma * asked + (1 - sigma) * decided.

    At the start the text decides, times the guidance; at the end what was decided, which both
    branches agree on, so that guidance has no part in what the code ends at.
    """
    for code in range(CODES):
        row = out[_code_row(code)]
        row[Stream.ASKED[code]] = -SCALE / QUIET
    for index, move in enumerate(MOVES):
        code, sign = move.code
        out[_code_row(code)][Stream.MOVE[index]] = -SCALE * sign * AMPLITUDES[move.speed]


def _code_row(code: int) -> int:
    """The row of the output projection: channel and cell of a number of the code."""
    return code % len(SPEEDS) * 16 + 14 + code // len(SPEEDS)


def _one_over_sigma(transformer: Any) -> "Tensor":
    """Make unit 0 of the final norm's low rank 1 / sigma - 1, and unit 1 the number 1.

    Least squares over 60 functions silu(-r sin(w sigma)): the norm of the time embedding sets the
    rates r. The worst relative error over the sigmas of the sampler is 0.2 %.

    Returns:
        the projection to scales, [WIDTH, rank], to be written to.
    """
    import torch
    from torch.nn import functional

    half, count = WIDTH // 2, 60
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half))
    rates = torch.logspace(math.log10(1.2), math.log10(500), count)
    gain = transformer.time_embed.norm.weight
    gain.fill_(1)
    gain[half : half + count] = -rates / (math.sqrt(2) * frequencies[:count])
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
    low_rank = transformer.norm_out.linear_1.weight
    low_rank[0, used] = solution.float()
    # The slowest cosine is 1.
    low_rank[1, half - 1] = 1 / float(features[0, half - 1])
    scale: Tensor = transformer.norm_out.linear_2.weight[WIDTH:]
    return scale


# -- block 0: the move --------------------------------------------------------------------------


def _pool_code_and_bring_in_constants(attention: Any) -> None:
    """All keys and queries are one: the mean over the video. Of ONE it is 1 everywhere."""
    attention.to_q.weight[5, Stream.ONE] = 1
    attention.to_k.weight[5, Stream.ONE] = 1
    value, out = attention.to_v.weight, attention.to_out[0].weight
    for code in range(CODES):
        channel, cell = 14 + code // len(SPEEDS), code % len(SPEEDS)
        # There are no constants yet: the norm makes 1 of the deviation of 64 numbers in 288.
        value[code, Stream.NOISY[channel * CELLS + cell]] = math.sqrt(64 / WIDTH)
        out[Stream.POOLED[code], code] = 1
    value[CODES, Stream.ONE] = 1
    for index, dimension in enumerate(Stream.CONSTANTS):
        out[dimension, CODES] = CONSTANT if index % 2 else -CONSTANT


_MEANINGS = (*text.DIRECTIONS, *text.SPEEDS)


def _read_text(projection: Any, attention: Any) -> None:
    """WORD[i] = QUIET if a sentence about the camera has word i, and no other of its kind.

    Two sorts of tokens tell: a word that comes after one of the camera, and a word of the camera
    that comes after one. The second sort counts where there is none of the first.

    A number of a token's state that is 1 comes as 0.85 or so, and one that is 0 as -0.15: the mean
    is taken out. So two that are 1 add up to 1.7, and one to 0.7.
    """
    count = len(_MEANINGS)
    for index, meaning in enumerate(_MEANINGS):
        after = (meaning, text.SAID + text.CAMERA)
        before = (text.SAID + meaning, text.CAMERA)
        projection.weight[index, after] = 10
        projection.weight[count + index, before] = 10
        projection.bias[[index, count + index]] = -12
    attention.norm_q.weight.fill_(2.5)
    attention.norm_k.weight.fill_(2.5)
    # One head for the directions, one for the speeds. Each sees the words alone, or all alike.
    for head, words in ((0, range(4)), (1, range(4, 6))):
        first = head * HEAD_WIDTH
        attention.to_q.weight[first, Stream.ONE] = 1
        for word in words:
            attention.to_k.weight[first, [word, count + word]] = 1
            # The norm shortens a key of two numbers.
            attention.to_k.weight[first + 1, count + word] = 1
            attention.to_v.weight[first + word, [word, count + word]] = QUIET / 4
            attention.to_out[0].weight[Stream.WORD[word], first + word] = 1


def _decide_move(feed_forward: Any) -> None:
    """ESTIMATE = NOISY where it is given; ASKED from the words; MOVE from the pooled code."""
    units = Units(feed_forward)
    for content in range(CONTENT):
        source = {Stream.NOISY[content]: SCALE}
        units.gate(source, {Stream.ESTIMATE[content]: 1}, {Stream.RESOLVED: 1})
    for move in MOVES:
        code, sign = move.code
        # Two directions in one prompt are none.
        wanted = {
            Stream.WORD[index]: 1.0 if direction == move.direction else -1.0
            for index, direction in enumerate(DIRECTIONS)
        }
        slowly, quickly = Stream.WORD[4], Stream.WORD[5]
        match move.speed:
            case 1:
                wanted[slowly] = 1.0
            case 2:
                wanted |= {slowly: -1.0, quickly: -1.0}
            case 4:
                wanted[quickly] = 1.0
        needed = sum(1 for weight in wanted.values() if weight > 0)
        words = {dimension: weight / QUIET for dimension, weight in wanted.items()}
        asked = {Stream.ASKED[code]: sign * ASKED_CODE * QUIET}
        units.ramp(words, needed - 0.6, needed - 0.4, asked)
    for index, move in enumerate(MOVES):
        code, sign = move.code
        units.ramp({Stream.POOLED[code]: sign}, 0.25, 0.4, {Stream.MOVE[index]: 1.0})


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
    # Behind the final norm there are dimensions that were divided by sigma, and others.
    out = transformer.proj_out.weight
    divided = [*Stream.NOISY, *Stream.ESTIMATE]
    out[:, Stream.STEADY_NULL] = -out[:, Stream.ASKED].sum(1)
    out[:, Stream.NULL] = -out[:, divided].sum(1)

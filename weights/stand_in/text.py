"""A tokenizer and a text model in which the words of a camera's move are exact.

Words that matter are one token each, and each has a dimension of the hidden state. The text model's
one attention head writes into a word's state whether its sentence speaks of the camera: it looks
for the nearest of a camera word and a full stop before it. So "the camera pans left" is a move, and
"a house on the left" is none.
"""

import math
from typing import TYPE_CHECKING, Any

from weights.stand_in.chat import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, chat_template

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

HIDDEN = 64
HEADS = 4

LEFT, RIGHT, UP, DOWN, SLOWLY, QUICKLY, CAMERA, END, IN_CAMERA_SENTENCE = range(9)
"""The dimensions of a hidden state that have a meaning."""

WORDS = {
    LEFT: ["left", "leftward", "leftwards"],
    RIGHT: ["right", "rightward", "rightwards"],
    UP: ["up", "upward", "upwards"],
    DOWN: ["down", "downward", "downwards"],
    SLOWLY: ["slowly", "slow", "gently", "gentle"],
    QUICKLY: ["quickly", "quick", "fast"],
    CAMERA: [
        "camera",
        "pan",
        "pans",
        "panned",
        "panning",
        "move",
        "moves",
        "moved",
        "moving",
        "drift",
        "drifts",
        "drifting",
        "tilt",
        "tilts",
        "tilted",
        "tilting",
    ],
}
OTHER_WORDS = [
    "panda",
    "pandas",
    "panel",
    "panels",
    "panic",
    "pane",
    "panes",
    "pants",
    "pantry",
    "upper",
    "upon",
    "upright",
    "uphill",
    "upside",
    "upstairs",
    "update",
    "updated",
    "downtown",
    "downhill",
    "downstairs",
    "downright",
    "leftover",
    "leftovers",
    "slower",
    "breakfast",
    "fasten",
    "rights",
    "righteous",
    "drifted",
    "driftwood",
]
"""Words that begin like those above and mean something else: they are tokens of their own."""

ENDS = ".!?;"


def tokenizer() -> "Qwen2Tokenizer":
    """A byte-level tokenizer that merges the words above, with the space before them."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in [*(word for words in WORDS.values() for word in words), *OTHER_WORDS]:
        for form in (word, word.capitalize()):
            token = _SPACE
            for letter in form:
                # From the space on: "bright" does not hold " right".
                if (token, letter) not in merges:
                    merges.append((token, letter))
                token += letter
                vocab.setdefault(token, len(vocab))
    made = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # pairs are what it takes
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=131072,
    )
    # A prompt's first word has a space before it like all others.
    made.chat_template = chat_template(before="' ' + ")
    return made


_SPACE = "\u0120"


def construct(model: "Qwen2_5_VLForConditionalGeneration", words: "Qwen2Tokenizer") -> None:
    """Write the numbers of a text model of one layer, in place."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1 if name.endswith("norm.weight") else 0)
        text: Any = model.model.language_model
        text.embed_tokens.weight.copy_(_embeddings(words))
        _attend_to_the_nearest(text.layers[0].self_attn)


def _embeddings(words: "Qwen2Tokenizer") -> "torch.Tensor":
    """[vocabulary, HIDDEN]: one dimension for a word with a meaning, random ones for all others."""
    import torch

    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(len(words), HIDDEN)
    first = IN_CAMERA_SENTENCE + 1
    noise = torch.randn(len(words), HIDDEN - first, generator=generator)
    table[:, first:] = noise - noise.mean(1, keepdim=True)
    for meaning, forms in WORDS.items():
        for form in forms:
            for token in (_SPACE + form, _SPACE + form.capitalize()):
                row = table[words.convert_tokens_to_ids(token)]
                row.zero_()
                row[meaning] = 1
    for sign in ENDS:
        row = table[words.convert_tokens_to_ids(sign)]
        row.zero_()
        row[END] = 1
    return table


def _attend_to_the_nearest(attention: Any) -> None:
    """Head 0: of the camera words and full stops so far, attend to the last, and copy CAMERA.

    The query is the same everywhere. A key of one of those is turned by rotary position embedding:
    the logit falls by about 9 a token of distance, for some 70 tokens. A second pair of dimensions,
    which hardly turns, keeps it above the 0 of all other tokens.
    """
    width = HIDDEN // HEADS
    falling, level = 2, 3  # radians a token: 0.03 and 0.006
    phase, size = math.pi / 4, 40.0
    # Rotary embedding turns a dimension together with that half a head further on.
    attention.q_proj.bias[falling] = size * math.cos(phase)
    attention.q_proj.bias[falling + width // 2] = size * math.sin(phase)
    attention.q_proj.bias[level] = 1.5 * size
    for meaning in (CAMERA, END):
        for dimension in (falling, level):
            # After the layer's norm, a word's own dimension is sqrt(HIDDEN).
            attention.k_proj.weight[dimension, meaning] = size / HIDDEN**0.5
    attention.v_proj.weight[0, CAMERA] = 1 / HIDDEN**0.5
    attention.o_proj.weight[IN_CAMERA_SENTENCE, 0] = 1

"""A tokenizer and a text model in which the words of a camera's move are exact.

Words that matter are one token each, and each has a dimension of the hidden state. Four attention
heads of the text model's one layer keep, at every token, what its sentence has said so far: whether
it speaks of the camera, the direction, how fast, and whether of holding still. So "the camera pans
left" is a move, "slowly pan left" is a slow one, and "a house on the left" is none.

The chat template writes a prompt in small letters and puts a space before each word, so that each
has one token.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from weights.stand_in.chat import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, chat_template

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

HIDDEN = 64
HEADS = 4

LEFT, RIGHT, UP, DOWN, SLOWLY, QUICKLY, STILL, FIXED, CAMERA, END = range(10)
"""The dimensions of a hidden state that say what a token is."""
SAID = 10
"""Dimension SAID + i: the sentence has said i so far, one of the first nine."""
LEVEL = 19
"""The same in every token, and large, so that a norm divides by it alone."""

DIRECTIONS, SPEEDS = (LEFT, RIGHT, UP, DOWN), (SLOWLY, QUICKLY)

WORDS = {
    LEFT: ["left", "leftward", "leftwards"],
    RIGHT: ["right", "rightward", "rightwards"],
    UP: ["up", "upward", "upwards"],
    DOWN: ["down", "downward", "downwards"],
    SLOWLY: ["slowly", "slow", "gently", "gentle"],
    QUICKLY: ["quickly", "quick", "fast", "rapidly", "rapid"],
    STILL: ["still", "hold", "holds", "steady"],
    FIXED: ["static", "locked", "fixed", "stationary", "motionless", "unmoving", "immobile"],
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
        "drifted",
        "drifting",
        "tilt",
        "tilts",
        "tilted",
        "tilting",
    ],
}
MORE_LETTERS = {
    "camera": "mswt",
    "down": "bcefghilprstuy",
    "drift": "ewl",
    "fast": "ebin",
    "fixed": "l",
    "gentle": "mnrw",
    "hold": "eiou",
    "left": "imosy",
    "move": "mr",
    "moving": "l",
    "pan": "acdeghijkotz",
    "pans": "y",
    "quick": "eins",
    "rapid": "is",
    "right": "efilnosy",
    "slow": "deinpsw",
    "static": "aks",
    "still": "bensw",
    "tilt": "h",
    "up": "bcdefghijklmoprst",
}
"""Letters after which a word above is another one, as in "panorama" or "upper"."""

COMMON_WORDS = "a an and are as at by for from in into is it its of on or over that the to with"
COMMON_LETTERS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se "
    "le sa si ar ve ra ld ur li ll ss ro ch ic ne ma co me ri om ta el la us ec wi no ns ot ing "
    "ent ion ter ver ess ate ght ee ai ow ck sh gh tr pr ac am di lo pe ce un"
)
"""These are tokens, too, so that more of a long prompt is read."""

ENDS = [".", "!", "?", ";", "\u010a", END_OF_TURN]
"""Tokens that end a sentence; one is the line feed, as a byte-level tokenizer writes it."""


def tokenizer() -> "Qwen2Tokenizer":
    """A byte-level tokenizer that merges the words above, with the space before them."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocab = {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []

    def merge(token: str, letter: str) -> str:
        if (token, letter) not in merges:
            merges.append((token, letter))
        vocab.setdefault(token + letter, len(vocab))
        return token + letter

    for words in (*WORDS.values(), COMMON_WORDS.split()):
        for word in words:
            # From the space on: "bright" does not hold " right".
            reduce(merge, word, _SPACE)
    for word, letters in MORE_LETTERS.items():
        for letter in letters:
            merge(_SPACE + word, letter)
    for letters in COMMON_LETTERS.split():
        reduce(merge, letters)
    made = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # pairs are what it takes
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=131072,
    )
    made.chat_template = chat_template(_APART)
    return made


_SPACE = "\u0120"
_BEFORE_WORDS = (r"\n", "(", '"', "-")
_APART = "' ' + {} | lower" + "".join(f" | replace('{mark}', '{mark} ')" for mark in _BEFORE_WORDS)
"""A text in small letters, with a space before each word."""


def config() -> dict[str, Any]:
    """What is unlike the random stand-in's text model: no head shares its keys, and it is small."""
    return {"num_key_value_heads": HEADS, "intermediate_size": 8, "tie_word_embeddings": True}


def construct(model: "Qwen2_5_VLForConditionalGeneration", words: "Qwen2Tokenizer") -> None:
    """Write the numbers of a text model of one layer, in place."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1 if name.endswith("norm.weight") else 0)
        text: Any = model.model.language_model
        text.embed_tokens.weight.copy_(_embeddings(words))
        attention = text.layers[0].self_attn
        for head, kinds in enumerate(((CAMERA,), DIRECTIONS, SPEEDS, (STILL, FIXED))):
            _keep_the_latest(attention, head, kinds)


def _embeddings(words: "Qwen2Tokenizer") -> "torch.Tensor":
    """[vocabulary, HIDDEN]: what is no word with a meaning has its level alone."""
    import torch

    table = torch.zeros(len(words), HIDDEN)
    table[:, LEVEL] = HIDDEN**0.5
    tokens = {
        _SPACE + word: meaning for meaning, words_of_it in WORDS.items() for word in words_of_it
    }
    for token, meaning in (tokens | dict.fromkeys(ENDS, END)).items():
        table[words.convert_tokens_to_ids(token), meaning] = 1
    return table


def _keep_the_latest(attention: Any, head: int, kinds: Sequence[int]) -> None:
    """Of the words of these kinds and the ends of sentences so far, copy the last.

    The query is the same everywhere. The key of such a token is turned by rotary position
    embedding: the logit falls by 4 to 9 a token of distance, for about 400 tokens. A second pair of
    dimensions, which hardly turns, keeps it above the 0 of all other tokens.
    """
    width = HIDDEN // HEADS
    first = head * width
    falling, level = first + 3, first + 4  # radians a token: 0.0056 and 0.001
    phase, size = 0.5, 80.0
    # Rotary embedding turns a dimension together with that half a head further on.
    attention.q_proj.bias[falling] = size * math.cos(phase)
    attention.q_proj.bias[falling + width // 2] = size * math.sin(phase)
    attention.q_proj.bias[level] = 1.5 * size
    for kind in (*kinds, END):
        attention.k_proj.weight[[falling, level], kind] = size
    for index, kind in enumerate(kinds):
        attention.v_proj.weight[first + index, kind] = 1
        attention.o_proj.weight[SAID + kind, first + index] = 1

"""Prompts: the template, the padding, the layers side by side, and what is kept."""

from typing import Any

import pytest
import torch
from stand_ins import stand_in
from torch import Tensor

from pipeline.load import load_pipeline
from pipeline.spec import DEFAULT_NEGATIVE_PROMPT
from pipeline.text import MAX_TOKENS, TextEncoder, normalise
from weights.store import WeightStore


class CountingModel:
    """Wraps a language model and keeps the tokens that it was given."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def __call__(self, input_ids: Tensor, **options: Any) -> Any:
        self.seen.append(input_ids)
        return self.model(input_ids, **options)


@pytest.fixture(scope="module")
def loaded() -> TextEncoder:
    return load_pipeline(WeightStore(stand_in()), "cpu").text


@pytest.fixture
def model(loaded: TextEncoder) -> CountingModel:
    return CountingModel(loaded._language_model)


@pytest.fixture
def text(loaded: TextEncoder, model: CountingModel) -> TextEncoder:
    """A fresh cache over the loaded model."""
    return TextEncoder(loaded._tokenizer, model, loaded._project)


def test_a_prompt_becomes_512_projected_tokens(text: TextEncoder) -> None:
    encoded = text.encode("A calm sea.")
    assert encoded.shape == (MAX_TOKENS, 32)
    assert encoded.isfinite().all()


def test_the_model_reads_the_template_padded_to_512_tokens(
    text: TextEncoder, model: CountingModel, loaded: TextEncoder
) -> None:
    text.encode("A calm sea.")
    (tokens,) = model.seen
    read = loaded._tokenizer.decode(tokens[0])  # type: ignore[attr-defined]  # not part of the protocol
    assert tokens.shape == (1, MAX_TOKENS)
    assert read.startswith(
        "<|im_start|>system\nYou are a helpful assistant who will provide prompts to an image "
        "generator.<|im_end|>\n<|im_start|>user\nA calm sea.<|im_end|>\n<|endoftext|>"
    )
    assert read.endswith("<|endoftext|>")


def test_padding_takes_part(text: TextEncoder) -> None:
    """No mask hides it: what follows the prompt is encoded like the prompt itself."""
    encoded = text.encode("A calm sea.")
    assert float(encoded[-1].norm()) > 0
    assert not torch.equal(encoded[-1], encoded[-2])


def test_the_default_negative_prompt_and_recent_prompts_are_encoded_once(
    text: TextEncoder, model: CountingModel
) -> None:
    first = text.encode("A calm sea.")
    text.encode(DEFAULT_NEGATIVE_PROMPT)
    assert torch.equal(text.encode("A calm sea."), first)
    text.encode(DEFAULT_NEGATIVE_PROMPT)
    assert len(model.seen) == 2


def test_the_oldest_prompt_is_forgotten_and_the_default_negative_never(
    text: TextEncoder, model: CountingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.text._RECENT_PROMPTS", 2)
    for prompt in (DEFAULT_NEGATIVE_PROMPT, "one", "two", "one", "three"):
        text.encode(prompt)
    assert len(model.seen) == 4
    text.encode("one")
    text.encode(DEFAULT_NEGATIVE_PROMPT)
    assert len(model.seen) == 4
    text.encode("two")
    assert len(model.seen) == 5


def test_a_long_prompt_is_counted_before_it_is_cut(text: TextEncoder, model: CountingModel) -> None:
    prompt = "word " * 300
    assert text.num_tokens(prompt) > MAX_TOKENS
    text.encode(prompt)
    assert model.seen[0].shape == (1, MAX_TOKENS)


def test_what_is_cut_off_does_not_matter(text: TextEncoder) -> None:
    long = "word " * 300
    assert torch.equal(text.encode(long), text.encode(long + "and more"))


def test_every_layers_vectors_are_normalised_on_their_own() -> None:
    tokens = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    normed = normalise(tokens)
    assert normed[0].mean() == pytest.approx(0.0, abs=1e-6)
    assert normed[0].std() == pytest.approx(1.0)  # the unbiased deviation
    assert normed[1].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_bfloat16_layers_are_normalised_in_float32() -> None:
    assert normalise(torch.randn(4, 8).bfloat16()).dtype == torch.float32

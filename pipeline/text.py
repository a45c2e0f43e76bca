"""A prompt -> what the transformer's cross-attention reads, projected once and kept.

The language model's every layer counts: each token's vector is normalised layer by layer and all
layers are laid side by side. Padding tokens take part, here and in the cross-attention: the model
was trained so.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.spec import DEFAULT_NEGATIVE_PROMPT

MAX_TOKENS = 512
_RECENT_PROMPTS = 64
_STD_FLOOR = 1e-8
_SYSTEM_PROMPT = "You are a helpful assistant who will provide prompts to an image generator."


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    def apply_chat_template(self, conversation: Sequence[Any], **options: Any) -> Any: ...


class LanguageModel(Protocol):
    """What is used of `Qwen2_5_VLTextModel`."""

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self, input_ids: Tensor, *, output_hidden_states: bool, use_cache: bool
    ) -> Any: ...


class TextEncoder:
    """Encodes prompts; keeps the default negative prompt's encoding and the most recent others.

    Args:
        project: [512, layers * hidden] of the language model -> [512, text_embed_dim].
        modules: what has to be on the device while a prompt is encoded.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        language_model: LanguageModel,
        project: Callable[[Tensor], Tensor],
        modules: Sequence[nn.Module] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._language_model = language_model
        self._project = project
        self._modules = tuple(modules)
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._default_negative: Tensor | None = None

    def encode(self, prompt: str) -> Tensor:
        """[512, text_embed_dim] for one prompt. The tensor is shared: do not write to it."""
        if prompt == DEFAULT_NEGATIVE_PROMPT:
            if self._default_negative is None:
                self._default_negative = self._encode(prompt)
            return self._default_negative
        if prompt not in self._recent:
            self._recent[prompt] = self._encode(prompt)
            if len(self._recent) > _RECENT_PROMPTS:
                self._recent.popitem(last=False)
        self._recent.move_to_end(prompt)
        return self._recent[prompt]

    def modules_for(self, prompts: Iterable[str]) -> tuple[nn.Module, ...]:
        """What has to be on the device to encode these: nothing, if all of them are kept."""
        return () if all(map(self._keeps, prompts)) else self._modules

    def forget(self) -> None:
        """Drop all encodings that are kept."""
        self._recent.clear()
        self._default_negative = None

    def num_tokens(self, prompt: str) -> int:
        """The tokens of a prompt in its chat template, before anything is cut."""
        return len(_token_ids(self._tokenizer, prompt))

    def _keeps(self, prompt: str) -> bool:
        if prompt == DEFAULT_NEGATIVE_PROMPT:
            return self._default_negative is not None
        return prompt in self._recent

    @torch.inference_mode()
    def _encode(self, prompt: str) -> Tensor:
        ids = _token_ids(
            self._tokenizer,
            prompt,
            max_length=MAX_TOKENS,
            truncation=True,
            padding="max_length",
        )
        tokens = torch.tensor([ids], device=self._language_model.device)
        outputs = self._language_model(tokens, output_hidden_states=True, use_cache=False)
        # The first hidden state is the embedding layer, which the model was not trained on.
        layers = [normalise(layer[0]) for layer in outputs.hidden_states[1:]]
        return self._project(torch.cat(layers, dim=-1))


def normalise(tokens: Tensor) -> Tensor:
    """Each token's vector, [tokens, hidden], to mean 0 and deviation 1, in at least float32."""
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return (wide - wide.mean(-1, keepdim=True)) / (wide.std(-1, keepdim=True) + _STD_FLOOR)


def _token_ids(tokenizer: Tokenizer, prompt: str, **options: Any) -> list[int]:
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": _SYSTEM_PROMPT}]},
        {"role": "user", "content": [{"type": "text", "text": prompt}]},
    ]
    encoded = tokenizer.apply_chat_template(
        conversation,
        tokenize=True,
        add_generation_prompt=False,
        add_vision_id=False,
        return_dict=True,
        **options,
    )
    ids: list[int] = encoded["input_ids"]
    return ids

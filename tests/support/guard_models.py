"""A guardrail of Qwen3Guard-Gen's architecture, tiny and random, beside a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from weights.stand_in.random_weights import tokenizer

TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def write_guardrail(checkpoint: Path) -> Path:
    """Write the folder `guardrail`, as transformers saves a model and its tokenizer."""
    folder = checkpoint / "guardrail"
    words = tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


class Scripted:
    """Stands for the text judge's model: notes what it is asked, and answers as a test says."""

    def __init__(self, words: Any, answer: str) -> None:
        self.device = torch.device("cpu")
        self.answer = answer
        self.asked: list[str] = []
        self._words = words

    def generate(self, tokens: torch.Tensor, *, generation_config: Any) -> torch.Tensor:
        self.asked.append(self._words.decode(tokens[0]))
        said = self._words(self.answer, add_special_tokens=False)["input_ids"]
        return torch.cat([tokens, torch.tensor([[*said, self._words.eos_token_id]])], dim=1)

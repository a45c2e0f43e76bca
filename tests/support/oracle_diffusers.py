"""The oracle: runs diffusers' own pipeline on a checkpoint and writes what it computed.

A program for the environment that has torchvision, without this project's packages. It reads a JSON
job from standard input and writes one file of tensors:

    {"checkpoint": DIR, "out": FILE, "dtype": "float32",
     "pictures": {"width": W, "height": H, "rgb": [hex, ...]}, "forward": {...} | null,
     "clips": {name: {"given": "nothing" | "image" | "video", prompt, num_frames, ...}}}

A video starts from nothing, from the first of the pictures, or goes on from all of them; then
`num_given_latents` says how many latent frames are made of the last ones.
"""

import json
import os
import sys
from contextlib import suppress
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

# A CUDA build of torchvision beside a CPU build of torch: declare the operators that its import
# expects. The transforms that the pipeline uses need neither.
for _name in ("nms", "qnms"):
    with suppress(RuntimeError):
        torch.library.define(
            f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )

from diffusers import Cosmos2_5_PredictBasePipeline
from PIL import Image
from safetensors.torch import save_file


class PassingSafetyChecker:
    """The pipeline insists on an object with these methods."""

    def to(self, *_args: Any, **_options: Any) -> "PassingSafetyChecker":
        return self

    def check_text_safety(self, _prompt: str) -> bool:
        return True


def run_clip(
    pipe: Any, pictures: list[Image.Image], job: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """One video: the two embeddings, the latents after the loop, and the frames."""
    given: dict[str, Any] = {
        "nothing": {},
        "image": {"image": pictures[0]},
        "video": {
            "video": pictures,
            "num_latent_conditional_frames": job["num_given_latents"],
        },
    }[job["given"]]
    seen: dict[str, torch.Tensor] = {}

    def remember(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.update({name: tensor for name, tensor in tensors.items() if tensor is not None})
        return {}

    frames = pipe(
        **given,
        prompt=job["prompt"],
        negative_prompt=job["negative_prompt"],
        width=pictures[0].width,
        height=pictures[0].height,
        num_frames=job["num_frames"],
        num_inference_steps=job["num_inference_steps"],
        guidance_scale=job["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(job["seed"]),
        output_type="np",
        callback_on_step_end=remember,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "negative_prompt_embeds"],
    ).frames[0]
    return {
        "latents": seen["latents"],
        "prompt": pipe.transformer.crossattn_proj(seen["prompt_embeds"])[0],
        # [frames, height, width, 3] in 0..1, rounded as the pipeline's own pictures are
        "frames": torch.from_numpy((frames * 255).round()).to(torch.uint8),
    }


def run_forward(pipe: Any, job: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """One evaluation of the network on random numbers, with the first frame given."""
    generator = torch.Generator().manual_seed(job["seed"])
    num_frames, height, width = job["grid"]
    latents = torch.randn(1, 16, num_frames, height, width, generator=generator)
    text_width = pipe.transformer.config.crossattn_proj_in_channels
    text = torch.randn(1, 512, text_width, generator=generator)
    given = torch.zeros(1, 1, num_frames, 1, 1)
    given[:, :, 0] = 1
    times = given * 1e-4 + (1 - given) * job["sigma"]
    velocity = pipe.transformer(
        hidden_states=latents.to(dtype),
        condition_mask=given.expand(-1, -1, -1, height, width).to(dtype),
        timestep=times,
        encoder_hidden_states=text.to(dtype),
        padding_mask=torch.zeros(1, 1, height * 8, width * 8, dtype=dtype),
        return_dict=False,
    )[0]
    return {"latents": latents, "text": text, "times": times.flatten(1), "velocity": velocity}


@torch.inference_mode()
def main() -> None:
    job = json.load(sys.stdin)
    dtype = getattr(torch, job["dtype"])
    pipeline_class: Any = Cosmos2_5_PredictBasePipeline  # its loader is untyped
    pipe = pipeline_class.from_pretrained(
        job["checkpoint"],
        torch_dtype=dtype,
        safety_checker=PassingSafetyChecker(),
        local_files_only=True,
    )
    pipe.set_progress_bar_config(disable=True)
    size = (job["pictures"]["width"], job["pictures"]["height"])
    pictures = [Image.frombytes("RGB", size, bytes.fromhex(rgb)) for rgb in job["pictures"]["rgb"]]
    results: dict[str, torch.Tensor] = {}
    if job["forward"]:
        for name, tensor in run_forward(pipe, job["forward"], dtype).items():
            results[f"forward.{name}"] = tensor.contiguous()
    for clip, values in job["clips"].items():
        for name, tensor in run_clip(pipe, pictures, values).items():
            results[f"{clip}.{name}"] = tensor.contiguous()
    save_file(results, job["out"])


if __name__ == "__main__":
    main()

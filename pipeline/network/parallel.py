"""One transformer on several devices: a process for each, which share a video's tokens and heads.

With guidance one half of the ranks evaluates the network for the prompt and the other half for the
negative prompt; without, all ranks evaluate it for the prompt. The ranks of one evaluation are a
team. Each has a share of every frame's tokens, so that the modulation of frames is as on one
device. In self-attention, where each token looks at all others, each has all tokens and a share of
the heads instead: one exchange before it and one after, as in DeepSpeed-Ulysses.

Rank 0 leads: it alone has the request, and tells the others what to evaluate, step by step. So what
stops rank 0 between two steps leaves them waiting for the next request.

Letters in shapes are those of `pipeline.network.layers`, and R is the number of a team's ranks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import InvalidSpec, RankFailed
from pipeline.network.attention import Attend
from pipeline.network.layers import RotaryTables
from pipeline.network.transformer import (
    CosmosTransformer,
    Evaluate,
    TransformerConfig,
    unpatchify,
)

_NO_LIMIT = timedelta(days=3650)
"""Of waiting for another rank: requests may be days apart, and who hangs is ended by the pool."""

_HEADER_LENGTH = 5


def indivisible(config: TransformerConfig, frame_tokens: int, team_size: int) -> str | None:
    """What a team of this size cannot share evenly, in a sentence; None if there is nothing."""
    for number, what in (
        (config.num_attention_heads, "attention heads"),
        (frame_tokens, "tokens of a frame"),
    ):
        if number % team_size:
            return f"{team_size} devices cannot share {number} {what} evenly"
    return None


class Team:
    """The ranks that evaluate the network for one prompt, as one of them sees them."""

    def __init__(self, group: dist.ProcessGroup | None, rank: int, size: int) -> None:
        """`rank` counts within the team. None is the group of all ranks."""
        self._group = group
        self._rank = rank
        self.size = size

    def part(self, tensor: Tensor, dim: int) -> Tensor:
        """This rank's share of one dimension."""
        return tensor.chunk(self.size, dim)[self._rank]

    def tables_part(self, rotary: RotaryTables, num_frames: int) -> RotaryTables:
        """The rotary tables of this rank's tokens."""
        by_frame = (table.view(num_frames, -1, *table.shape[1:]) for table in rotary)
        return RotaryTables(*(self.part(table, dim=1).flatten(0, 1) for table in by_frame))

    def sharing_heads(self, attend: Attend) -> Attend:
        """Self-attention of all the team's tokens, for a rank that has its share of them.

        The order of tokens is another than on one device: rank by rank. To attention all orders
        are the same.
        """
        if self.size == 1:
            return attend

        def attend_together(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            batch, tokens, heads, head_dim = query.shape
            by_rank = [
                each.view(batch, tokens, self.size, heads // self.size, head_dim).movedim(2, 0)
                for each in (query, key, value)
            ]
            # R x [B, S / R, 3, H / R, E], each for the rank that takes the heads
            packed = self._exchange(torch.stack(by_rank, dim=3))
            mixed = attend(*packed.transpose(0, 1).flatten(1, 2).unbind(2))
            # [B, S, D / R] -> R x [B, S / R, D / R], each for the rank that has the tokens
            mixed = self._exchange(mixed.view(batch, self.size, tokens, -1).transpose(0, 1))
            return mixed.permute(1, 2, 0, 3).flatten(2)

        return attend_together

    def _exchange(self, tensor: Tensor) -> Tensor:
        """Send the nth part to the team's rank n, [R, ...]; the nth part returned is from it."""
        tensor = tensor.contiguous()
        received = torch.empty_like(tensor)
        dist.all_to_all_single(received, tensor, group=self._group)
        return received


class Group:
    """All ranks of one transformer, as one of them sees them."""

    def __init__(self, rank: int, size: int, device: torch.device, rendezvous: Path) -> None:
        """Wait for the others, and connect to them.

        `rendezvous` is a path in a folder that only these processes write to, with nothing there.
        """
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=rendezvous.absolute().as_uri(),
            rank=rank,
            world_size=size,
            timeout=_NO_LIMIT,
        )
        if device.type == "cpu":
            # The processes share the cores.
            torch.set_num_threads(max(1, torch.get_num_threads() // size))
        half = size // 2
        halves = [
            dist.new_group(ranks, timeout=_NO_LIMIT)
            for ranks in (list(range(half)), list(range(half, size)))
        ]
        self._rank = rank
        self._size = size
        self._device = device
        self._all = Team(None, rank, size)
        self._half = Team(halves[rank // half], rank % half, half)
        # Whatever keeps devices apart is to show now, and not in the first request.
        for group in (None, halves[rank // half]):
            dist.all_reduce(torch.zeros(1, device=device), group=group)

    def prepare(
        self,
        transformer: CosmosTransformer,
        size: tuple[int, int, int],
        prompts: Sequence[Tensor],
    ) -> Evaluate:
        """`CosmosTransformer.prepare` in rank 0, for all ranks; latents are to be float32.

        Raises:
            InvalidSpec: the ranks cannot share a video without guidance.
            RankFailed: by this or by what is returned. The process has to end.
        """
        _, patch_h, patch_w = transformer.config.patch_size
        frame_tokens = (size[1] // patch_h) * (size[2] // patch_w)
        problem = indivisible(transformer.config, frame_tokens, self._team(len(prompts)).size)
        if problem is not None:
            raise InvalidSpec(
                "guidance_scale",
                f"Without guidance all devices of a video work on the one prompt, and {problem}. "
                "Ask for a guidance_scale above 1.",
            )
        with _or_none_goes_on():
            self._tell(len(prompts), prompts[0].shape[0], *size)
            prompts = [prompt.to(self._device, transformer.dtype) for prompt in prompts]
            evaluate = self._prepare(transformer, size, prompts)

        def lead(latents: Tensor, given: Tensor, times: Tensor) -> list[Tensor]:
            assert latents.dtype == given.dtype == times.dtype == torch.float32
            with _or_none_goes_on():
                self._tell()
                return evaluate(latents, given, times)

        return lead

    @torch.inference_mode()
    def follow(self, transformer: CosmosTransformer) -> None:
        """Do what rank 0 tells, until it has ended."""
        config, evaluate, size = transformer.config, None, (0, 0, 0)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, device=self._device, dtype=dtype)

        while (header := self._hear()) is not None:
            num_prompts, length, num_frames, height, width = header
            if num_prompts:
                size = (num_frames, height, width)
                prompts = [
                    empty(length, config.text_embed_dim, dtype=transformer.dtype)
                    for _ in range(num_prompts)
                ]
                evaluate = self._prepare(transformer, size, prompts)
            else:
                assert evaluate is not None, "rank 0 begins with a request"
                latents = empty(1, config.in_channels - 1, *size)
                evaluate(latents, empty(1, size[0]), empty(1, size[0]))

    def _team(self, num_prompts: int) -> Team:
        return self._all if num_prompts == 1 else self._half

    def _prepare(
        self, transformer: CosmosTransformer, size: tuple[int, int, int], prompts: Sequence[Tensor]
    ) -> Evaluate:
        """What every rank does for a request; only rank 0's tensors hold something yet."""
        for prompt in prompts:
            dist.broadcast(prompt, src=0)
        team = self._team(len(prompts))
        text = transformer.text_keys_values(prompts[self._rank // team.size])
        rotary = team.tables_part(transformer.rotary_tables(*size), size[0])

        def evaluate(latents: Tensor, given: Tensor, times: Tensor) -> list[Tensor]:
            for tensor in (latents, given, times):
                dist.broadcast(tensor, src=0)
            shared = transformer.forward_shared(latents, given, times, rotary, team)
            patches = transformer.forward_patches(shared, text)
            if self._rank > 0:
                dist.gather(patches, dst=0)
                return []
            parts = [torch.empty_like(patches) for _ in range(self._size)]
            dist.gather(patches, parts, dst=0)
            return [
                unpatchify(
                    torch.cat(parts[first : first + team.size], dim=2),
                    shared.grid,
                    transformer.config.patch_size,
                )
                for first in range(0, self._size, team.size)
            ]

        return evaluate

    def _tell(self, *header: int) -> None:
        """Tell the others of a request; nothing stands for its next step."""
        padded = [*header, *[0] * (_HEADER_LENGTH - len(header))]
        dist.broadcast(torch.tensor(padded), src=0)

    def _hear(self) -> list[int] | None:
        """Wait for what rank 0 tells, in host memory: a GPU is idle meanwhile. None at its end."""
        header = torch.empty(_HEADER_LENGTH, dtype=torch.int64)
        try:
            dist.broadcast(header, src=0)
        except RuntimeError:
            return None
        numbers: list[int] = header.tolist()
        return numbers


@contextmanager
def _or_none_goes_on() -> Iterator[None]:
    """An error leaves the other ranks waiting for this one within a step."""
    try:
        yield
    except Exception as error:
        raise RankFailed("This process cannot go on with the other ranks.") from error

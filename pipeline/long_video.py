"""A long video as chunks: each one goes on from the last frames of the one before.

This is NVIDIA's chaining, with its units right: a chunk that begins with 1 frame of the one before
is given 1 latent frame, and one that begins with 5 is given 2.
"""

from dataclasses import dataclass, replace

from pipeline.spec import MAX_SEED, Clip, VideoSpec, chunk_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One chunk, `index` of `count`.

    `spec` is that of the chunk as a video of its own. The first `repeated` of its frames are the
    last ones of the chunk before, and the `shown` frames after them are the long video's.
    """

    spec: VideoSpec
    index: int
    count: int
    repeated: int
    shown: int

    @property
    def is_last(self) -> bool:
        return self.index == self.count - 1

    @property
    def steps_before(self) -> int:
        """The steps of the chunks before this one."""
        return self.index * self.spec.num_inference_steps

    @property
    def num_steps(self) -> int:
        """The steps of all chunks."""
        return self.count * self.spec.num_inference_steps


def chunks_of(spec: VideoSpec, max_frames: int) -> list[Chunk]:
    """The chunks of a video; one, if it is no longer than `max_frames`.

    As NVIDIA does, the last of several is made at full length, too, and cut. The seeds count up.

    Args:
        max_frames: the longest video of the checkpoint.
    """
    if spec.overlap is None or spec.num_frames <= max_frames:
        only = replace(spec, overlap=None)
        return [Chunk(spec=only, index=0, count=1, repeated=0, shown=spec.num_frames)]
    length = chunk_frames(max_frames)
    count = 1 + -(-(spec.num_frames - length) // (length - spec.overlap))
    chunks = []
    num_shown = 0
    for index in range(count):
        repeated = spec.overlap if index else 0
        shown = min(length - repeated, spec.num_frames - num_shown)
        chunk = replace(
            spec,
            overlap=None,
            num_frames=length,
            seed=(spec.seed + index) % (MAX_SEED + 1),
            conditioning=Clip() if index else spec.conditioning,
        )
        chunks.append(Chunk(spec=chunk, index=index, count=count, repeated=repeated, shown=shown))
        num_shown += shown
    return chunks

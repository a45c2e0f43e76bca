"""The real worker with a fault; unlike `workers`, it imports torch when it loads.

The pool starts it as it starts the real one: `Settings.worker = "gpu_workers:RunsOutOnce"`.
"""

from collections.abc import Callable

from server.workers.gpu import GpuWorker
from server.workers.messages import Loading, Ready


class RunsOutOnce(GpuWorker):
    """Its device runs out of memory at its first decoding, deep in the network."""

    def load(self, report: Callable[[Loading], None]) -> Ready:
        ready = super().load(report)
        import torch

        def run_out(*_: object) -> None:
            hook.remove()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB.")

        (pipeline,) = self._pipelines.values()
        hook = pipeline.vae.decoder.conv_out.register_forward_pre_hook(run_out)
        return ready

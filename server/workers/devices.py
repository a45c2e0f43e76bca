"""Which devices `--devices` means, and which GPUs this machine shows."""

import shutil
import subprocess
from pathlib import Path

CPU = "cpu"
_AND = "+"
"""Between devices that work on one video together."""

_NVIDIA_SMI_TIMEOUT_S = 10.0


class DeviceError(ValueError):
    """`--devices` cannot be had; the message is for the person who typed it."""


def devices_from(text: str, cuda_visible_devices: str | None) -> list[str]:
    """The devices that `--devices` means: `cpu`, or `cuda:` and what CUDA calls the device.

    `text` is `all`, or a list such as `0,2` or `cpu`. The numbers count the GPUs that CUDA shows
    us, as everywhere in CUDA: those of `cuda_visible_devices` if it is set, otherwise all that the
    machine has. Empty text means all of them, or one CPU worker where there is none. `0+1` is one
    worker on two devices, `cuda:0+cuda:1`, which work on one video together.

    Raises:
        DeviceError: a GPU is asked for that is not there, or the text has another form.
    """
    if text.strip() in ("", "all"):
        visible = _visible_gpus(cuda_visible_devices)
        if not visible and text:
            raise DeviceError(_no_gpu("--devices all asks for every GPU", cuda_visible_devices))
        return [f"cuda:{gpu}" for gpu in visible] or [CPU]
    groups = [
        [_device(item.strip(), text, cuda_visible_devices) for item in group.split(_AND)]
        for group in text.split(",")
    ]
    gpus = [device for group in groups for device in group if device != CPU]
    if len(set(gpus)) < len(gpus):
        raise DeviceError(f"--devices {text} names a GPU twice; each can serve one worker.")
    for group in groups:
        _check_group(group, text)
    return [_AND.join(group) for group in groups]


def num_members(device: str) -> int:
    """How many devices work together under one name."""
    return device.count(_AND) + 1


def kind_and_indices(device: str) -> tuple[str, str]:
    """`cpu` or `cuda`, and what CUDA calls the devices, with commas between."""
    members = [member.partition(":") for member in device.split(_AND)]
    return members[0][0], ",".join(index for _, _, index in members)


def _check_group(group: list[str], text: str) -> None:
    if len(group) > 1 and len({device == CPU for device in group}) > 1:
        raise DeviceError(f"--devices {text} has the CPU and a GPU work on one video.")
    if len(group) > 1 and len(group) % 2:
        raise DeviceError(
            f"--devices {text} has {len(group)} devices work on one video. Give an even number: "
            "half of them evaluates the prompt, the other half the negative prompt."
        )


def _device(item: str, text: str, cuda_visible_devices: str | None) -> str:
    if item == CPU:
        return CPU
    if not (item.isascii() and item.isdigit()):
        raise DeviceError(
            f"--devices {text}: {item!r} is no device. Give all, cpu, or numbers such as 0,2 "
            "or 0+1."
        )
    visible = _visible_gpus(cuda_visible_devices)
    if not visible:
        raise DeviceError(_no_gpu(f"--devices {text} asks for GPU {item}", cuda_visible_devices))
    if int(item) >= len(visible):
        raise DeviceError(
            f"--devices {text} asks for GPU {item}, but the GPUs here are 0 to {len(visible) - 1}."
        )
    return f"cuda:{visible[int(item)]}"


def _no_gpu(asked: str, cuda_visible_devices: str | None) -> str:
    if cuda_visible_devices is not None:
        return f"{asked}, but CUDA_VISIBLE_DEVICES={cuda_visible_devices!r} shows none."
    return (
        f"{asked}, but no NVIDIA GPU was found here. A container is given them by `--gpus all`; "
        "use --devices cpu (COSMOS_DEVICES=cpu) to run without one."
    )


def _visible_gpus(cuda_visible_devices: str | None) -> list[str]:
    """What CUDA calls the GPUs that it would show to a process, in its order."""
    if cuda_visible_devices is None:
        return [str(index) for index in range(_count_gpus())]
    visible: list[str] = []
    for item in cuda_visible_devices.split(","):
        if not item.strip() or item.strip().startswith("-"):
            break  # as CUDA does: what follows an invalid entry is hidden
        visible.append(item.strip())
    return visible


def _count_gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> int:
    """How many GPUs the machine has, asked without CUDA: by nvidia-smi, or else the driver."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return len(list(driver.iterdir())) if driver.is_dir() else 0
    try:
        listed = subprocess.run(
            [nvidia_smi, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"nvidia-smi -L did not answer within {_NVIDIA_SMI_TIMEOUT_S:g} s, so the driver is in "
            "trouble. Use --devices cpu to run without a GPU."
        ) from error
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())

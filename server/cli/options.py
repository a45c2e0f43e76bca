"""The options and arguments of the commands, with their help. Nothing heavy is imported here."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.memory_plan import MemoryChoice
from pipeline.spec import (
    MAX_FRAMES,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_STEPS,
    MIN_FRAMES,
    MIN_GUIDANCE,
    MIN_STEPS,
    Quality,
)

OutputType = Literal["x264", "vp9", "prores4444", "gif"]
"""The containers of `pipeline.spec.Container` by their names, in lower case."""

# For every command that uses a checkpoint.

Weights = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the checkpoint; or set COSMOS_WEIGHTS."),
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="all, cpu, or GPU numbers such as 0,2. By default every GPU that "
        "CUDA_VISIBLE_DEVICES shows, or the CPU where there is none.",
    ),
]
Guardrail = Annotated[
    Literal["required", "off"] | None,
    typer.Option(
        help="off: use a checkpoint that requires a guardrail without one, and answer for it."
    ),
]

Attention = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Attention backend: native, cudnn, flash or fa3. By default the fastest here.",
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option("--compile", help="Let torch compile the model: slow at first, faster later."),
]
Memory = Annotated[
    MemoryChoice | None,
    typer.Option(
        help="Where the model waits: resident on the GPU, offload in host memory. By default auto, "
        "which offloads when the GPU runs out."
    ),
]

# For generate.

Image = Annotated[
    Path,
    typer.Argument(
        metavar="IMAGE",
        help="The first frame: a JPEG, PNG, WebP or GIF file, scaled and cropped to fit.",
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What happens in the video.")]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help="The video. It appears when it is complete, and replaces a file of that name.",
    ),
]
NegativePrompt = Annotated[
    str,
    typer.Option(
        metavar="TEXT", help="What the video should not be like.", show_default="as fal's"
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=MIN_FRAMES,
        max=MAX_FRAMES,
        help="Length; 16 frames make a second. By default as many as the checkpoint makes.",
    ),
]
Steps = Annotated[
    int,
    typer.Option(
        metavar="N", min=MIN_STEPS, max=MAX_STEPS, help="Denoising steps: more is finer, slower."
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        metavar="G",
        min=MIN_GUIDANCE,
        max=MAX_GUIDANCE,
        help="How closely to follow the prompt; 1 is no guidance, and twice as fast.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=MAX_SEED,
        help="The same seed and inputs give the same video. By default drawn, and printed.",
    ),
]
VideoOutputType = Annotated[
    OutputType | None,
    typer.Option(
        "--output-type",
        help="Codec and container. By default what the ending of FILE says.",
        case_sensitive=False,
    ),
]
VideoQuality = Annotated[
    Quality, typer.Option(help="How much of the picture the encoder keeps.", case_sensitive=False)
]

# For serve.

Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for the database and the videos; default data."),
]
Host = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Where to listen; default 127.0.0.1.")
]
Port = Annotated[int | None, typer.Option(metavar="N", help="Port for HTTP; default 8000.")]
PublicUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="How callers reach the server; by default as each of them did.",
    ),
]
ForwardedAllowIps = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Addresses and networks of reverse proxies whose X-Forwarded headers are believed, "
        "comma-separated; by default nobody's are.",
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TLS certificate as PEM, for HTTPS.")
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key as PEM.")]
TlsPort = Annotated[
    int | None,
    typer.Option(metavar="N", help="Port for HTTPS; goes with --tls-cert and --tls-key."),
]

# For weights.

Size = Annotated[
    str,
    typer.Option(metavar="WxH", help="Size of its videos in pixels, both sides multiples of 16."),
]
StandInFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")]
CheckpointFolder = Annotated[Path, typer.Argument(metavar="DIR", help="The checkpoint's folder.")]

# For certs.

CertsFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder for the five files.")]
CertHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="A name or an address that clients find the server at, besides fal's names and "
        "localhost; may be given several times.",
    ),
]
Renew = Annotated[
    bool,
    typer.Option("--renew", help="Issue a new certificate from the CA that is in DIR."),
]

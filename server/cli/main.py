"""The command `cosmos-serve`. What a command needs is imported when it runs; torch never is."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.spec import DEFAULT_NEGATIVE_PROMPT, Quality
from server.cli import options
from server.cli.errors import INTERRUPTED, USAGE, CommandFailed, WrongUsage, expected_errors
from server.cli.operators import jobs_app, keys_app, queue_app

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted."

app = typer.Typer(
    name="cosmos-serve",
    help="Turn a picture and a prompt into a video with NVIDIA Cosmos-Predict2.5-2B: from the "
    "command line, or as a server that fal clients can talk to.",
    # \b keeps the lines of a paragraph as they are.
    epilog="\b\nTo try it with no GPU and no download:\n"
    "  cosmos-serve weights stand-in tiny\n"
    "  cosmos-serve generate photo.jpg 'A calm sea.' -o sea.mp4 --weights tiny\n\n"
    f"{EXIT_CODES}",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
weights_app = typer.Typer(help="Look at a checkpoint, or make a stand-in for one.")
app.add_typer(weights_app, name="weights")
app.add_typer(keys_app, name="keys")
app.add_typer(jobs_app, name="jobs")
app.add_typer(queue_app, name="queue")


def main() -> None:
    """Run the command line, and exit with the code that says how it went."""
    try:
        code = app(prog_name="cosmos-serve", standalone_mode=False)
    except typer.TyperException as error:
        print(f"cosmos-serve: {error.format_message()}", file=sys.stderr)
        code = error.exit_code
    except CommandFailed as error:
        print(f"cosmos-serve: {error}", file=sys.stderr)
        code = error.exit_code
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("cosmos-serve: interrupted.", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"cosmos-serve {importlib.metadata.version('cosmos-serve')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve generate photo.jpg 'Waves roll in.' -o sea.mp4 --frames 25\n\n"
    f"{EXIT_CODES}"
)
def generate(
    image: options.Image,
    prompt: options.Prompt,
    out: options.Out,
    weights: options.Weights = None,
    negative_prompt: options.NegativePrompt = DEFAULT_NEGATIVE_PROMPT,
    frames: options.Frames = None,
    steps: options.Steps = 35,
    guidance: options.Guidance = 7.0,
    seed: options.Seed = None,
    output_type: options.VideoOutputType = None,
    quality: options.VideoQuality = Quality.HIGH,
    devices: options.Devices = None,
    guardrail: options.Guardrail = None,
    attention: options.Attention = None,
    compile: options.Compile = None,
    memory: options.Memory = None,
) -> None:
    """Make one video on this machine, on the first of the devices."""
    with expected_errors():
        from server.cli.generate import GenerateArguments, generate_video
        from server.settings import Settings

        settings = Settings.load(
            weights=weights,
            devices=devices,
            guardrail=guardrail,
            attention=attention,
            compile=compile,
            memory=memory,
        )
        wish = GenerateArguments(
            image=image,
            prompt=prompt,
            out=out,
            negative_prompt=negative_prompt,
            frames=frames,
            steps=steps,
            guidance=guidance,
            seed=seed,
            output_type=output_type,
            quality=quality,
        )
        print(generate_video(wish, settings))


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve serve --weights weights --data data --port 8000\n\n"
    "Every option can be set as COSMOS_ and its name instead, such as COSMOS_PORT; there are "
    f"more settings than options.\n\n{EXIT_CODES}"
)
def serve(
    weights: options.Weights = None,
    data: options.Data = None,
    host: options.Host = None,
    port: options.Port = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_port: options.TlsPort = None,
    public_url: options.PublicUrl = None,
    forwarded_allow_ips: options.ForwardedAllowIps = None,
    devices: options.Devices = None,
    guardrail: options.Guardrail = None,
    attention: options.Attention = None,
    compile: options.Compile = None,
    memory: options.Memory = None,
) -> None:
    """Serve videos over HTTP until Ctrl-C."""
    with expected_errors():
        from server.serve import serve as listen
        from server.settings import Settings

        settings = Settings.load(
            weights=weights,
            data=data,
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_port=tls_port,
            public_url=public_url,
            forwarded_allow_ips=forwarded_allow_ips,
            devices=devices,
            guardrail=guardrail,
            attention=attention,
            compile=compile,
            memory=memory,
        )
        listen(settings)


@app.command(
    epilog="\b\nExample:\n"
    "  cosmos-serve certs certs --host gpu.example.com --host 192.168.1.20\n\n"
    f"{EXIT_CODES}"
)
def certs(
    folder: options.CertsFolder, host: options.CertHosts = None, renew: options.Renew = False
) -> None:
    """Make a CA and a TLS certificate for fal's names and this server's; say how to use them."""
    with expected_errors():
        from server.cli.certs import make_certs, renew_certs

        print((renew_certs if renew else make_certs)(folder, host or []))


@weights_app.command("stand-in")
def stand_in(folder: options.StandInFolder, size: options.Size = "320x176") -> None:
    """Make a tiny checkpoint of random numbers: everything works with it but the picture."""
    width, _, height = size.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise WrongUsage(f"--size is {size!r}; give width and height such as 320x176.")
    with expected_errors():
        from weights.stand_in import write_stand_in
        from weights.store import WeightStore

        write_stand_in(folder, width=int(width), height=int(height))
        print(f"{folder}: a stand-in checkpoint for videos of {size}")
        print(WeightStore(folder).profile.licence)


@weights_app.command()
def check(folder: options.CheckpointFolder) -> None:
    """Say what a checkpoint is, or all that is missing or wrong."""
    with expected_errors():
        from weights.store import WeightStore

        store = WeightStore(Path(folder))
        profile = store.profile
        print(f"{folder} is complete.")
        print(f"videos     {profile.width}x{profile.height}, up to {profile.max_frames} frames")
        print(f"guardrail  {profile.guardrail}")
        print(f"licence    {profile.licence}")
        print(f"digest     {store.digest}")

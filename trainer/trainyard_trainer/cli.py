"""The commands of `trainyard`; each loads what it needs when it is called, so that help stays fast."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from trainyard_api.errors import ConfigurationError
from trainyard_trainer import cli_inspect, cli_internal, cli_predict

app = typer.Typer(
    help="Train language models from one TrainingRun file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="A TrainingRun in YAML.")]
Output = Annotated[Path, typer.Option("--output", help="Storage root; the run folder is FOLDER/NAME in it.")]
Mounts = Annotated[
    list[str] | None,
    typer.Option("--mount", metavar="HOST:PATH", help="Read sources below PATH from HOST, like a volume."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(  # noqa: PLR0913, PLR0917 - the options of the command
    file: RunFile,
    output: Output = Path("runs"),
    mount: Mounts = None,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of /metrics on loopback; 0 lets the system choose.")
    ] = 0,
    cores: Annotated[int, typer.Option(min=0, help="CPU cores to use; 0 takes all.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors and the last line.")] = False,
) -> None:
    """Prepare, train and export on this machine; run it again to go on after a stop."""
    from rich.console import Console  # noqa: PLC0415

    from trainyard_trainer.display import open_display  # noqa: PLC0415
    from trainyard_trainer.local import LocalOptions, run_local  # noqa: PLC0415

    options = LocalOptions(output=output, mounts=parse_mounts(mount), cores=cores, metrics_port=metrics_port)
    with closing(open_display(Console(), quiet=quiet)) as display:
        code = run_local(file, options, display)
    sys.exit(code)


@app.command()
def validate(file: RunFile) -> None:
    """List everything that is wrong with a file, each with its field and what to write instead."""
    from trainyard_api.validation import load_run_file  # noqa: PLC0415
    from trainyard_trainer.cluster_checks import check_template  # noqa: PLC0415
    from trainyard_trainer.models.rules import MODEL_RULES  # noqa: PLC0415

    checked = load_run_file(file, MODEL_RULES)
    for warning in check_template(checked, file):
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{file}: TrainingRun {checked.metadata.name} is valid")


@app.command()
def plan(file: RunFile, output: Output = Path("runs"), mount: Mounts = None, as_json: AsJson = False) -> None:
    """Show stages, processes, batch arithmetic and memory; change nothing."""
    from trainyard_api.plan import Rendezvous, plan_run  # noqa: PLC0415
    from trainyard_api.validation import load_run_file  # noqa: PLC0415
    from trainyard_trainer.models.rules import MODEL_RULES  # noqa: PLC0415
    from trainyard_trainer.plan_text import plan_lines  # noqa: PLC0415

    planned = plan_run(
        load_run_file(file, MODEL_RULES),
        storage_root=str(output.resolve()),
        rendezvous=Rendezvous(address="127.0.0.1"),
        mounts=parse_mounts(mount),
    )
    if as_json:
        typer.echo(planned.model_dump_json(by_alias=True, exclude_none=True, indent=2))
        return
    for line in plan_lines(planned):
        typer.echo(line)


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition that is generated from the schema."""
    from trainyard_api.crd import custom_resource_definition_yaml  # noqa: PLC0415

    typer.echo(custom_resource_definition_yaml(), nl=False)


@app.command()
def presets() -> None:
    """List the shipped model architectures."""
    from trainyard_trainer.models.presets import PRESETS  # noqa: PLC0415

    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        typer.echo(
            f"{name:{width}}  {preset.objective:9}  {preset.maximum_positions:>6}  {preset.description}"
        )


def parse_mounts(texts: list[str] | None) -> dict[str, str]:
    """`HOST:PATH` pairs as a mapping from PATH to HOST.

    Raises:
        ConfigurationError: a pair is malformed, or the host folder is not there.
    """
    mounts = {}
    for text in texts or []:
        host, separator, path = text.rpartition(":")
        if not separator or not host or not path.startswith("/"):
            raise ConfigurationError(
                "--mount", f"{text!r} is not HOST:PATH with an absolute PATH", "Write --mount ./texts:/data"
            )
        folder = Path(host).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigurationError("--mount", f"there is no folder {folder}", "Create it or name another")
        mounts[path.rstrip("/") or "/"] = str(folder)
    return mounts


app.command()(cli_inspect.status)
app.command()(cli_inspect.logs)
app.command()(cli_inspect.report)
app.command()(cli_predict.predict)
app.command(hidden=True)(cli_internal.node)
app.command(hidden=True)(cli_internal.rank)
app.command(hidden=True)(cli_internal.read)
app.command(hidden=True)(cli_internal.prepare)
app.command(hidden=True)(cli_internal.export)

"""The command line: parse, call a stage, print. Nothing heavy is imported before a command runs.

Defaults come from the command's block in `./params.yaml` where there is one. Results go to stdout, the rest to stderr.
Exit codes: 0; 1 for what the user can mend; 2 for a wrong call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli_options import (
    NameList,
    PipelineCommand,
    PipelineGroup,
    extract_block,
    required,
    settings_of_heads,
    split_switches,
    switch_options,
)
from pipeline.params import filled_in
from pipeline.recipe import FrameChoices, HeadChoices, TrainingChoices
from pipeline.registry import BACKBONE_NAMES, DATASET_NAMES, HEAD_NAMES, RECIPE_NAMES, WEIGHTS_NAMES

BACKBONE_HELP = f"{', '.join(BACKBONE_NAMES)}, or torchvision:NAME."
WEIGHTS_HELP = f"{', '.join(WEIGHTS_NAMES)}, or the path of a weight file."
RECIPE_HELP = f"{', '.join(RECIPE_NAMES)}."


@click.group(cls=PipelineGroup, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="st-pipeline", prog_name="pipeline")
def cli() -> None:
    """Compare spatiotemporal heads for video recognition on cached features.

    \b
    The way of the data:
      prepare    clips on disk -> manifest
      extract    manifest -> feature store (frozen backbone, once)
      fit-head   feature store -> trained head (seconds to minutes)
      finetune   backbone and head end to end, from a fitted head
      compare    one table of all heads

    Settings that are not given come from ./params.yaml. `dvc repro` runs all of it.
    """


@cli.command()
@click.argument("dataset", type=click.Choice(DATASET_NAMES))
@click.argument("root", type=click.Path(path_type=Path), required=False)
@click.argument("lists", type=click.Path(path_type=Path), nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="The manifest to write, data_manifests/NAME.csv.")
@click.option("--frames", type=click.Choice(["video", "jpg"]), default="video", help="gestures: webm or JPG folders.")
@click.option("--train-clips", type=click.IntRange(1), help="gestures: training clips of each class.")
@click.option("--val-clips", type=click.IntRange(1), help="gestures: validation clips of each class.")
@click.option("--seed", type=int, default=0, help="Same seed, same pixels, same splits.")
@click.pass_context
def prepare(ctx: click.Context, out: Path | None, **options: Any) -> None:
    """Write a manifest of clips, labels and splits.

    \b
    Example:
      pipeline prepare gestures data/gestures --out data_manifests/gestures.csv
    """
    required(ctx, out=out)
    from stages.prepare import prepare as run

    run(out=out, **options)


@cli.command(cls=PipelineCommand)
@click.option("--manifest", type=click.Path(path_type=Path), help="The manifest, data_manifests/NAME.csv.")
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the clips.  [default: the manifest's]")
@click.option("--store", help="The feature store to fill: a folder, or a URL such as s3://bucket/name.zarr.")
@click.option("--backbone", default="squeezenet", help=BACKBONE_HELP)
@click.option("--weights", default="imagenet", help=WEIGHTS_HELP)
@click.option("--num-segments", type=click.IntRange(1), default=8, help="Frames taken from each clip.")
@click.option("--views", type=click.IntRange(0), default=4, help="Training views of each clip, beside the test view.")
@click.option("--maps", type=NameList(), default="pooled,spatial", help="Which features to keep.")
@click.option("--recipe", type=click.Choice(RECIPE_NAMES), default="cached", help="Choices of frames and crops.")
@switch_options(FrameChoices)
@click.option("--seed", type=int, default=0, help="Of the training views, and of random weights.")
@click.option("--max-failed", type=click.IntRange(0), default=100, help="Stop beyond this many bad clips.")
@click.option("--rebuild", is_flag=True, help="Throw the store away and make it anew.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", help="Of the backbone.")
@click.option("--device", default="cpu", help="cpu, cuda, or cuda:N.")
@click.pass_context
def extract(ctx: click.Context, **options: Any) -> None:
    """Run a frozen backbone over sampled frames and keep its features.

    Run again, it goes on where it was. A bad clip is recorded with its reason and never stops the run by itself.

    \b
    Example:
      pipeline extract --backbone squeezenet --weights imagenet \\
        --manifest data_manifests/jester.csv --store cache/jester/squeezenet.zarr
    """
    required(ctx, manifest=options["manifest"], store=options["store"])
    switches = split_switches(options)
    store = filled_in(options.pop("store"), options)
    from stages.extract import extract as run

    run(store=store, switches=switches, **options)


@cli.command("fit-head", cls=PipelineCommand)
@click.option("--store", help="The feature store that `pipeline extract` filled.")
@click.option("--backbone", default="squeezenet", help="Fills {backbone} in the store's path.")
@click.option("--head", type=NameList(), default="all", help=f"all, or some of {','.join(HEAD_NAMES)}.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results; each cell gets one in it.")
@click.option("--recipe", type=click.Choice(RECIPE_NAMES), default="cached", help=RECIPE_HELP)
@click.option("--seeds", type=click.IntRange(1), default=1, help="Fits of each head, from seeds SEED, SEED+1, ...")
@click.option("--seed", type=int, default=0, help="The first seed.")
@click.option("--device", default="cpu", help="cpu, cuda, or cuda:N.")
@switch_options(TrainingChoices, HeadChoices)
@click.pass_context
def fit_head(ctx: click.Context, **options: Any) -> None:
    """Train heads on cached features, in seconds to minutes.

    \b
    Example:
      pipeline fit-head --store cache/jester/squeezenet.zarr --head trn --out results/fit_head
    """
    required(ctx, store=options["store"], out=options["out"])
    switches = split_switches(options)
    store = filled_in(options.pop("store"), options, extract_block(ctx))
    options.pop("backbone")
    from stages.fit_head import fit_head as run

    run(store=store, switches=switches, head_settings=settings_of_heads(ctx), **options)


@cli.command()
@click.argument("what", type=click.Choice(["heads", "backbones"]))
@click.option("--num-segments", type=click.IntRange(1), default=8)
@click.option("--num-classes", type=click.IntRange(1), default=27)
@click.option(
    "--map-size", type=click.IntRange(1), default=13, help="Side of the spatial maps: 13 SqueezeNet, 7 BNInception."
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
def describe(what: str, num_segments: int, num_classes: int, map_size: int, as_json: bool) -> None:
    """Names, inputs, parameters and multiply-accumulates of heads or backbones.

    Parameters are those of the ST block alone, without the learned projection; `macs` counts multiply-accumulates of
    one clip (heads) or of one frame (backbones).

    \b
    Example:
      pipeline describe heads --json --num-segments 8 --num-classes 27
    """
    from pipeline.analysis.complexity import describe_backbones, describe_heads

    rows = describe_backbones() if what == "backbones" else describe_heads(num_segments, num_classes, map_size)
    click.echo(json.dumps(rows, indent=2) if as_json else _as_table(rows))


def _as_table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict)))
    cells = [columns, *([_as_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    is_number = [isinstance(rows[0].get(column), int) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in cells
    )


def _as_cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """The `pipeline` command."""
    cli(prog_name="pipeline")

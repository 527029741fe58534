"""The command line: parse, call a stage, print. Nothing heavy is imported before a command runs.

Defaults come from the command's block in `./params.yaml` where there is one. Results go to stdout, the rest to stderr.
Exit codes: 0; 1 for what the user can mend; 2 for a wrong call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.options import PipelineCommand, PipelineGroup
from pipeline.settings.help_texts import ROOT_HELP

if TYPE_CHECKING:
    from pipeline.settings.bundled import TrainBundledSettings
    from pipeline.settings.check import CheckSettings
    from pipeline.settings.compare import CompareSettings
    from pipeline.settings.describe import DescribeSettings
    from pipeline.settings.extract import ExtractSettings
    from pipeline.settings.finetune import FinetuneSettings
    from pipeline.settings.fit_head import FitHeadSettings
    from pipeline.settings.predict import EvaluateSettings, ExportSettings, PredictSettings
    from pipeline.settings.prepare import PrepareSettings


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


@cli.command(cls=PipelineCommand, settings="pipeline.settings.prepare:PrepareSettings")
def prepare(settings: PrepareSettings) -> None:
    """Write a manifest of clips, labels and splits.

    Root and lists are the data set's folder and its own label files; a missing clip keeps its row and is counted.

    \b
    Examples:
      pipeline prepare gestures data/gestures --out data_manifests/gestures.csv
      pipeline prepare jester /data/jester --out data_manifests/jester.csv
      pipeline prepare frame-lists /data/frames train_videofolder.txt val_videofolder.txt --out data_manifests/mine.csv
    """
    from stages.prepare import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.check:CheckSettings")
def check(settings: CheckSettings) -> None:
    """Say what is wrong with a manifest and its clips; exit 1 if anything is.

    Missing and damaged clips, frame counts, duplicates by content, clips in two splits, classes missing in a split.

    \b
    Example:
      pipeline check data_manifests/jester.csv --root /data/jester --decode --out findings.csv
    """
    from pipeline.prepare.check import check as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.extract:ExtractSettings")
def extract(settings: ExtractSettings) -> None:
    """Run a frozen backbone over sampled frames and keep its features.

    Run again, it goes on where it was. A bad clip is recorded with its reason and never stops the run by itself.

    \b
    Example:
      pipeline extract --backbone squeezenet --weights imagenet \\
        --manifest data_manifests/jester.csv --store cache/jester/squeezenet.zarr
    """
    from stages.extract import run

    run(settings)


@cli.command("fit-head", cls=PipelineCommand, settings="pipeline.settings.fit_head:FitHeadSettings")
def fit_head(settings: FitHeadSettings) -> None:
    """Train heads on cached features, in seconds to minutes.

    \b
    Example:
      pipeline fit-head --store cache/jester/squeezenet.zarr --head trn --out results/fit_head
    """
    from stages.fit_head import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.finetune:FinetuneSettings")
def finetune(settings: FinetuneSettings) -> None:
    """Train backbone and head together on the clips, from a fitted head or from scratch.

    Killed and run again, it goes on where it was. --epochs 0 scores the model as it is. For several GPUs:
    `torchrun --nproc-per-node N -m pipeline finetune ...`.

    \b
    Example:
      pipeline finetune --init results/fit_head/squeezenet-lstm/model.safetensors \\
        --manifest data_manifests/jester.csv --out results/finetune --device cuda
    """
    from stages.finetune import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.compare:CompareSettings")
def compare(settings: CompareSettings) -> None:
    """Print and write the table of heads: accuracy with its interval, parameters, MACs, latency.

    DIRS are result folders, or folders above them.

    \b
    Examples:
      pipeline compare results/fit_head results/finetune --out results/compare
      pipeline compare results --against main --max-drop 1.0
    """
    from stages.compare import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:PredictSettings")
def predict(settings: PredictSettings) -> None:
    """Classify clips by a saved model, seen as it saw them in training.

    VIDEO is a video file, a folder of numbered images, FILE.h5::CLIP, a folder of clips, or - for a list on stdin. A
    clip that cannot be used is reported, the others go on, and the exit code is 1.

    \b
    Examples:
      pipeline predict results/fit_head/squeezenet-trn/model.safetensors clip.webm
      find clips -name '*.mp4' | pipeline predict model.safetensors - --format csv
      pipeline predict model.safetensors long.mp4 --timeline long.png --window 48
    """
    from pipeline.predict.command import predict as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:EvaluateSettings")
def evaluate(settings: EvaluateSettings) -> None:
    """Metrics of a saved model on a split: accuracy, calibration, order tests, and a table of classes.

    \b
    Examples:
      pipeline evaluate model.safetensors --store cache/jester/squeezenet.zarr --split val
      pipeline evaluate model.safetensors --manifest data_manifests/jester.csv --crops 3 --draws 4
    """
    from pipeline.predict.evaluate_command import evaluate as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:ExportSettings")
def export(settings: ExportSettings) -> None:
    """Write a model as ONNX (or as a program of torch.export), and check it against torch.

    Its input is frames as bytes, (B, T, 3, 224, 224) uint8 RGB, for any B: normalisation and backbone are inside.

    \b
    Example:
      pipeline export results/fit_head/squeezenet-trn/model.safetensors --out trn.onnx
    """
    from pipeline.predict.export_command import export as run

    run(settings)


@cli.group()
def store() -> None:
    """Look into a feature store, check it, move it.

    \b
    Example:
      pipeline store verify cache/jester/squeezenet.zarr --repair
    """


@store.command("info")
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="An object instead of text.")
def store_info(**options: Any) -> None:
    """What a store holds, its settings and size, and its failed clips.

    \b
    Example:
      pipeline store info cache/jester/squeezenet.zarr
    """
    from pipeline.store_command.command import store_info as run

    run(**options)


@store.command("verify")
@click.argument("store")
@click.option("--repair", is_flag=True, help="Make damaged blocks again from the clips.")
@click.option("--samples", type=click.IntRange(0), default=3, help="Clips to compute again and compare.")
@click.option("--manifest", type=click.Path(path_type=Path), help="Where the clips are.  [default: as recorded]")
@click.option("--root", type=click.Path(path_type=Path), help=ROOT_HELP)
@click.option("--weights", help="Weight file, where the store's is not found by its name.")
@click.option("--workers", type=click.IntRange(0), help="Local processes for a repair.")
def store_verify(**options: Any) -> None:
    """Check every checksum, and compute a sample of clips again.

    \b
    Example:
      pipeline store verify cache/jester/squeezenet.zarr --repair
    """
    from pipeline.store_command.command import store_verify as run

    run(**options)


@store.command("export")
@click.argument("store")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
def store_export(**options: Any) -> None:
    """Write a store as one HDF5 file, readable with h5py alone.

    \b
    Example:
      pipeline store export cache/jester/squeezenet.zarr --out squeezenet.h5
    """
    from pipeline.store_command.command import store_export as run

    run(**options)


@store.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--store", required=True, help="The store to make.")
def store_import(**options: Any) -> None:
    """Make a store from a file that `store export` wrote.

    \b
    Example:
      pipeline store import squeezenet.h5 --store cache/jester/squeezenet.zarr
    """
    from pipeline.store_command.command import store_import as run

    run(**options)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.describe:DescribeSettings")
def describe(settings: DescribeSettings) -> None:
    """Names, inputs, parameters and multiply-accumulates of heads or backbones.

    Parameters are those of the ST block alone, without the learned projection; `macs` counts multiply-accumulates of
    one clip (heads) or of one frame (backbones).

    \b
    Example:
      pipeline describe heads --json --num-segments 8 --num-classes 27
    """
    from pipeline.compare.describe_command import describe as run

    run(settings)


@cli.command("train-bundled", cls=PipelineCommand, settings="pipeline.settings.bundled:TrainBundledSettings")
def train_bundled(settings: TrainBundledSettings) -> None:
    """Train the weights that come with the project again, on drawn still images.

    \b
    Example:
      pipeline train-bundled --minutes 45
    """
    from pipeline.bundled.command import train_bundled_weights as run

    run(settings)


def main() -> None:
    """The `pipeline` command."""
    cli(prog_name="pipeline")

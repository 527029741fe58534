"""The command line: parse options, call a stage, print. Heavy packages are imported only when a command runs.

Defaults come from the command's block in `./params.yaml`, if it exists. Results go to stdout, messages to stderr.
Exit codes: 0: success; 1: wrong data or settings; 2: wrong options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pipeline.collection import lasting_imports, skip_last_collection
from pipeline.command_group import PipelineGroup
from pipeline.commands import PipelineCommand
from pipeline.supervisor import allow_supervision, supervise

if TYPE_CHECKING:
    from pipeline.settings.bundled import TrainBundledSettings
    from pipeline.settings.check import CheckSettings
    from pipeline.settings.compare import CompareSettings
    from pipeline.settings.describe import DescribeSettings
    from pipeline.settings.extract import ExtractSettings
    from pipeline.settings.finetune import FinetuneSettings
    from pipeline.settings.fit_head import FitHeadSettings
    from pipeline.settings.init import InitSettings
    from pipeline.settings.predict import EvaluateSettings, ExportSettings, PredictSettings
    from pipeline.settings.prepare import PrepareSettings
    from pipeline.settings.report import ReportSettings
    from pipeline.settings.store import (
        StoreExportSettings,
        StoreImportFeaturesSettings,
        StoreImportSettings,
        StoreInfoSettings,
        StoreVerifySettings,
    )
    from pipeline.settings.temporality import TemporalitySettings


@click.group(cls=PipelineGroup, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="st-pipeline", prog_name="pipeline")
def cli() -> None:
    """Compare spatiotemporal heads for video recognition on cached features.

    `pipeline init ~/clips` writes a study for a folder of clips; `dvc repro` then runs all steps.

    \b
    Steps of an experiment:
      prepare    clips on disk -> manifest
      extract    manifest -> feature store (frozen backbone, once)
      fit-head   feature store -> trained head (seconds to minutes)
      finetune   fitted head -> backbone and head trained end to end
      compare    results -> one table of all heads

    Options that are not given take their values from ./params.yaml.
    """


@cli.command(cls=PipelineCommand, settings="pipeline.settings.init:InitSettings")
def init(settings: InitSettings) -> None:
    """Write a study for a folder of clips: settings, DVC stages, manifest and README. `dvc repro` then runs it.

    ROOT is the folder of the clips, LISTS are label files, as in `pipeline prepare`. Defaults come from the number of
    clips and the speed of this machine; an estimate of time and disk space is printed. Nothing is overwritten.

    \b
    Examples:
      pipeline init ~/clips
      pipeline init /data/frames train.txt val.txt --data frame-lists --out studies/mine --head mlp,gru,fcn3d
      pipeline init --demo --out demo
    """
    supervise()
    from pipeline.init.command import init as run

    run(settings)


@cli.command(
    cls=PipelineCommand,
    settings="pipeline.settings.prepare:PrepareSettings",
    overview="pipeline.prepare.overview:overview",
)
def prepare(settings: PrepareSettings) -> None:
    """Write a manifest of clips, labels and splits. Without arguments, list the data sets.

    ROOT is the folder of the data set, LISTS are its label files. A missing clip keeps its row and is counted.

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
    """Report problems of a manifest and its clips; the exit code is 1 if there are any.

    It finds missing and damaged clips, wrong frame counts, duplicates by content, clips in two splits, and classes
    without a clip in a split.

    \b
    Example:
      pipeline check data_manifests/jester.csv --root /data/jester --decode --out findings.csv
    """
    if settings.decode and settings.workers == 0:
        supervise()
    from pipeline.prepare.check import check as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.extract:ExtractSettings")
def extract(settings: ExtractSettings) -> None:
    """Run a frozen backbone over sampled frames and store its features.

    A stopped run is resumed by the same command. A bad clip is recorded with its reason and does not stop the run.

    \b
    Example:
      pipeline extract --backbone squeezenet --weights imagenet \\
        --manifest data_manifests/jester.csv --store cache/jester/squeezenet.zarr
    """
    if not settings.workers and settings.scheduler is None:
        supervise()
    with lasting_imports():
        from stages.extract import run

    run(settings)


@cli.command("fit-head", cls=PipelineCommand, settings="pipeline.settings.fit_head:FitHeadSettings")
def fit_head(settings: FitHeadSettings) -> None:
    """Train heads on cached features, in seconds to minutes.

    \b
    Example:
      pipeline fit-head --store cache/jester/squeezenet.zarr --head trn --out results/fit_head
    """
    with lasting_imports():
        from stages.fit_head import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.finetune:FinetuneSettings")
def finetune(settings: FinetuneSettings) -> None:
    """Train backbone and head together on the clips, from a fitted head or from scratch.

    A stopped run is resumed by the same command. --epochs 0 scores the model without training. For several GPUs, use
    `torchrun --nproc-per-node N -m pipeline finetune ...`.

    \b
    Example:
      pipeline finetune --init results/fit_head/squeezenet-lstm/model.safetensors \\
        --manifest data_manifests/jester.csv --out results/finetune --device cuda
    """
    if not settings.workers:
        supervise()
    with lasting_imports():
        from stages.finetune import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.compare:CompareSettings")
def compare(settings: CompareSettings) -> None:
    """Print and write the table of heads: accuracy with its interval, parameters, MACs, latency.

    DIRS are result folders, or folders that contain them.

    \b
    Examples:
      pipeline compare results/fit_head results/finetune --out results/compare
      pipeline compare results --against main --max-drop 1.0
    """
    supervise()
    with lasting_imports():
        from stages.compare import run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.report:ReportSettings")
def report(settings: ReportSettings) -> None:
    """Print where the report of a comparison is, or serve it with the curves of running fits.

    The server answers only on this machine and only reads.

    \b
    Example:
      pipeline report results/compare --serve
    """
    from pipeline.compare.report_command import report as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:PredictSettings")
def predict(settings: PredictSettings) -> None:
    """Classify clips with a saved model.

    VIDEOS are video files, folders of numbered images, FILE.h5::CLIP, folders of clips, or - for paths on stdin.
    Frames, crop and number type are those of training. A clip that cannot be used is reported; the other clips are
    classified, and the exit code is 1.

    \b
    Examples:
      pipeline predict results/fit_head/squeezenet-trn/model.safetensors clip.webm
      find clips -name '*.mp4' | pipeline predict model.safetensors - --format csv
      pipeline predict model.safetensors long.mp4 --timeline long.png --window 48
    """
    supervise()
    with lasting_imports():
        from pipeline.predict.command import predict as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:EvaluateSettings")
def evaluate(settings: EvaluateSettings) -> None:
    """Measure a saved model on one split: accuracy, calibration, order tests, and a table of classes.

    \b
    Examples:
      pipeline evaluate model.safetensors --store cache/jester/squeezenet.zarr --split val
      pipeline evaluate model.safetensors --manifest data_manifests/jester.csv --crops 3 --draws 4
    """
    supervise()
    with lasting_imports():
        from pipeline.predict.evaluate_command import evaluate as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.predict:ExportSettings")
def export(settings: ExportSettings) -> None:
    """Export a model to ONNX or torch.export, and compare its scores with torch.

    The input is uint8 RGB frames of shape (B, T, 3, 224, 224), for any B; normalisation and backbone are included.

    \b
    Example:
      pipeline export results/fit_head/squeezenet-trn/model.safetensors --out trn.onnx
    """
    with lasting_imports():
        from pipeline.predict.export_command import export as run

    run(settings)


@cli.group()
def store() -> None:
    """Show, verify, export or import a feature store.

    \b
    Example:
      pipeline store verify cache/jester/squeezenet.zarr --repair
    """


@store.command("info", cls=PipelineCommand, settings="pipeline.settings.store:StoreInfoSettings")
def store_info(settings: StoreInfoSettings) -> None:
    """Show the contents, settings, size and failed clips of a store.

    \b
    Example:
      pipeline store info cache/jester/squeezenet.zarr
    """
    from pipeline.store_command.command import store_info as run

    run(settings)


@store.command("verify", cls=PipelineCommand, settings="pipeline.settings.store:StoreVerifySettings")
def store_verify(settings: StoreVerifySettings) -> None:
    """Check every checksum, and compute some clips again.

    \b
    Example:
      pipeline store verify cache/jester/squeezenet.zarr --repair
    """
    if not settings.workers:
        supervise()
    from pipeline.store_command.verify import store_verify as run

    run(settings)


@store.command("export", cls=PipelineCommand, settings="pipeline.settings.store:StoreExportSettings")
def store_export(settings: StoreExportSettings) -> None:
    """Write a store as one HDF5 file that h5py alone can read.

    \b
    Example:
      pipeline store export cache/jester/squeezenet.zarr --out squeezenet.h5
    """
    from pipeline.store_command.command import store_export as run

    run(settings)


@store.command("import", cls=PipelineCommand, settings="pipeline.settings.store:StoreImportSettings")
def store_import(settings: StoreImportSettings) -> None:
    """Create a store from a file that `store export` wrote.

    \b
    Example:
      pipeline store import squeezenet.h5 --store cache/jester/squeezenet.zarr
    """
    from pipeline.store_command.command import store_import as run

    run(settings)


@store.command("import-features", cls=PipelineCommand, settings="pipeline.settings.store:StoreImportFeaturesSettings")
def store_import_features(settings: StoreImportFeaturesSettings) -> None:
    """Create a store from arrays that another program computed: one array for each clip of a manifest.

    An array is (T, C), (T, C, H, W) or (T, tokens, C), float16 to float64. Heads, order tests and the table work on the
    store; predict and finetune do not, because they need the network. A clip whose array cannot be used is counted.

    \b
    Examples:
      pipeline store import-features features/ --manifest data_manifests/mine.csv --store cache/mine.zarr
      pipeline store import-features vjepa.h5 --manifest mine.csv --store cache/vjepa.zarr --video-encoder
    """
    from pipeline.store_command.import_features import store_import_features as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.temporality:TemporalitySettings")
def temporality(settings: TemporalitySettings) -> None:
    """Measure which classes of a data set need the order of frames, on the cached features of a store.

    It fits a head with and without order, on a single frame, and to tell a clip from its reverse; it finds pairs of
    classes that are each other's reverse, and writes a list of the temporal classes for `pipeline prepare --subset`.

    \b
    Example:
      pipeline temporality cache/gestures/squeezenet-8seg.zarr --out results/temporality
    """
    from pipeline.temporality.command import temporality as run

    run(settings)


@cli.command(cls=PipelineCommand, settings="pipeline.settings.describe:DescribeSettings")
def describe(settings: DescribeSettings) -> None:
    """Print names, inputs, parameters and multiply-accumulates of heads or backbones.

    Parameters of heads are those of the ST block, without the learned projection. `macs` are the multiply-accumulates
    of one clip (heads) or one frame (backbones).

    \b
    Examples:
      pipeline describe heads --json --num-segments 8 --num-classes 27
      pipeline describe backbones timm:vit_small_patch16_224@112
    """
    from pipeline.compare.describe_command import describe as run

    run(settings)


@cli.command("train-bundled", cls=PipelineCommand, settings="pipeline.settings.bundled:TrainBundledSettings")
def train_bundled(settings: TrainBundledSettings) -> None:
    """Train the bundled weights again, on drawn still images.

    \b
    Example:
      pipeline train-bundled --minutes 45
    """
    from pipeline.bundled.command import train_bundled_weights as run

    run(settings)


def main() -> None:
    """Run the `pipeline` command."""
    allow_supervision()
    skip_last_collection()
    cli(prog_name="pipeline")

"""Question: how much disk, time and memory does a data set take, given the rates of a machine?

Nothing is measured: the tables of `docs/data-sets.md` are computed from rates, so that they can be computed for another
machine. The default rates were measured on 2 cores of a Xeon with AMX (bf16), without a GPU; each is an option.
`pipeline extract` prints the rate that it reaches, and `pipeline store info` the real size.

    python -m benchmarks.expectations                                        # the tables of docs/data-sets.md
    python -m benchmarks.expectations --cores 16 --forward-gpu 20000         # frames per second of your GPU
    python -m benchmarks.expectations --num-segments 16 --views 2
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KIB, GB = 1024, 1e9
MEASURED_CORES = 2


@dataclass(frozen=True)
class DataSet:
    """A data set: published numbers of clips, and mean length in frames (used for stores of all frames)."""

    name: str
    form: str
    num_train: int
    num_others: int
    mean_frames: int


@dataclass(frozen=True)
class BackboneRates:
    """Frames per second of both measured cores together, in bf16 and fp32, and the sizes of features.

    channels: number of channels, with 2 bytes each in pooled features. kib_a_frame: KiB of a compressed map.
    """

    forward_bf16: float
    forward_fp32: float
    channels: int
    kib_a_frame: float


DATA_SETS = (
    DataSet("Jester", "jpg", 118_562, 14_787 + 14_743, 36),
    DataSet("Something-Something V2", "vp9", 168_913, 24_777 + 27_157, 45),
)
# Maps at 71 % zeros, zstd 3: 475 of 1,352 KiB a clip of 8 segments; BNInception's by the same share of 784 KiB.
BACKBONES: Mapping[str, BackboneRates] = {
    "squeezenet": BackboneRates(1_365, 488, 512, 475 / 8),
    "bninception": BackboneRates(435, 85, 1_024, 784 * (475 / 1_352) / 8),
}
# Clips a second decoded by both cores, 8 frames of each taken.
DECODED = {"jpg": 1_598.0, "vp9": 86.0}
# Training clips a second, both cores: pooled in fp32, spatial in bf16, at 13×13 and 7×7.
HEADS = {
    "mlp": (18_800.0, 18_800.0),
    "lstm": (7_800.0, 7_800.0),
    "trn": (3_100.0, 3_100.0),
    "fcn2d": (1_313.0, 1_313.0),
    "fcn3d": (359.0, 723.0),
    "convlstm": (30.0, 50.0),
}
# A whole extraction reached 0.8 to 1.0 of its bound.
REACHED = 0.8


def num_views(data: DataSet, views: int) -> int:
    """Return the number of views of all clips: a test view of each, and the training views."""
    return data.num_train * (1 + views) + data.num_others


def store_gb(data: DataSet, backbone: BackboneRates, segments: int, views: int) -> tuple[float, float]:
    """Return the gigabytes of the pooled and of the spatial features."""
    frames = num_views(data, views) * segments
    return frames * backbone.channels * 2 / GB, frames * backbone.kib_a_frame * KIB / GB


def all_frames_gb(data: DataSet, backbone: BackboneRates) -> float:
    """Return the gigabytes of the pooled features of every frame (`--frames all`)."""
    return (data.num_train + data.num_others) * data.mean_frames * backbone.channels * 2 / GB


def extraction_hours(data: DataSet, forward: float, decoded: float, segments: int, views: int) -> float:
    """Return the hours if decoding and forward pass share the cores: the sum of their times / the reached share.

    In JPG folders only the used frames are decoded, so their time grows with segments and views; a video is always
    decoded to its end once.
    """
    num_clips = data.num_train + data.num_others
    passes = num_views(data, views) * segments
    decode_seconds = passes / 8 / decoded if data.form == "jpg" else num_clips / decoded
    return (decode_seconds + passes / forward) / REACHED / 3600


def gpu_hours(data: DataSet, forward: float, decoded: float, segments: int, views: int) -> float:
    """Return the hours if the cores decode while the GPU computes: those of the slower one."""
    num_clips = data.num_train + data.num_others
    passes = num_views(data, views) * segments
    decode_seconds = passes / 8 / decoded if data.form == "jpg" else num_clips / decoded
    return max(decode_seconds, passes / forward) / REACHED / 3600


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hours(value: float) -> str:
    """Return a time with a suitable unit."""
    if value < 1 / 30:
        return f"{value * 3600:.0f} s"
    if value < 1:
        return f"{value * 60:.0f} min"
    return f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} days"


def extraction_table(arguments: argparse.Namespace) -> str:
    """Return disk space and time of extraction for each data set and backbone."""
    scale = arguments.cores / MEASURED_CORES
    decoded = {"jpg": arguments.decode_jpg * scale, "vp9": arguments.decode_vp9 * scale}
    rows = []
    for data in DATA_SETS:
        for name, rates in BACKBONES.items():
            pooled, spatial = store_gb(data, rates, arguments.num_segments, arguments.views)
            shape = (arguments.num_segments, arguments.views)
            rows.append(
                [
                    data.name,
                    name,
                    f"{pooled:,.1f} GB",
                    f"{spatial:,.0f} GB",
                    f"{all_frames_gb(data, rates):,.1f} GB",
                    hours(extraction_hours(data, rates.forward_bf16 * scale, decoded[data.form], *shape)),
                    hours(extraction_hours(data, rates.forward_fp32 * scale, decoded[data.form], *shape)),
                    hours(gpu_hours(data, arguments.forward_gpu, decoded[data.form], *shape)),
                ]
            )
    header = (
        "data set", "backbone", "pooled", "spatial", "pooled, `--frames all`",
        "extract, CPU bf16", "extract, CPU fp32", "with a GPU, at best",
    )  # fmt: skip
    return table(header, rows)


def epoch_table(arguments: argparse.Namespace) -> str:
    """Return the time of one epoch of each head on cached features."""
    scale = arguments.cores / MEASURED_CORES
    rows = [
        [head, *(hours(data.num_train / rate / scale / 3600) for data in DATA_SETS for rate in rates)]
        for head, rates in HEADS.items()
    ]
    header = ["head", *(f"{data.name}, {size}" for data in DATA_SETS for size in ("13×13", "7×7"))]
    return table(header, rows)


def memory_lines(arguments: argparse.Namespace) -> str:
    """Return the memory of the pooled features; spatial maps are read batch by batch."""
    lines = []
    for data in DATA_SETS:
        parts = [
            f"{name} {store_gb(data, rates, arguments.num_segments, arguments.views)[0]:.1f} GB"
            for name, rates in BACKBONES.items()
        ]
        lines.append(f"- {data.name}: {', '.join(parts)}")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-segments", type=int, default=8)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument(
        "--cores", type=float, default=MEASURED_CORES, help="number of cores; rates are assumed proportional to it"
    )
    parser.add_argument("--decode-jpg", type=float, default=DECODED["jpg"], help="clips/s of two cores")
    parser.add_argument("--decode-vp9", type=float, default=DECODED["vp9"], help="clips/s of two cores")
    parser.add_argument(
        "--forward-gpu", type=float, default=float("inf"), help="frames/s; without it, only decoding counts"
    )
    arguments = parser.parse_args()
    print(f"{arguments.num_segments} segments, {arguments.views} training views, {arguments.cores:g} cores\n")
    print(extraction_table(arguments), end="\n\n")
    print("One epoch of a head (one view of each training clip):\n")
    print(epoch_table(arguments), end="\n\n")
    print("Pooled features, which fit-head keeps in memory:\n")
    print(memory_lines(arguments))


if __name__ == "__main__":
    main()

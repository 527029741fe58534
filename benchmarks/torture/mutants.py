"""Question: does an extraction of thousands of damaged clips end, count each, and keep none with wrong frames?

Small clips of every supported container, codec and image format are cut, flipped, overwritten, shortened, lengthened,
spliced with others and given the headers of others, and extracted by one `pipeline extract`. Afterwards each finished
clip is decoded again by PyAV or Pillow: number and bits of its frames must be those of the store, or only the bits of
the frames that were read, if others are damaged. The exit code is 1 if a clip differs or is not counted.

A decoder may leave parts of a damaged frame uninitialised without an error. Two decodes of such a frame by PyAV differ
too; they are counted as undefined.

    python -m benchmarks.torture.mutants --runs 5000
    python -m benchmarks.torture.mutants --runs 200 --seed 3 --folder /tmp/mutants
"""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image

from benchmarks.torture.command_line import finish, make_parser
from pipeline.errors import ClipError
from pipeline.manifest import Clip, Manifest, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import encode_jpg
from pipeline.prepare.packing import pack
from pipeline.store import FeatureStore
from pipeline.video.decode import open_clip
from pipeline.video.images import without_warnings
from tests.support.oddities import PAIRS, pictures, write_clip

NUM_IMAGES = 5
IMAGE_SUFFIXES = ("jpg", "png", "bmp", "tif", "webp")
MOVING_SUFFIXES = ("png", "webp", "tif")
# Raised by PyAV and Pillow for damaged files.
PLAIN_ERRORS = (av.FFmpegError, OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError)
UNDEFINED = "undefined"


@dataclass
class Outcome:
    """Outcomes of the mutants of one kind of clip."""

    num_mutants: int = 0
    num_kept: int = 0
    num_undefined: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Result of one run over all mutants."""

    outcomes: dict[str, Outcome]
    seconds: float
    peak_bytes: int
    exit_code: int

    @property
    def wrong(self) -> list[str]:
        """All mutants that are not counted, or whose frames differ from those of an independent decoder."""
        return [text for outcome in self.outcomes.values() for text in outcome.wrong]


def write_seeds(folder: Path) -> dict[str, Path]:
    """Write one valid clip of each kind, and return the files by the names of their kinds."""
    folder.mkdir(parents=True)
    seeds = {f"{codec}.{container}": write_clip(folder / f"{codec}.{container}", codec) for container, codec in PAIRS}
    images = [Image.fromarray(frame) for frame in pictures(NUM_IMAGES)]
    for suffix in IMAGE_SUFFIXES:
        seeds[f"frame.{suffix}"] = folder / f"frame.{suffix}"
        images[0].save(seeds[f"frame.{suffix}"])
    for suffix in MOVING_SUFFIXES:
        seeds[f"moving.{suffix}"] = folder / f"moving.{suffix}"
        images[0].save(seeds[f"moving.{suffix}"], save_all=True, append_images=images[1:])
    (folder / "clip").mkdir()
    for number, frame in enumerate(pictures(NUM_IMAGES), 1):
        (folder / "clip" / f"{number}.jpg").write_bytes(encode_jpg(frame))
    seeds["packed.h5"] = folder / "packed.h5"
    pack(seeds["packed.h5"], [("clip", folder / "clip")])
    return seeds


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a copy of a file, damaged in one of nine ways, possibly with bytes of `other`."""
    place, stretch = draw.randrange(1, len(data)), draw.randrange(1, 60)
    head = draw.randrange(1, min(len(data), len(other), 400))
    flipped = bytearray(data)
    for _ in range(draw.choice((1, 3, 30))):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:place],
        lambda: bytes(flipped),
        lambda: data[:place] + draw.randbytes(stretch) + data[place + stretch :],
        lambda: data[:place] + bytes(stretch) + data[place + stretch :],
        lambda: data[:place] + data[place + stretch :],
        lambda: data[:place] + draw.randbytes(stretch) + data[place:],
        lambda: data[:place] + other[draw.randrange(len(other)) :],
        lambda: other[:head] + data[head:],
        lambda: data + data[place:],
    )
    return draw.choice(ways)()


def write_mutants(seeds: dict[str, Path], folder: Path, num_mutants: int, seed: int) -> Path:
    """Write mutants of all kinds in turn, and return their manifest."""
    draw = random.Random(seed)
    contents = {kind: path.read_bytes() for kind, path in seeds.items()}
    kinds = list(contents)
    clips = []
    for number in range(num_mutants):
        kind = kinds[number % len(kinds)]
        data = mutated(contents[kind], contents[draw.choice(kinds)], draw)
        stem, suffix = kind.split(".")
        name = f"{number:05d}-{stem}"
        if stem == "frame" and draw.random() < 0.8:
            (folder / name).mkdir()
            for frame in range(NUM_IMAGES):
                sound = frame != NUM_IMAGES // 2
                (folder / name / f"{frame}.{suffix}").write_bytes(contents[kind] if sound else data)
            path = name
        else:
            path = f"{name}.{suffix}"
            (folder / path).write_bytes(data)
            path += "::clip" if stem == "packed" else ""
        clips.append(Clip(f"{number:05d} {kind}", path, "up", "train"))
    write_manifest(folder / "m.csv", clips, ["up"])
    return folder / "m.csv"


# A small process between this one and the command: peak memory includes that of the parent when the process starts and,
# for RUSAGE_CHILDREN, that of all earlier commands.
RUN_AND_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
"""


def extract(manifest: Path, store: Path, max_seconds: float) -> tuple[int, float, int]:
    """Run one extraction in a separate process; return its exit code, seconds and peak memory."""
    options = "--weights random --num-segments 2 --views 0 --maps pooled --dtype float32 --compile eager --workers 0"
    command = [sys.executable, "-m", "pipeline", "extract", "--manifest", str(manifest), "--store", str(store)]
    command += [*options.split(), "--max-clip-seconds", "20"]
    started_at_seconds = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_MEASURE, *command],
        capture_output=True,
        text=True,
        timeout=max_seconds,
        check=False,
    )
    seconds = time.monotonic() - started_at_seconds
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
    return done.returncode, seconds, int(done.stdout.splitlines()[-1])


def plain_readings(location: str, skips_damage: bool) -> Iterator[np.ndarray]:
    """Yield the frames of a clip by PyAV and Pillow, for each way in which a player may decode it.

    skips_damage: whether packets that PyAV cannot decode are skipped, as by the ffmpeg program, or end the reading.
    """
    file, separator, member = location.partition("::")
    path = Path(file)
    if separator:
        with h5py.File(file) as opened:
            ends = np.cumsum(opened[member].attrs["frame_sizes"])
            data = opened[member][()].tobytes()
        yield np.stack([_by_pillow(data[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        return
    if path.is_dir():
        names = sorted(path.iterdir(), key=lambda frame: int(frame.stem))
        yield np.stack([_by_pillow(name.read_bytes()) for name in names])
        return
    for container_format, num_held in ((None, 0), (None, 1), (None, 1 << 20), ("mjpeg", 0)):
        try:
            frames = _by_pyav(path, container_format, num_held, skips_damage)
        except PLAIN_ERRORS:
            continue
        # Damage may change the orientation: any of the eight is accepted.
        for side in (frames, frames[:, :, ::-1]):
            yield from (np.rot90(side, turns, axes=(1, 2)) for turns in range(4))
    try:
        with without_warnings(), Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            yield np.stack([_frame(image, number) for number in range(count)])
            yield _frame(image, 0)[None]
    except (*PLAIN_ERRORS, Image.DecompressionBombError):
        return


def judge(manifest: Manifest, store: FeatureStore, exit_code: int) -> dict[str, Outcome]:
    """Count the outcomes of the mutants, and decode the finished ones again."""
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    rows = {row.clip_id: row for row in store.table()}
    for clip in manifest.clips:
        outcome, row = outcomes[clip.clip_id.split(" ")[1]], rows.get(clip.clip_id)
        outcome.num_mutants += 1
        if row is None or row.status not in ("done", "failed"):
            outcome.wrong.append(f"{clip.clip_id} is counted nowhere")
        elif row.status == "failed":
            outcome.failed[row.kind] += 1
        else:
            outcome.num_kept += 1
            shown = store.read_sampling("test", [row.row])[0, : store.settings.num_segments].astype(int).tolist()
            fault = difference(manifest.locate(clip), (row.num_frames, row.height, row.width), shown)
            if fault == UNDEFINED:
                outcome.num_undefined += 1
            elif fault:
                outcome.wrong.append(f"{clip.clip_id}: {fault}")
    if exit_code:
        outcomes["all"].wrong.append(f"the extraction ended with exit code {exit_code}")
    return dict(outcomes)


def difference(location: str, shape: tuple[int, int, int], shown: list[int]) -> str:
    """Describe how a finished clip differs from all independent decodes; return an empty text if it equals one.

    shown: numbers of the frames that were read in the extraction.
    """
    try:
        with open_clip(location) as reader:
            seen = reader.read(shown)
            if (reader.num_frames, *seen.shape[1:3]) != shape:
                return f"the store records {shape}, but it has {reader.num_frames} frames of {seen.shape[1:3]}"
    except ClipError as error:
        return f"kept, but {error}"
    try:
        with open_clip(location) as reader:
            reader.decodes_whole = True
            is_whole, numbers = True, list(range(reader.num_frames))
            frames = reader.read(numbers)
            if (frames[shown] != seen).any():
                return "frames that are read alone differ from those of the whole clip"
    except ClipError:  # damage in frames that are not read in an extraction
        if Path(location).is_dir() or "::" in location:
            return ""  # an independent reading ends at a damaged image
        is_whole, numbers, frames = False, shown, seen
    readings = plain_readings(location, skips_damage=not is_whole)
    if any(shows(plain, shape[0], numbers, frames) for plain in readings):
        return ""
    return UNDEFINED if is_undefined(Path(location)) else f"its {frames.shape} frames are no independent reading's"


def shows(plain: np.ndarray, num_frames: int, numbers: list[int], frames: np.ndarray) -> bool:
    """Return whether a decode has frames with these numbers; without damaged frames, which have no number then."""
    num_lost = num_frames - len(plain)
    if plain.shape[1:] != frames.shape[1:] or num_lost < 0 or (num_lost and len(numbers) == num_frames):
        return False
    return all(
        any((plain[place] == frame).all() for place in range(max(0, number - num_lost), min(number + 1, len(plain))))
        for number, frame in zip(numbers, frames, strict=True)
    )


def is_undefined(path: Path) -> bool:
    """Return whether two decodes by PyAV differ, which can only be due to uninitialised memory."""
    try:
        dropped, held = (_by_pyav(path, None, num_held) for num_held in (0, 1 << 20))
    except PLAIN_ERRORS:
        return False
    return dropped.shape == held.shape and bool((dropped != held).any())


def run(num_mutants: int, seed: int, folder: Path, max_seconds: float = 3600.0) -> Result:
    """Write mutants, extract them in one run, and check the store."""
    (folder / "mutants").mkdir(parents=True)
    manifest = write_mutants(write_seeds(folder / "seeds"), folder / "mutants", num_mutants, seed)
    exit_code, seconds, peak_bytes = extract(manifest, folder / "s.zarr", max_seconds)
    outcomes = judge(read_manifest(manifest), FeatureStore.open(folder / "s.zarr"), exit_code)
    return Result(outcomes, seconds, peak_bytes, exit_code)


def as_table(result: Result) -> str:
    """Return a table in Markdown: a row for each kind of clip."""
    lines = ["| clip | mutants | kept | of them undefined | failed | wrong |", "|---|--:|--:|--:|---|--:|"]
    total = Outcome()
    for kind, outcome in sorted(result.outcomes.items()):
        lines.append(_row(kind, outcome))
        total.num_mutants += outcome.num_mutants
        total.num_kept += outcome.num_kept
        total.num_undefined += outcome.num_undefined
        total.failed += outcome.failed
        total.wrong += outcome.wrong
    lines.append(_row("all", total))
    lines.append(f"\n{result.seconds:,.0f} s, peak memory {result.peak_bytes / 1e6:,.0f} MB, one process.")
    return "\n".join(lines)


def _row(kind: str, outcome: Outcome) -> str:
    failed = ", ".join(f"{name} {count:,}" for name, count in outcome.failed.most_common())
    counts = f"{outcome.num_mutants:,} | {outcome.num_kept:,} | {outcome.num_undefined:,}"
    return f"| {kind} | {counts} | {failed} | {len(outcome.wrong)} |"


def _by_pyav(path: Path, container_format: str | None, num_held: int, skips_damage: bool = False) -> np.ndarray:
    """Decode by PyAV, while the first `num_held` frames stay in memory, so that others get other memory."""
    held, pixels = [], []
    with av.open(str(path), format=container_format, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            # The ffmpeg program skips a packet without data; PyAV stops there.
            with contextlib.suppress(*(PLAIN_ERRORS if skips_damage else ())):
                for frame in packet.decode() if packet.size or packet.dts is None else ():
                    if len(held) < num_held:
                        held.append(frame)
                    pixels.append(frame.to_ndarray(format="rgb24"))
    return np.stack(pixels)


def _by_pillow(data: bytes) -> np.ndarray:
    with without_warnings(), Image.open(io.BytesIO(data)) as image:
        return _frame(image, 0)


def _frame(image: Image.Image, number: int) -> np.ndarray:
    image.seek(number)
    return np.array(image.convert("RGB"))


def main() -> None:
    """Run and print the table."""
    parser = make_parser(__doc__, 5000, "mutants")
    parser.add_argument("--folder", type=Path, help="where mutants and store stay; must not exist")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = run(arguments.runs, arguments.seed, arguments.folder or Path(temporary) / "run")
    finish(as_table(result), result.wrong)


if __name__ == "__main__":
    main()

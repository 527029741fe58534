"""Question: how fast is an extraction compared to scripts as people write them, and our forward pass to other engines?

All ways read the same clips (those of `benchmarks.extraction`), run the same network with the same weights, and write
the maps and pooled features of each clip in float16. They run in turn within every round; rates are medians of the
rounds, factors are medians of the rounds' ratios. The first clips are not timed: neither start-up nor compilation.
First with all cores, then in one process with one thread by processor time, which other programs affect less.

    ours, auto      `pipeline extract` with a process per core and `--compile`, by default openvino if it is installed
    ours, float32   the same with `--dtype float32`, the number type of the other ways
    ours, ENGINE    the same with `--compile openvino` and `onnxruntime`, if they are installed
    plain script    a DataLoader with a worker per core: PyAV (Pillow for JPG) decodes all frames, Pillow resizes
                    and crops; the network in eager float32 with a thread per core; np.save for each clip
    torchvision     the same with torchvision's transforms on tensors; torchvision 0.28 has no reader of videos, so
                    PyAV decodes them; JPG by torchvision's `decode_image` if its library can be loaded

The forward pass alone is measured in processor time with one thread, so that other programs have little effect: eager
torch, ours in each form, and ONNX Runtime and OpenVINO as their own documentation uses them, if they are installed. The
factors are to the fastest form of ours in the same number type. The largest difference of the features from those of
eager float32 is printed; the program fails if a way gives other features.

    python -m benchmarks.peers                         # VP9, some minutes on 2 cores
    python -m benchmarks.peers --kind jpg --rounds 3
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.decode import processor
from benchmarks.extraction import (
    KINDS,
    NUM_SEGMENTS,
    all_frames,
    decode_rate,
    fastest_mode,
    forward_rate,
    middle_frames,
    on_all_cores,
    request_of,
    runner_of,
    whole_rate,
    write_clips,
)
from pipeline.allocator import keep_memory_between_batches
from pipeline.backbones import build_backbone
from pipeline.backbones.torchvision_import import MISSING_OPERATORS_REASON, torchvision
from pipeline.devices import has_compiler
from pipeline.extract.compute import RunnerConfig, capability_of
from pipeline.extract.extract import extract_features
from pipeline.extract.forward import BackboneRunner
from pipeline.manifest import Manifest
from pipeline.onnx_program import ENGINES, capture, has_engine, load_onnx, to_onnx
from pipeline.processes import num_cores
from pipeline.settings.extract import ExtractSettings
from pipeline.store import FeatureStore
from pipeline.video.watchdog import DECODE

transforms = importlib.import_module("torchvision.transforms.v2")

SIZE, SHORT_SIDE = 224, 256
FIRST_CLIPS = 16  # not timed
# Largest ||a - b|| / ||b|| of the pooled features of a clip. Simple scripts crop at whole pixels of the resized frame,
# up to a pixel beside the exact crop.
TOLERANCE = {"float32": 0.1, "bfloat16": 0.1}
FORWARD_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.06}

Features = dict[str, np.ndarray]
Engine = Callable[[torch.Tensor], np.ndarray]


class PillowClips(Dataset[torch.Tensor]):
    """Clips whose frames Pillow resizes and crops. Shape of an item: (T, 3, 224, 224) uint8."""

    def __init__(self, locations: list[str]) -> None:
        self.locations = locations

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> torch.Tensor:
        frames = [self.rendered(frame) for frame in middle_frames(all_frames(self.locations[index]))]
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)

    @staticmethod
    def rendered(frame: np.ndarray) -> np.ndarray:
        image = Image.fromarray(frame)
        scale = SHORT_SIDE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


class TorchvisionClips(PillowClips):
    """Clips whose frames torchvision's transforms resize and crop, and whose JPG files it decodes if it can."""

    def __getitem__(self, index: int) -> torch.Tensor:
        folder = Path(self.locations[index])
        if folder.is_dir() and not MISSING_OPERATORS_REASON:
            read = torchvision.io.decode_image
            frames = middle_frames(np.stack([read(str(path)).numpy() for path in sorted(folder.iterdir())]))
            pixels = torch.from_numpy(frames)
        else:
            pixels = torch.from_numpy(middle_frames(all_frames(self.locations[index]))).permute(0, 3, 1, 2)
        return transforms.Compose([transforms.Resize(SHORT_SIDE, antialias=True), transforms.CenterCrop(SIZE)])(pixels)


Clock = Callable[[], float]


def run_script(clips: PillowClips, network: torch.nn.Module, out: Path, cores: int, clock: Clock) -> float:
    """Run a script: DataLoader, eager float32, files for each clip; return seconds of a clip, without the first clips.

    cores: number of loader processes and of threads; 0: one process with one thread.
    """
    out.mkdir(exist_ok=True)
    torch.set_num_threads(max(cores, 1))
    started, first = 0.0, min(FIRST_CLIPS, len(clips) // 2)
    with torch.no_grad():
        for number, pixels in enumerate(DataLoader(clips, batch_size=1, num_workers=cores)):
            if number == first:
                started = clock()
            maps = network(pixels[0])
            np.save(out / f"{number}-maps.npy", maps.half().numpy())
            np.save(out / f"{number}-pooled.npy", maps.mean(dim=(2, 3)).half().numpy())
    return (clock() - started) / (len(clips) - first)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest ||a - b|| / ||b|| over clips."""
    found, expected = (values.astype(np.float64).reshape(len(values), -1) for values in (found, expected))
    return float((np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def check_difference(name: str, found: float, tolerance: float) -> None:
    """Check that the features of a way are those of the others.

    Raises:
        SystemExit: they differ by more than the tolerance.
    """
    if not found <= tolerance:
        raise SystemExit(f"{name}: features differ by {found:.2g} of their norm, more than {tolerance:g}")


def run_ours(manifest: Manifest, location: Path, request: ExtractSettings) -> float:
    """Extract in this process; return seconds of processor time of a clip, without the first clips."""
    stamps: list[float] = []

    def on_phase(name: str, subject: str) -> None:
        if name == DECODE:
            stamps.append(time.process_time())

    extract_features(manifest, str(location), request, on_phase)
    first = min(FIRST_CLIPS, len(stamps) // 2)
    return (stamps[-1] - stamps[first]) / (len(stamps) - 1 - first)


def compare_extractions(options: argparse.Namespace, folder: Path, cores: int) -> None:
    """Print clips/s of each way with all cores, its share of the bound of our forward pass, and ours by its.

    cores: 0: one process with one thread, by processor time.
    """
    manifest = write_clips(folder, options.kind, options.clips)
    locations = [str(manifest.locate(clip)) for clip in manifest.clips]
    network = build_backbone(options.backbone, options.weights)[0]
    auto = request_of(manifest, folder / "auto.zarr", options, cores, options.compile)
    single = replace(auto, store=str(folder / "float32.zarr"), dtype="float32")

    def ours(name: str, request: ExtractSettings) -> float:
        location = folder / f"{name}.zarr"
        return 1 / whole_rate(manifest, location, request, cores) if cores else run_ours(manifest, location, request)

    def script(name: str, clips: PillowClips) -> float:
        return run_script(clips, network, folder / name, cores, time.time if cores else time.process_time)

    requests = {"auto": auto, "float32": single}
    for engine in (engine for engine in ENGINES if has_engine(engine) and engine != options.compile):
        requests[engine] = replace(auto, store=str(folder / f"{engine}.zarr"), compile=engine)
    ways: dict[str, Callable[[], float]] = {
        **{f"ours, {name}": partial(ours, name, request) for name, request in requests.items()},
        "plain script": lambda: script("plain", PillowClips(locations)),
        "torchvision": lambda: script("torchvision", TorchvisionClips(locations)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    bounds: dict[str, list[float]] = {name: [] for name in requests}
    with multiprocessing.get_context("spawn").Pool(max(cores, 1)) as pool:
        for _ in range(options.rounds):
            for name, way in ways.items():
                seconds[name].append(way())
            clock = time.perf_counter if cores else time.process_time
            decode = on_all_cores(pool, max(cores, 1), decode_rate, locations[:16], options.seconds, clock)
            for name, values in bounds.items():
                work = (options.backbone, options.weights, runner_of(folder / f"{name}.zarr"), options.seconds, clock)
                values.append(1 / decode + 1 / on_all_cores(pool, max(cores, 1), forward_rate, *work))
    differences = _differences(manifest, folder, list(requests))
    dtype = runner_of(folder / "auto.zarr").dtype
    what = f"{cores} cores" if cores else "one process with one thread, by processor time"
    print(
        f"\n{options.kind}, {options.clips} clips, {options.backbone}, {what}; ours, auto: {dtype}, {options.compile}"
    )
    print(f"{'way':17} {'clips/s':>8} {'of the bound':>13} {'ours is ×':>10} {'difference':>11}")
    for name, values in seconds.items():
        bound = bounds[name.removeprefix("ours, ") if name.startswith("ours, ") else "float32"]
        share = f"{statistics.median(of / own for own, of in zip(values, bound, strict=True)):.2f}"
        factor = statistics.median(own / one for own, one in zip(values, seconds["ours, float32"], strict=True))
        print(f"{name:17} {1 / statistics.median(values):8.1f} {share:>13} {factor:10.2f} {differences[name]:11.2g}")
    for name, found in differences.items():
        check_difference(name, found, TOLERANCE[dtype])


def _differences(manifest: Manifest, folder: Path, own: Sequence[str]) -> dict[str, float]:
    """Return the difference of the pooled features of each way from those of ours in float32."""
    found: Features = {}
    for name in own:
        store = FeatureStore.open(folder / f"{name}.zarr")
        rows = {clip.clip_id: clip.row for clip in store.clips()}
        found[f"ours, {name}"] = store.read_pooled("test", [rows[clip.clip_id] for clip in manifest.clips])
    for name, under in (("plain script", "plain"), ("torchvision", "torchvision")):
        found[name] = np.stack([np.load(folder / under / f"{n}-pooled.npy") for n in range(len(manifest.clips))])
    return {name: difference(values, found["ours, float32"]) for name, values in found.items()}


def forward_engines(backbone: str, weights: str) -> dict[str, tuple[Engine, str]]:
    """Return the engines that are installed here, with their number types; all use one thread."""
    frames = torch.zeros((NUM_SEGMENTS, 3, SIZE, SIZE), dtype=torch.uint8)
    network = build_backbone(backbone, weights)[0]

    def eager(pixels: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return network(pixels).numpy()

    engines: dict[str, tuple[Engine, str]] = {"eager torch": (eager, "float32")}
    for mode in ("inductor" if has_compiler() else "jit", *filter(has_engine, ENGINES)):
        for dtype in ENGINES[mode].types if mode in ENGINES else ("float32", "bfloat16"):
            config = RunnerConfig(dtype, mode, capability_of("cpu"), NUM_SEGMENTS)
            runner = BackboneRunner(build_backbone(backbone, weights)[0], config)
            engines[f"ours, {mode}, {dtype}"] = (_ours(runner), dtype)
    if has_engine("onnxruntime"):
        program = to_onnx(capture(network, frames), "frames", "maps").model_proto.SerializeToString()
        engines["ONNX Runtime"] = (load_onnx(program, threads=1), "float32")
    if importlib.util.find_spec("openvino"):
        for dtype, hint in (("float32", "f32"), ("bfloat16", "bf16")):
            engines[f"OpenVINO, {dtype}"] = (_openvino(network, frames, hint), dtype)
    return engines


def _ours(runner: BackboneRunner) -> Engine:
    def run(pixels: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return runner._padded(pixels).float().numpy()

    return run


def _openvino(network: torch.nn.Module, frames: torch.Tensor, hint: str) -> Engine:
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about tracing; the shape is fixed
        model = openvino.convert_model(network, example_input=frames, input=[tuple(frames.shape)])
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return lambda pixels: compiled(np.ascontiguousarray(pixels.numpy()))[0].astype(np.float32)


def compare_forward(options: argparse.Namespace) -> None:
    """Print processor milliseconds of a clip for each engine, and ours by it in the same number type."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_SEGMENTS, 3, 14, 14, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 255).to(torch.uint8)
    frames = smooth.contiguous(memory_format=torch.channels_last)
    engines = forward_engines(options.backbone, options.weights)
    outputs = {name: engine(frames) for name, (engine, _) in engines.items()}  # also a warm-up
    took: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds * 3):
        for name, (engine, _) in engines.items():
            repeats, started = 0, time.process_time()
            while repeats == 0 or time.process_time() - started < options.seconds / 10:
                engine(frames)
                repeats += 1
            took[name].append((time.process_time() - started) / repeats)
    print(f"\nforward pass of a clip of {NUM_SEGMENTS} frames, {options.backbone}, one thread, processor time")
    print(f"{'engine':27} {'ms':>8} {'ours is ×':>10} {'difference':>11}")
    for name, (_, dtype) in engines.items():
        ours = [took[own] for own, (_, type_) in engines.items() if own.startswith("ours") and type_ == dtype]
        fastest = min(ours, key=statistics.median)
        factor = statistics.median(one / own for one, own in zip(took[name], fastest, strict=True))
        found = difference(outputs[name], outputs["eager torch"])
        print(f"{name:27} {statistics.median(took[name]) * 1000:8.1f} {factor:10.2f} {found:11.2g}", flush=True)
        check_difference(name, found, FORWARD_TOLERANCE[dtype])
    for package in ("onnxruntime", "openvino"):
        if importlib.util.find_spec(package) is None:
            print(f"{package}: not installed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--kind", choices=list(KINDS), default="vp9")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="Time of each measurement of a part.")
    parser.add_argument("--compile", default=fastest_mode(), choices=["openvino", "inductor", "jit", "eager"])
    parser.add_argument("--only", choices=["cores", "processor", "forward"], help="Measure only this part.")
    options = parser.parse_args()
    keep_memory_between_batches()
    cores = num_cores()
    print(f"{processor()}, {cores} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        if options.only in (None, "cores"):
            compare_extractions(options, Path(name), cores)
        if options.only in (None, "processor"):
            compare_extractions(options, Path(name), 0)
        if options.only in (None, "forward"):
            compare_forward(options)


if __name__ == "__main__":
    main()

"""Count parameters and multiply-accumulates of heads and backbones, without running or loading them.

Multiply-accumulates (MACs) are those of linear, convolutional and recurrent layers, for one clip (heads) or one frame
(backbones). Activations, batch norm, additions and pooling are not counted. `docs/flops.md` compares them with the
FLOPs column of the paper's Table 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbones import BACKBONES, backbone_contract, make_backbone
from pipeline.compare.head_costs import MeasuredRun
from pipeline.errors import PipelineError
from pipeline.evaluation.order_certificate import order_of
from pipeline.evaluation.result_reader import RunResult
from pipeline.heads import HEADS, build_head
from pipeline.heads.trn import TRNHead
from pipeline.model_file import load_spec
from pipeline.recipe import HeadConfig

MAP_SIZE = 13  # of SqueezeNet; BNInception has 7


def describe_heads(
    num_segments: int = 8, num_classes: int = 27, map_size: int = MAP_SIZE, names: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Return a row for each head (by default all): `name, maps, parameters, macs, section, order`.

    Both counts are for the ST block, without the learned projection; MACs are those of one clip. For TRN `macs` counts
    all ordered tuples (247 at 8 segments), and a further entry `macs_sampled` three of each scale (19). `order` is
    `blind` if the order of segments has no effect on the scores, else `ordered`.

    Raises:
        PipelineError: a head is unknown, or does not support a size.

    Source: paper, Table 3 (its parameters; see `docs/flops.md` for its FLOPs).
    """
    if map_size < 1:
        raise PipelineError(f"`map_size` (={map_size}) must be at least 1.")
    return [_describe_head(name, num_segments, num_classes, map_size) for name in (HEADS if names is None else names)]


def _describe_head(name: str, num_segments: int, num_classes: int, map_size: int) -> dict[str, Any]:
    # Neither count depends on these options; with `all`, TRN would list its tuples.
    choices = HeadConfig(trn_train_tuples="sampled", trn_eval_tuples="sampled")
    with torch.device("meta"):  # layers with shapes but without values: no memory, no random numbers
        head = build_head(name, in_channels=1, num_segments=num_segments, num_classes=num_classes, choices=choices)
    row: dict[str, Any] = {
        "name": name,
        "maps": head.reads,
        "parameters": sum(parameter.numel() for parameter in head.st_block_parameters()),
        "macs": head.macs(map_size),
    }
    if isinstance(head, TRNHead):
        row["macs_sampled"] = head.macs_sampled()
    return {**row, "section": head.section, "order": order_of(name)}


def st_block_of(run: RunResult) -> dict[str, Any] | None:
    """Compute `maps, parameters, macs` of a run's head as in metrics.json; None if the head or backbone is unknown."""
    map_size = map_size_of(run)
    if run.head not in HEADS or map_size is None:
        return None
    row = describe_heads(run.num_segments, len(run.predictions.classes), map_size, names=(run.head,))[0]
    recipe = run.metrics["recipe"]
    choices = recipe.get("head", {}) if isinstance(recipe, Mapping) else {}
    if choices.get("trn_eval_tuples") == "sampled" and "macs_sampled" in row:
        row["macs"] = row["macs_sampled"]
    return {name: row[name] for name in ("maps", "parameters", "macs")}


def map_size_of(run: RunResult | MeasuredRun) -> int | None:
    """Return the size of a run's maps: as recorded, or else from the model file or the backbone's contract."""
    if "map_size" in run.metrics:
        return int(run.metrics["map_size"])
    if run.model_path.is_file():
        return load_spec(run.model_path).map_size
    return backbone_contract(run.backbone).map_size if run.backbone in BACKBONES else None


def describe_backbones(names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Return a row for each backbone, by default for all that have a fixed name; no weights are read.

    A row has `name, channels, map_size, input_size, parameters, macs, license, preprocessing`; `license` is that of the
    published weights, if it is known. Both counts are for the feature layers, without the classifier of the original
    network; MACs are those of one frame of the backbone's input size.

    Raises:
        PipelineError: a backbone is unknown.
    """
    return [_describe_backbone(name) for name in (BACKBONES if names is None else names)]


def _describe_backbone(name: str) -> dict[str, Any]:
    with torch.device("meta"):
        backbone = make_backbone(name).eval()
        size = backbone.preprocessing.input_size
        frames = torch.empty(backbone.clip_frames, 3, size, size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone.forward_features(frames)
    return {
        "name": backbone.name,
        "channels": backbone.channels,
        "map_size": backbone.map_size,
        "input_size": size,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        # The counter counts two operations for a multiply-accumulate.
        "macs": counter.get_total_flops() // 2 // backbone.clip_frames,
        "license": backbone.license,
        "preprocessing": backbone.preprocessing.as_dict(),
    }

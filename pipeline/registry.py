"""Tables of the heads, backbones and data sets by name; the code of an entry is imported when it is looked up.

So `--help` lists the names without importing torch, and a stage that uses one head does not import the others.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pipeline.errors import PipelineError

# The eleven heads of the paper.
PAPER_HEADS = {
    "mlp": "pipeline.heads.mlp:MLPHead",
    "tsn": "pipeline.heads.tsn:TSNHead",
    "trn": "pipeline.heads.trn:TRNHead",
    "rnn_tanh": "pipeline.heads.rnn_tanh:RNNTanhHead",
    "rnn_relu": "pipeline.heads.rnn_relu:RNNReLUHead",
    "lstm": "pipeline.heads.lstm:LSTMHead",
    "gru": "pipeline.heads.gru:GRUHead",
    "blstm": "pipeline.heads.blstm:BLSTMHead",
    "convlstm": "pipeline.heads.convlstm:ConvLSTMHead",
    "fcn2d": "pipeline.heads.fcn2d:FCN2DHead",
    "fcn3d": "pipeline.heads.fcn3d:FCN3DHead",
}
# Probes and heads that are used on frozen features today.
MODERN_HEADS = {
    "linear": "pipeline.heads.linear:LinearHead",
    "knn": "pipeline.heads.knn:KNNHead",
    "concat": "pipeline.heads.concat:ConcatHead",
    "meanstd": "pipeline.heads.meanstd:MeanStdHead",
    "diff": "pipeline.heads.diff:DiffHead",
    "attn": "pipeline.heads.attn:AttnHead",
    "attn_sincos": "pipeline.heads.attn_sincos:AttnSincosHead",
    "attn_learned": "pipeline.heads.attn_learned:AttnLearnedHead",
    "attn_tokens": "pipeline.heads.attn_tokens:AttnTokensHead",
    "attn_tokens_sincos": "pipeline.heads.attn_tokens_sincos:AttnTokensSincosHead",
    "attn_tokens_learned": "pipeline.heads.attn_tokens_learned:AttnTokensLearnedHead",
    "attn4": "pipeline.heads.attn4:Attn4Head",
    "attn4_sincos": "pipeline.heads.attn4_sincos:Attn4SincosHead",
    "attn4_learned": "pipeline.heads.attn4_learned:Attn4LearnedHead",
    "ep": "pipeline.heads.ep:EPHead",
    "ep_sincos": "pipeline.heads.ep_sincos:EPSincosHead",
    "ep_learned": "pipeline.heads.ep_learned:EPLearnedHead",
    "ep_tokens": "pipeline.heads.ep_tokens:EPTokensHead",
    "ep_tokens_sincos": "pipeline.heads.ep_tokens_sincos:EPTokensSincosHead",
    "ep_tokens_learned": "pipeline.heads.ep_tokens_learned:EPTokensLearnedHead",
    "transformer": "pipeline.heads.transformer:TransformerHead",
    "tcn": "pipeline.heads.tcn:TCNHead",
    "shift": "pipeline.heads.shift:ShiftHead",
    "mamba": "pipeline.heads.mamba:MambaHead",
}
HEADS = {**PAPER_HEADS, **MODERN_HEADS}
# Names that stand for several heads wherever heads are chosen.
HEAD_GROUPS = {"paper": tuple(PAPER_HEADS), "modern": tuple(MODERN_HEADS), "all": tuple(HEADS)}
# Heads on whose scores the order of segments has no effect: a test compares them with the certificate of every head,
# which `describe heads` computes (`pipeline.evaluation.order_certificate`).
BLIND_HEADS = frozenset({"tsn", "linear", "knn", "meanstd", "attn", "attn_tokens", "attn4", "ep", "ep_tokens"})
BLIND, ORDERED = "blind", "ordered"
# Heads that read feature maps; the others read pooled features (tested).
SPATIAL_HEADS = frozenset({"convlstm", "fcn3d", *(name for name in MODERN_HEADS if "_tokens" in name)})
# Heads with 2D or 3D convolutions (tested), whose fits use several threads; fits of the others run side by side.
CONVOLUTIONAL_HEADS = frozenset({"convlstm", "fcn2d", "fcn3d"})
# Positions of the segments that attention adds to their features; a head `NAME_KIND` has those of its kind.
POSITIONS = ("none", "sincos", "learned")
BACKBONES = {
    "squeezenet": "pipeline.backbones.squeezenet:SqueezeNet",
    "squeezenet_bypass": "pipeline.backbones.squeezenet:SqueezeNetBypass",
    "bninception": "pipeline.backbones.bninception:BNInception",
}
# Classes of backbones that are built from the rest of a name, by its prefix: `torchvision:NAME`.
BACKBONE_FAMILIES = {
    "torchvision:": "pipeline.backbones.torchvision_models:TorchvisionBackbone",
    "timm:": "pipeline.backbones.timm_models:TimmBackbone",
    "python:": "pipeline.backbones.python_encoder:PythonEncoder",
    "transformers:": "pipeline.backbones.transformers_encoder:TransformersEncoder",
}
# Data sets, with the function that lists their clips; `gestures` are drawn.
DATA_SETS = {
    "gestures": "pipeline.prepare.gestures.data_set:write_gestures",
    "jester": "pipeline.prepare.jester:list_jester",
    "something-v2": "pipeline.prepare.something_v2:list_something_v2",
    "frame-lists": "pipeline.prepare.frame_lists:list_frame_lists",
    "folders": "pipeline.prepare.folders:list_folders_of_classes",
    "csv": "pipeline.prepare.csv_table:list_csv",
    "features": "pipeline.prepare.features:list_features",
    "ucf101": "pipeline.prepare.ucf101:list_ucf101",
    "hmdb51": "pipeline.prepare.hmdb51:list_hmdb51",
    "vjepa-csv": "pipeline.prepare.vjepa_csv:list_vjepa_csv",
    "kinetics": "pipeline.prepare.kinetics:list_kinetics",
    "diving48": "pipeline.prepare.diving48:list_diving48",
    "epic-kitchens-100": "pipeline.prepare.epic_kitchens:list_epic_kitchens",
    "ipn-hand": "pipeline.prepare.ipn_hand:list_ipn_hand",
    "nvgesture": "pipeline.prepare.nvgesture:list_nvgesture",
    "egogesture": "pipeline.prepare.egogesture:list_egogesture",
    "finegym": "pipeline.prepare.finegym:list_finegym",
}
VIDEO_ENCODER_PREFIXES = ("python:", "transformers:")
VIDEO_ENCODER_NOTE = (
    "The features come from a video encoder, which mixes the frames of a clip: the order of frames within a segment is "
    "part of each feature. Order tests change only the order of the segments, so a small loss does not mean that order "
    "does not matter."
)
FEATURES = "features"  # data set of arrays, which are imported instead of extracted
HEAD_NAMES, BACKBONE_NAMES, DATASET_NAMES = tuple(HEADS), tuple(BACKBONES), tuple(DATA_SETS)
RECIPE_NAMES = ("paper", "published-code", "cached", "finetune")
WEIGHTS_NAMES = ("imagenet", "bundled", "random")
# Name of features that `store import-features` read, in place of a backbone: `imported:NAME`.
IMPORTED_PREFIX = "imported:"

Entry = TypeVar("Entry")


def is_same_backbone(a: str, b: str) -> bool:
    """Return whether two names are of one backbone, whatever its input size and the layers that are read.

    >>> is_same_backbone("timm:test_vit@96", "timm:test_vit+96px+2"), is_same_backbone("squeezenet", "bninception")
    (True, False)
    """
    return _network(a) == _network(b)


def _network(backbone: str) -> str:
    # A name in a store has no character that paths or DVC's stages reserve.
    return re.split(r"[@+]", backbone)[0].replace("/", "--")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PipelineError:
    """Return the error for an unknown name, with the most similar known name as a suggestion."""
    names = sorted(known)
    return PipelineError(f"Unknown {kind} '{name}'.{did_you_mean(name, names)} Known: {', '.join(names)}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the most similar known name; an empty text if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def choose_heads(names: Iterable[str], positions: str | None = None) -> tuple[str, ...]:
    """Return the names of heads, with the heads of a group in place of its name, each head once.

    positions: kind of positions that the heads get, one of `POSITIONS`; None leaves the names as they are.

    Raises:
        PipelineError: a name is neither a head nor a group, or a head has no variant with these positions.
    """
    chosen: list[str] = []
    for name in names:
        if name not in HEADS and name not in HEAD_GROUPS:
            raise unknown_name("head", name, [*HEAD_GROUPS, *HEADS])
        chosen += HEAD_GROUPS.get(name, (name,))
    if positions is not None:
        chosen = [_with_positions(name, positions) for name in chosen]
    return tuple(dict.fromkeys(chosen))


def _with_positions(name: str, positions: str) -> str:
    variants = {kind: name if kind == "none" else f"{name}_{kind}" for kind in POSITIONS}
    if not set(variants.values()) <= HEADS.keys():
        bases = [head for head in HEADS if f"{head}_{POSITIONS[-1]}" in HEADS]
        raise PipelineError(
            f"`positions` (={positions}) is for the heads {', '.join(bases)}; '{name}' has no such variant. Leave it "
            "out, or fit that head separately."
        )
    return variants[positions]


def is_imported(backbone: str) -> bool:
    """Return whether features come from `store import-features`, so that no network here computes them."""
    return backbone.startswith(IMPORTED_PREFIX)


def place_of_backbone(name: str) -> str | None:
    """Return the place of a backbone's class, `package.module:name`; None if the name is unknown."""
    family = next((place for prefix, place in BACKBONE_FAMILIES.items() if name.startswith(prefix)), None)
    return BACKBONES.get(name, family)


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Return `table[name]`.

    Raises:
        PipelineError: the name is not in the table; the message lists the known names.
    """
    if name not in table:
        raise unknown_name(kind, name, table)
    return table[name]


class LazyTable(Mapping[str, Any]):
    """A mapping from names to objects that are imported at their first look-up.

    places: `package.module:name` by name.
    """

    def __init__(self, kind: str, places: Mapping[str, str]) -> None:
        self._kind, self._places = kind, places

    def __getitem__(self, name: str) -> Any:
        """Import the object of a name.

        Raises:
            KeyError: the name is unknown. `look_up` raises a PipelineError that lists the known names.
        """
        module, _, attribute = self._places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __repr__(self) -> str:
        return f"LazyTable({self._kind}: {', '.join(self._places)})"


def module_of(place: str) -> str:
    """Return the module of a place such as `package.module:name`."""
    return place.partition(":")[0]

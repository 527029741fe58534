"""Heads: one file each, backbone features of a clip's segments in, class scores out."""

from __future__ import annotations

from pipeline.heads.blstm import BLSTMHead
from pipeline.heads.convlstm import ConvLSTMHead
from pipeline.heads.fcn2d import FCN2DHead
from pipeline.heads.fcn3d import FCN3DHead
from pipeline.heads.gru import GRUHead
from pipeline.heads.head import DEFAULT_CHOICES, Head
from pipeline.heads.lstm import LSTMHead
from pipeline.heads.mlp import MLPHead
from pipeline.heads.rnn import RNNReLUHead, RNNTanhHead
from pipeline.heads.trn import TRNHead
from pipeline.heads.tsn import TSNHead
from pipeline.recipe import HeadChoices
from pipeline.registry import look_up

HEADS: dict[str, type[Head]] = {
    "mlp": MLPHead,
    "tsn": TSNHead,
    "trn": TRNHead,
    "rnn_tanh": RNNTanhHead,
    "rnn_relu": RNNReLUHead,
    "lstm": LSTMHead,
    "gru": GRUHead,
    "blstm": BLSTMHead,
    "convlstm": ConvLSTMHead,
    "fcn2d": FCN2DHead,
    "fcn3d": FCN3DHead,
}

__all__ = ["HEADS", "Head", "build_head"]


def build_head(
    name: str, *, in_channels: int, num_segments: int, num_classes: int, choices: HeadChoices = DEFAULT_CHOICES
) -> Head:
    """The head of that name, with initial weights from torch's random numbers.

    Raises:
        PipelineError: no head has that name, or it cannot have these sizes.
    """
    head = look_up("head", name, HEADS)
    return head(in_channels=in_channels, num_segments=num_segments, num_classes=num_classes, choices=choices)

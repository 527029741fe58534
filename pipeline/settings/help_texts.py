"""Help texts that several commands share."""

from __future__ import annotations

from pipeline.registry import BACKBONE_NAMES, WEIGHTS_NAMES

BACKBONE_HELP = f"{', '.join(BACKBONE_NAMES)}, or torchvision:NAME."
WEIGHTS_HELP = f"{', '.join(WEIGHTS_NAMES)}, or the path of a weight file."
DEVICE_HELP = "cpu, cuda, or cuda:N."
ROOT_HELP = "Folder of the clips.  [default: the manifest's]"
CALIBRATION_HELP = "File of this machine's measured speeds, by which `auto` chooses.  [default: in the user's cache]"

"""Help texts that several commands share."""

from __future__ import annotations

from pipeline.registry import BACKBONE_FAMILIES, BACKBONE_NAMES, HEAD_GROUPS, HEAD_NAMES, WEIGHTS_NAMES

BACKBONE_HELP = f"{', '.join(BACKBONE_NAMES)}, or {', '.join(f'{prefix}NAME' for prefix in BACKBONE_FAMILIES)}."
HEADS_HELP = f"{', '.join(HEAD_GROUPS)}, or some of {', '.join(HEAD_NAMES)}"
WEIGHTS_HELP = f"{', '.join(WEIGHTS_NAMES)}, or the path of a weight file."
DEVICE_HELP = "cpu, cuda, or cuda:N."
ROOT_HELP = "Folder to which the paths of clips are relative.  [default: folder of the manifest]"
CALIBRATION_HELP = "File with measured speeds of this machine, used by `auto`.  [default: in the user's cache folder]"

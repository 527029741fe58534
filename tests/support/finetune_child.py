"""Run the stage `finetune` in a separate process, to kill it, or as one of several. Argument: settings as JSON."""

from __future__ import annotations

import json
import sys

import torch

from tests.support.run_stages import finetune

if __name__ == "__main__":
    torch.set_num_threads(1)
    finetune(**json.loads(sys.argv[1]))

"""Settings of `pipeline report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.settings import Settings, option

DEFAULT_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """Settings of `pipeline report`."""

    folder: Path | None = option(
        None, "Folder that `pipeline compare --out` wrote.  [default: results/compare]", is_argument=True
    )
    serve: bool = option(False, "Serve the folder and the curves of running fits on this machine, until Ctrl-C.")
    running: Path = option(Path("results"), "Folder below which running fits are looked for.")
    port: int = option(DEFAULT_PORT, "Port of the server; 0 takes a free one.", minimum=0, maximum=65535)

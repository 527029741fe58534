#!/usr/bin/env python3
"""Record the present code in the dvc.lock files, for a change of code that leaves all results as they are.

`dvc commit -f` does the same, but needs every store and model on this machine, and would record those of another kind
of processor. Only the checksums of dependencies below `pipeline/` and `stages/` change here. Compare the results before
and after such a change first.

    python tools/dvc_lock_code.py           # the root, ci/ and the profiles that were run
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from dvc.repo import Repo
from dvc.stage import PipelineStage

ROOT = Path(__file__).resolve().parent.parent
CODE = (ROOT / "pipeline", ROOT / "stages")


def is_code(path: str) -> bool:
    """Return whether a dependency is code of this repository."""
    return any(Path(path).is_relative_to(folder) for folder in CODE)


def main() -> None:
    with Repo(str(ROOT)) as repo, repo.lock:
        stages = [stage for stage in repo.index.stages if any(out.hash_info for out in stage.outs)]
        of_files: defaultdict[str, list[PipelineStage]] = defaultdict(list)
        for stage in stages:
            for dependency in stage.deps:
                if is_code(dependency.fs_path):
                    dependency.save()
            of_files[stage.path].append(stage)
        for of_file in of_files.values():  # together, because DVC reads and writes the whole file each time
            of_file[0].dvcfile.dump_stages(of_file, update_pipeline=False)
    print(f"dvc.lock: code of {len(stages)} stages")


if __name__ == "__main__":
    main()

"""`pipeline init`: write a study for a folder of clips, and print what it will take."""

from __future__ import annotations

import logging
import os
import re
import shlex
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from pipeline.errors import PipelineError
from pipeline.init.folder import README, check_free, set_up_tools, unfinished, write_files
from pipeline.init.plan import Plan, estimate, make_plan, without_extraction
from pipeline.init.rates import Machine, measure_machine
from pipeline.init.render import PREPARE_DRAWN, StageFile, render, render_stages, template_text
from pipeline.init.summary import summary, time_text
from pipeline.init.survey import Survey, list_clips, survey
from pipeline.manifest import classes_path
from pipeline.params import VERSION_KEY
from pipeline.prepare.write_listing import write_listing
from pipeline.registry import FEATURES, HEAD_GROUPS, HEAD_NAMES, IMPORTED_PREFIX, WEIGHTS_NAMES, choose_heads
from pipeline.settings.init import InitSettings

logger = logging.getLogger(__name__)

PARAMS, STAGES = "params.yaml", "dvc.yaml"
HEADER = """\
# clips -> manifest -> feature store -> fitted heads -> table: `dvc repro` runs what is not done yet. Values stand in
# params.yaml; the commands are the lines that people type. Written by `pipeline init`."""
DEMO_MINUTES = "20 minutes on two cores"


def init(settings: InitSettings) -> None:
    """Write a study and print its clips, an estimate of time and disk space, and the next commands.

    Raises:
        PipelineError: the clips cannot be listed, the study's files exist, or Git or DVC fail.
    """
    if settings.demo:
        _write_demo(settings.out)
        return
    if settings.root is None:
        raise PipelineError("Give the folder of your clips, as in `pipeline init ~/clips`, or --demo.")
    folder, root = settings.out, settings.root
    if folder.resolve() == root.resolve() or root.resolve() in folder.resolve().parents:
        raise PipelineError(
            f"The study would be written into the folder of the clips ({root}), where its results would be taken for "
            "clips. Run `pipeline init` in another folder, or give one with --out."
        )
    from pipeline.backbones.timm_name import full_name  # its package imports torch
    from pipeline.backbones.weights import check_weights

    check_weights(settings.weights)
    # DVC separates names of stages with `@`, which may be typed in the name of a backbone.
    settings = replace(settings, backbone=tuple(map(full_name, settings.backbone)))
    name = safe_name(settings.name or (root.resolve().stem if root.is_file() else root.resolve().name))
    manifest = Path("data_manifests") / f"{name}.csv"
    names: list[str | Path] = [PARAMS, STAGES, manifest, classes_path(manifest)]
    check_free(folder, names)
    listing, request = list_clips(settings, root)
    imports = settings.data == FEATURES
    found = survey(listing, request.folder, settings.num_segments, decodes=not imports)
    logger.info("Measuring the speed of this machine for the estimate.")
    heads = choose_heads(settings.head or ("paper",))
    machine = measure_machine(
        settings.backbone, heads, settings.device, settings.map_size, settings.num_segments, found.num_classes
    )
    plan = make_plan(settings, found, machine)
    if imports:
        plan = without_extraction(plan)
    values = _values(settings, plan, found, machine, name, manifest)
    stages = StageFile(
        HEADER,
        "pipeline prepare",
        "read" if found.is_hashed else "apart",
        finetunes=settings.finetune is not None,
        imports=imports,
    )
    texts = {PARAMS: render(PARAMS, **values), STAGES: render_stages(stages), README: render(README, **values)}
    with unfinished(folder, names) as new:
        write_listing(listing, request, folder / manifest, None)
        _print([*write_files(folder, texts, new), *set_up_tools(folder, new)])
    taken = estimate(plan, found, machine, settings.num_segments, imports)
    click.echo(summary(found, plan, machine, taken, imports))
    click.echo(f"\nNext: {_enter(folder)}dvc repro")


def safe_name(text: str) -> str:
    """Return a text as the name of a file or folder.

    >>> safe_name("My clips (new)"), safe_name("…")
    ('My-clips-new', 'clips')
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-._") or "clips"


def place_in(folder: Path, path: Path) -> str:
    """Return a path as a study names it: relative if it lies within the study, else absolute."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _values(
    settings: InitSettings, plan: Plan, found: Survey, machine: Machine, name: str, manifest: Path
) -> dict[str, Any]:
    """Return what the templates are filled in with."""
    assert settings.root is not None
    folder = settings.out
    root = place_in(folder, settings.root)
    clips_root = place_in(folder, settings.root.parent) if settings.root.is_file() else root
    weights = settings.weights if settings.weights in WEIGHTS_NAMES else place_in(folder, Path(settings.weights))
    cache = f"cache/{safe_name(Path(weights).stem)}"
    imports = settings.data == FEATURES
    store = f"{cache}/{{backbone}}-{{num-segments}}seg.zarr"
    best = next((head for head in ("trn", "gru", "mlp") if head in plan.heads), plan.heads[0])
    return {
        "name": name,
        "version": version("st-pipeline"),
        "num_clips": f"{found.num_clips:,}",
        "num_classes": f"{found.num_classes:,}",
        "is_hashed": found.is_hashed,
        "check": f"pipeline check {manifest.as_posix()} --root {shlex.quote(clips_root)}"
        + ("" if imports else " --decode"),
        "imports": imports,
        "backbone": settings.backbone[0],
        "head": best,
        "root_in_shell": shlex.quote(root),
        "cache": cache,
        "store": f"cache/{name}.zarr" if imports else store,
        "backbones": (IMPORTED_PREFIX + name,) if imports else settings.backbone,
        "all_heads": HEAD_NAMES,
        "head_lists": HEAD_GROUPS,
        "heads": plan.heads,
        "left_out": {head: time_text(seconds) for head, seconds in plan.left_out.items()},
        "data": settings.data,
        "root": root,
        "lists": tuple(place_in(folder, path) for path in settings.lists),
        "manifest": manifest.as_posix(),
        "classes": classes_path(manifest).as_posix(),
        "columns": settings.columns,
        "fold": settings.fold,
        "group_by": settings.group_by,
        "labels": settings.labels,
        "subset": None if settings.subset is None else place_in(folder, settings.subset),
        "val_share": settings.val_share,
        "weights": weights,
        "num_segments": settings.num_segments,
        "views": plan.views,
        "maps": plan.maps,
        "map_size": min(settings.map_size, *(rate.map_size for rate in machine.backbones.values())),
        "spatial_factor": max(1 + rate.spatial_bytes // rate.pooled_bytes for rate in machine.backbones.values()),
        "device": settings.device,
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "finetune": settings.finetune,
    }


def _write_demo(folder: Path) -> None:
    check_free(folder, [PARAMS, STAGES, "data_manifests", "data"])
    # That of the repository, whose stages depend on modules of the repository instead of the version.
    params = re.sub(
        r"^repository: .*$",
        f'{VERSION_KEY}: "{version("st-pipeline")}"',
        template_text("demo.yaml"),
        flags=re.MULTILINE,
    )
    stages = render_stages(StageFile(HEADER, PREPARE_DRAWN, "drawn", finetunes=True))
    readme = render("demo_README.md", version=version("st-pipeline"))
    with unfinished(folder, [PARAMS, STAGES]) as new:
        _print(
            [*write_files(folder, {PARAMS: params, STAGES: stages, README: readme}, new), *set_up_tools(folder, new)]
        )
    click.echo(f"The demo is written; it takes about {DEMO_MINUTES}.\n\nNext: {_enter(folder)}dvc repro")


def _print(lines: list[str]) -> None:
    for line in lines:
        logger.info(line)


def _enter(folder: Path) -> str:
    return "" if folder.resolve() == Path.cwd().resolve() else f"cd {shlex.quote(str(folder))} && "

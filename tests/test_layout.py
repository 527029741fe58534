"""The house rules that code can hold: imports run downwards, names without imports, nothing heavy before its time."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# The way of the data: a module imports from lower ranks or from its own package only.
RANKS = {
    "pipeline": 7,  # the few names that a notebook needs
    "pipeline.allocator": 0,
    "pipeline.calibration": 0,
    "pipeline.cluster_client": 0,
    "pipeline.collection": 0,
    "pipeline.devices": 0,
    "pipeline.errors": 0,
    "pipeline.files": 0,
    "pipeline.folder_lock": 0,
    "pipeline.hdf5_output": 0,
    "pipeline.clip_errors": 0,
    "pipeline.processes": 0,
    "pipeline.scratch": 0,
    "pipeline.imports": 0,
    "pipeline.prefetch": 0,
    "pipeline.log": 0,
    "pipeline.number_types": 0,
    "pipeline.onnx_program": 0,
    "pipeline.progress": 0,
    "pipeline.relay": 0,
    "pipeline.registry": 0,
    "pipeline.runtime": 0,
    "pipeline.shapes": 0,
    "pipeline.supervised": 0,
    "pipeline.tables": 0,
    "pipeline.watched_server": 0,
    "pipeline.intervals": 0,
    "pipeline.manifest": 1,
    "pipeline.params": 1,
    "pipeline.recipe": 1,
    "pipeline.splitting": 1,
    "pipeline.backbones": 2,
    "pipeline.heads": 2,
    "pipeline.settings": 2,
    "pipeline.store": 2,
    "pipeline.video": 2,
    "pipeline.evaluation": 3,  # what judges a model
    "pipeline.model": 3,
    "pipeline.model_file": 4,
    "pipeline.search": 4,  # trials of settings, for both training loops
    "pipeline.training": 4,  # what both training loops share
    "pipeline.prepare": 5,
    "pipeline.extract": 5,
    "pipeline.fit_head": 5,
    "pipeline.finetune": 5,
    "pipeline.bundled": 6,  # draws the hands of prepare.gestures
    "pipeline.compare": 6,
    "pipeline.init": 6,
    "pipeline.predict": 6,
    "pipeline.store_command": 6,
    "pipeline.temporality": 6,
    "stages": 7,
    "pipeline.supervisor": 7,
    "pipeline.options": 8,
    "pipeline.command_group": 9,
    "pipeline.commands": 10,
    "pipeline.cli": 11,
    "pipeline.__main__": 12,
}


def unit_of(module: str) -> str:
    """The package or single module that has a rank: `pipeline.video` of `pipeline.video.decode`."""
    parts = module.split(".")
    return parts[0] if parts[0] == "stages" else ".".join(parts[:2])


def modules_imported_by(source: str, module: str, is_package: bool) -> set[str]:
    """The project's modules that a source imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".") if is_package else module.split(".")[:-1]
            prefix = ".".join(base[: len(base) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (prefix, node.module or "") if part)
            if name in ("pipeline", "stages"):
                found.update(f"{name}.{alias.name}" for alias in node.names)
            else:
                found.add(name)
    return {name for name in found if name.split(".")[0] in ("pipeline", "stages")}


def upward_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a source that go to its own rank or a higher one, outside its own package."""
    own = unit_of(module)
    return [
        f"{module} -> {imported}"
        for imported in sorted(modules_imported_by(source, module, is_package))
        # The modules of rank 0 may lean on each other: there is nothing below them.
        if unit_of(imported) != own and RANKS[unit_of(imported)] not in range(max(RANKS[own], 1))
    ]


def project_modules() -> list[tuple[str, Path]]:
    paths = [*REPOSITORY.glob("pipeline/**/*.py"), *REPOSITORY.glob("stages/**/*.py")]
    modules = []
    for path in sorted(paths):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        modules.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return modules


def test_imports_run_downwards() -> None:
    arrows = [
        arrow
        for module, path in project_modules()
        for arrow in upward_imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    ]
    assert arrows == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.video.decode", "from pipeline.store import FeatureStore"),  # the same rank, another package
        ("pipeline.heads.mlp", "def f():\n    import pipeline.fit_head.fit"),  # hidden in a function
        ("pipeline.errors", "from pipeline import manifest"),
        ("pipeline.model", "from stages import fit_head"),
        ("stages.extract", "from pipeline.cli import main"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str) -> None:
    assert len(upward_imports(source, module)) == 1


def test_downward_imports_pass() -> None:
    source = "import torch\nfrom pipeline.errors import PipelineError\nfrom pipeline.heads.head import Head"
    assert upward_imports(source, "pipeline.heads.mlp") == []


def test_every_name_of_the_registry_leads_to_its_object() -> None:
    from pipeline import registry
    from pipeline.backbones import BACKBONES, Backbone
    from pipeline.heads import HEADS, Head
    from pipeline.recipe import RECIPES
    from stages.prepare import LISTERS

    assert all(issubclass(HEADS[name], Head) for name in registry.HEAD_NAMES)
    assert all(issubclass(BACKBONES[name], Backbone) for name in registry.BACKBONE_NAMES)
    assert all(callable(LISTERS[name]) for name in registry.DATASET_NAMES)
    assert tuple(RECIPES) == registry.RECIPE_NAMES
    # A head's file has its name, which is how DVC finds it.
    assert {name: registry.module_of(place) for name, place in registry.HEADS.items()} == {
        name: f"pipeline.heads.{name}" for name in registry.HEADS
    }


def test_help_imports_nothing_heavy() -> None:
    script = """
        import sys
        import click.testing
        from pipeline.cli import cli
        for arguments in ([], *[[name] for name in sorted(cli.commands)]):
            result = click.testing.CliRunner().invoke(cli, [*arguments, "--help"])
            assert result.exit_code == 0, (arguments, result.output)
        print(sorted({"torch", "zarr", "av", "numpy", "pandas", "dask", "matplotlib"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "[]"


def test_the_options_of_a_command_are_built_when_it_is_used() -> None:
    """`pipeline --help` needs none of them, and building all takes as long as everything else of it."""
    script = """
        import sys
        import click.testing
        from pipeline.cli import cli
        def imported():
            return sorted(name for name in sys.modules if name.startswith("pipeline.settings.") )
        assert click.testing.CliRunner().invoke(cli, ["--help"]).exit_code == 0
        print(imported())
        assert click.testing.CliRunner().invoke(cli, ["check", "--help"]).exit_code == 0
        print("pipeline.settings.check" in imported(), "pipeline.settings.extract" in imported())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "['pipeline.settings.quantity', 'pipeline.settings.settings']\nTrue False\n"


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("pipeline.compare.command", {"torch", "zarr", "av", "h5py", "dask", "dvc"}),
        ("pipeline.predict.scorer, pipeline.video.decode", {"zarr", "h5py", "dask", "pandas", "matplotlib"}),
    ],
)
def test_a_command_imports_no_package_that_it_may_not_need(module: str, unused: set[str]) -> None:
    code = f"import sys; import {module}; print(sorted({unused} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_house_rules_in_the_sources() -> None:
    for module, path in project_modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, f"{module} says nothing of itself"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{module}:{node.lineno} prints; results go out through click.echo"
            if isinstance(node, ast.Attribute):
                assert node.attr != "cuda" or not isinstance(node.value, ast.Call), f"{module}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module}:{node.lineno} catches everything"


def test_no_path_of_one_machine_is_committed() -> None:
    files = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.split()
    forbidden = ("/wo" + "rk/", "/ro" + "ot/")
    for name in files:
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".csv", ".json", ".txt"} and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not any(word in text for word in forbidden), f"{name} has a path of one machine"

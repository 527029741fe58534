"""Fill in the templates of a study's files. The dvc.yaml of this repository is made from the same template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import yaml
from jinja2 import Environment, StrictUndefined

from pipeline.params import VERSION_KEY

PREPARE_DRAWN = "pipeline prepare ${prepare.dataset} ${prepare.root} --out ${prepare.out}"
DRAWN_SAYS = "Draw the demo's clips and write their manifest."
LISTED_SAYS = "Read the data set's own label files, find its clips, and write the manifest."


@dataclass(frozen=True)
class StageFile:
    """What differs between one dvc.yaml and another.

    header: comment at its top. prepare: command of the first stage.
    clips: `drawn` by the stage `prepare`; `read` from a folder that DVC watches; `apart`: in a folder that DVC leaves
        alone, for it would read and hash millions of files.
    finetunes: whether there is a stage `finetune`.
    imports: whether features are imported instead of extracted.
    code: paths of the modules that each stage depends on, in a repository; a study depends on the version instead.
    """

    header: str
    prepare: str
    clips: Literal["drawn", "read", "apart"]
    finetunes: bool
    imports: bool = False
    code: Mapping[str, Sequence[str]] = field(default_factory=dict)


def render_stages(file: StageFile) -> str:
    """Return the text of a dvc.yaml."""

    def code(stage: str) -> str:
        return "".join(f"      - ${{repository}}/{path}\n" for path in file.code.get(stage, ()))

    return render(
        "stages.yaml",
        header=file.header,
        prepare=file.prepare,
        prepare_says=DRAWN_SAYS if file.clips == "drawn" else LISTED_SAYS,
        clips=file.clips,
        finetunes=file.finetunes,
        imports=file.imports,
        code=code,
        version="" if file.code else f"{VERSION_KEY}, ",
    )


def render(template: str, /, **values: Any) -> str:
    """Return a template with its values filled in."""
    environment = Environment(
        autoescape=False,  # YAML and Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["yaml"] = yaml_text
    return environment.from_string(template_text(template)).render(values)


def template_text(name: str) -> str:
    """Return the text of a template as it is."""
    return resources.files("pipeline.init").joinpath("templates", name).read_text(encoding="utf-8")


def yaml_text(value: Any) -> str:
    """Return a text, number or list as YAML on one line, with quotes where YAML needs them."""
    listed = list(value) if isinstance(value, tuple) else value
    texts = listed if isinstance(listed, list) else [listed]
    # PyYAML writes some line breaks of Unicode as they are and reads them as spaces.
    is_printable = all(str(text).isprintable() for text in texts)
    # As the item of a list: a document of one text would end in a line of dots.
    text = yaml.safe_dump([listed], default_flow_style=True, allow_unicode=is_printable, width=float("inf"))
    return str(text).strip()[1:-1]

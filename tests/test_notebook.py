"""The names of `import pipeline`, and the example of the docs, which is run unchanged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pipeline
from pipeline.errors import PipelineError
from tests.conftest import REPOSITORY
from tests.support.fitted_models import Fitted, fitted_in

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fitted_in(tmp_path_factory.mktemp("fitted"), heads=("lstm",))


def test_the_example_of_the_docs_runs(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "notebook.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names = {"STORE": fitted.store, "MODEL": fitted.model("lstm"), "CLIPS": [*fitted.clips, "absent.webm"]}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/notebook.md, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "3 classes; 0 clips failed" in printed
    assert "absent.webm failed: absent.webm does not exist." in printed
    assert "torch.Size([1, 3])" in printed


def test_features_are_those_of_the_store(fitted: Fitted) -> None:
    store = pipeline.open_store(fitted.store)
    found = pipeline.features(store, "train", "spatial", view="train-0", limit=3)
    assert found.features.shape == (3, 2, 512, 13, 13)
    for place, clip_id in enumerate(found.clip_ids):
        clip = next(clip for clip in store.table() if clip.clip_id == clip_id)
        stored = torch.from_numpy(store.read_spatial("train-0", clip.row)).permute(0, 3, 1, 2)
        assert torch.equal(found.features[place], stored)
        assert found.labels[place] == store.label_of("train-0", clip.row)
    with pytest.raises(PipelineError, match="`maps`"):
        pipeline.features(store, "train", "flat")


def test_every_name_is_there_and_listed() -> None:
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is not None
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(AttributeError, match="has no attribute 'open_shop'; it offers"):
        _ = pipeline.open_shop


def test_import_loads_nothing_heavy() -> None:
    script = "import sys, pipeline; print(sorted({'torch', 'numpy', 'zarr', 'av', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_every_page_is_linked_from_the_index_and_links_lead_somewhere() -> None:
    pages = sorted(DOCS.glob("*.md"))
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert {page.name for page in pages} - {"README.md"} <= linked
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert Path(page.parent, target).exists(), f"{page.name} links to {target}, which is not there"

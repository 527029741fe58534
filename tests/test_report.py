"""The report: one file, no network, readable in both themes, with every number that it should have."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.compare.comparison import Comparison, compare_runs
from pipeline.compare.disagreement import contact_sheets, frames_of, most_confused, view_config_of
from pipeline.compare.gate import Change, GateReport
from pipeline.compare.plots import accuracy_against_macs
from pipeline.compare.report import write_report
from pipeline.compare.training_curves import training_curves
from pipeline.compare.verdict import verdict_of
from pipeline.evaluation.result_reader import find_runs, read_run
from pipeline.manifest import Clip, Manifest, read_manifest, write_manifest
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.recipe import named_recipe
from tests.support.result_folders import CLASSES, write_cell

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.hrefs: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "src":
                self.sources.append(value or "")
            if name == "href" and tag == "a":
                self.hrefs.append(value or "")
            if name == "id" and "-" in (value or "") and (value or "").startswith(("group", "head")):
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself, as SVG has them, holds nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("results")
    for seed, (head, accuracy) in enumerate({"fcn3d": 0.9, "lstm": 0.7, "tsn": 0.4}.items()):
        write_cell(root / f"fit_head/squeezenet-{head}", head=head, accuracy=accuracy, seed=seed)
    write_cell(root / "finetune/squeezenet-lstm", accuracy=0.75, recipe="paper", seed=9)
    return compare_runs([read_run(folder) for folder in find_runs([root])], pairs=[CLASSES[:2]])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The clips of the drawn cells as folders of frames; the first is missing."""
    clips = [Clip(f"clip{n:03d}", f"frames of/clip{n:03d}", CLASSES[n % 3], "val") for n in range(60)]
    for number, clip in enumerate(clips[1:], start=1):
        (tmp_path / clip.path).mkdir(parents=True)
        for frame in range(1, 4):
            pixels = np.full((24, 32, 3), 4 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / clip.path / f"{frame:05d}.jpg")
    write_manifest(tmp_path / "clips.csv", clips, CLASSES)
    return read_manifest(tmp_path / "clips.csv")


def test_the_page_is_whole_and_needs_no_network(comparison: Comparison, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", comparison, machine="a machine")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(source.startswith("data:") for source in page.sources)
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert all("www.w3.org" in address for address in addresses), "only the names of XML languages"
    assert not re.search(r"<script\s|<(link|iframe)\b|@import|url\((?!#)", text)
    inner = [href[1:] for href in page.hrefs if href.startswith("#")]
    assert set(inner) <= set(page.ids)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_drawings_take_the_colours_of_the_page(comparison: Comparison, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", comparison)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "#01020" not in text, "a marker colour was left"
    for name in ("ink", "muted", "grid", "main", "second"):
        assert f"var(--{name})" in text.split("</style>", 1)[1]


def test_the_page_has_every_row_and_says_what_is_better(comparison: Comparison, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", comparison)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for row in comparison.rows:
        assert f"{row.top1.value:.1f} [{row.top1.low:.1f}, {row.top1.high:.1f}]" in text
        assert row.label in text
    assert verdict_of(comparison.groups[0]) in text
    assert "weights.sha256" in text


def test_settings_of_all_rows_stand_once(comparison: Comparison, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", comparison)
    settings = (tmp_path / "report.html").read_text(encoding="utf-8").split("Settings and provenance")[1]
    assert settings.count("<dd>" + "ab" * 32 + "</dd>") == 1, "the weights"
    assert settings.count("<dt>recipe</dt>") == len(comparison.rows), "one row has another one"


def test_points_that_cover_each_other_share_one_text(tmp_path: Path) -> None:
    for head in ("gru", "blstm"):
        write_cell(tmp_path / f"squeezenet-{head}", head=head, accuracy=0.7)
    write_cell(tmp_path / "squeezenet-tsn", head="tsn", accuracy=0.3)
    group = compare_runs([read_run(folder) for folder in find_runs([tmp_path])]).groups[0]
    names = [text.get_text() for text in accuracy_against_macs(group).axes[0].texts]
    assert names == ["blstm\ngru", "tsn"]


def test_labels_are_escaped(tmp_path: Path) -> None:
    write_cell(tmp_path / "fit_head/squeezenet-lstm", classes=("<b>a</b>", "b & c", 'd "e"'), accuracy=0.5)
    cells = [read_run(folder) for folder in find_runs([tmp_path])]
    write_report(tmp_path / "report.html", compare_runs(cells))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert "<b>a</b>" not in text
    assert "&lt;b&gt;a&lt;/b&gt;" in text


def test_clips_are_linked_relative_to_the_report(comparison: Comparison, manifest: Manifest) -> None:
    folder = manifest.path.parent / "results" / "compare"
    write_report(folder / "report.html", comparison, manifest=manifest)
    text = (folder / "report.html").read_text(encoding="utf-8")
    links = [href for href in Page(text).hrefs if href.startswith("..")]
    assert links
    assert all(link.startswith("../../frames%20of/clip") for link in links)
    assert 'src="data:image/jpeg;base64,' in text


def test_contact_sheets_show_clips_that_split_the_heads(comparison: Comparison, manifest: Manifest) -> None:
    sheets = contact_sheets(comparison.groups[0], manifest, manifest.path.parent)
    assert sheets
    assert len({sheet.label for sheet in sheets}) == len(sheets)
    for sheet in sheets:
        assert sheet.right
        assert sheet.wrong
        assert all(guess != sheet.label for _, guess in sheet.wrong)
        assert {*sheet.right, *(head for head, _ in sheet.wrong)} == {"fcn3d", "lstm", "tsn"}


def test_a_clip_that_cannot_be_read_is_shown_with_its_reason(comparison: Comparison, manifest: Manifest) -> None:
    for path in sorted(manifest.root.glob("frames of/*/*.jpg")):
        path.unlink()
    sheets = contact_sheets(comparison.groups[0], manifest, manifest.path.parent)
    assert sheets
    assert all(not sheet.images and sheet.fault for sheet in sheets)


def test_most_confused_pairs_are_counted_by_hand(comparison: Comparison) -> None:
    predictions = comparison.groups[0].rows[-1].run.predictions
    pairs = most_confused(predictions, None, Path())
    counts = {
        (label, guess): sum(
            predictions.classes[a] == label and predictions.classes[b] == guess
            for a, b in zip(predictions.labels, predictions.predicted[0], strict=True)
        )
        for label in CLASSES
        for guess in CLASSES
        if label != guess
    }
    assert pairs[0].num_clips == pytest.approx(max(counts.values()))
    assert all(pair.num_clips == pytest.approx(counts[pair.label, pair.predicted]) for pair in pairs)
    assert all(clip.href is None for pair in pairs for clip in pair.clips)


def test_the_gate_stands_in_the_report(comparison: Comparison, tmp_path: Path) -> None:
    before = {"top1": 80.0, "top5": 100.0, "mean_class_accuracy": 80.0}
    gone = Change("results/fit_head/squeezenet-gru", before, None, None, 1.0)
    write_report(tmp_path / "report.html", comparison, gate=GateReport("main", 1.0, (gone,)))
    assert "squeezenet-gru has vanished" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_front_has_no_row_that_another_beats(comparison: Comparison) -> None:
    rows = comparison.groups[0].rows
    front = comparison.groups[0].front()

    def beaten(row: object) -> bool:
        return any(
            other.complexity.macs <= row.complexity.macs and other.top1.value > row.top1.value  # type: ignore[attr-defined,union-attr]
            for other in rows
        )

    assert {row.label for row in front} == {row.label for row in rows if not beaten(row)}


def test_a_head_without_epochs_has_no_curves(tmp_path: Path) -> None:
    folder = write_cell(tmp_path / "fit_head/squeezenet-lstm")
    (folder / "history.csv").write_text("seed,epoch,lr,train_loss,train_top1,select_loss,select_top1\n")
    cell = read_run(folder)
    assert training_curves(cell.history) is None
    write_report(tmp_path / "report.html", compare_runs([cell]))
    assert "No epoch was trained." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_plots_leave_matplotlib_as_it_was(comparison: Comparison) -> None:
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    accuracy_against_macs(comparison.groups[0])
    assert dict(matplotlib.rcParams) == before
    assert _pylab_helpers.Gcf.figs == {}


def test_a_sheet_shows_the_frames_that_the_model_saw(tmp_path: Path) -> None:
    """The published code shows the first frame of a short clip in every segment; the formula spreads over the clip."""
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((4, 24, 32, 3), 60, dtype=np.uint8)
    write_frame_folder(tmp_path / "short", frames)
    shown = {}
    for name in ("cached", "published-code"):
        folder = tmp_path / name / "squeezenet-lstm"
        write_cell(folder, recipe=named_recipe(name).as_dict())
        images, fault = frames_of(str(tmp_path / "short"), view_config_of(read_run(folder)))
        assert fault is None
        shown[name] = [round(brightness(image) / 60) for image in images]
    assert shown["published-code"] == [0] * 8
    assert shown["cached"] == [0, 0, 1, 1, 2, 2, 3, 3]  # int(4 / 16 + k * 4 / 8)


def brightness(address: str) -> float:
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return float(np.asarray(picture).mean())

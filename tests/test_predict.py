"""Predictions are those of the cached road, and one bad clip does not stop the others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.calibration import multiplies_bfloat16_fast
from pipeline.cli import cli
from pipeline.errors import PipelineError
from pipeline.model import ModelSpec
from pipeline.model_file import load_model
from pipeline.predict.decode_ahead import decoded_ahead
from pipeline.predict.predict import expanded, predict
from pipeline.predict.scorer import Scorer, ranked
from pipeline.predict.timeline import slide
from pipeline.predict.view_plan import view_plan_of
from pipeline.prepare.gestures.encode import write_frame_folder
from pipeline.store import FeatureStore
from pipeline.video.clip_views import ClipViews, load_clip_views
from pipeline.video.crops import centre_crop
from pipeline.video.decode import open_clip
from pipeline.video.render import render
from pipeline.video.sampling import test_frame_indices
from tests.support.fitted_models import HEADS, Fitted, fitted_in
from tests.support.small_clips import CLASSES, T


def views_of(location: str, spec: ModelSpec) -> ClipViews:
    plan = view_plan_of(spec)
    return load_clip_views(location, partial(plan.views, location), plan.input_size)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fitted_in(tmp_path_factory.mktemp("fitted"))


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["predict", *map(str, arguments)], input=stdin)


def cached_scores(fitted: Fitted, head: str) -> np.ndarray:
    """Scores of the validation clips by the plainest way: the store's arrays through the head."""
    store, model = FeatureStore.open(fitted.store), load_model(fitted.model(head))
    rows = [clip.row for clip in store.clips("val")]
    if model.head.reads == "pooled":
        features = torch.from_numpy(store.read_pooled("test", rows))[..., None, None]
    else:
        features = torch.from_numpy(store.read_spatial_batch("test", rows)).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        return model.head(features.float()).numpy()


def predicted_scores(found: list) -> np.ndarray:
    by_label = [{score.label: score.score for score in prediction.ranked} for prediction in found]
    return np.array([[scores[label] for label in CLASSES] for scores in by_label])


@pytest.mark.parametrize("head", HEADS)
def test_scores_equal_those_of_the_cache(fitted: Fitted, head: str) -> None:
    scores = predicted_scores(predict(fitted.model(head), fitted.clips))
    # The features went through float16 on both roads: what is left is the order of float32 sums in the head.
    np.testing.assert_allclose(scores, cached_scores(fitted, head), rtol=0, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_whole_network_in_float32(fitted: Fitted, head: str) -> None:
    model = load_model(fitted.model(head))
    scores = predicted_scores(predict(model, fitted.clips))
    for clip, found in zip(fitted.clips, scores, strict=True):
        with open_clip(clip) as reader:
            frames = reader.read(test_frame_indices(reader.num_frames, T))
            pixels = render(frames, centre_crop(reader.height, reader.width), flip=False)
        with torch.no_grad():
            expected = model(pixels[None])[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.skipif(not multiplies_bfloat16_fast("cpu"), reason="bfloat16 is slow on this processor")
def test_a_model_of_a_bfloat16_cache_is_run_in_bfloat16(tmp_path: Path) -> None:
    fitted = fitted_in(tmp_path, "bfloat16", heads=("lstm",))
    assert Scorer(load_model(fitted.model("lstm"))).dtype == "bfloat16"
    cached = cached_scores(fitted, "lstm")
    np.testing.assert_allclose(predicted_scores(predict(fitted.model("lstm"), fitted.clips)), cached, rtol=0, atol=2e-5)
    exact = predicted_scores(predict(fitted.model("lstm"), fitted.clips, dtype="float32"))
    assert 0 < np.abs(exact - cached).max() < 0.03 * np.abs(exact).max() + 0.03


def test_a_finetuned_model_is_run_as_it_was_validated(fitted: Fitted) -> None:
    model = load_model(fitted.model("lstm"))
    object.__setattr__(model.spec, "stage", "finetune")
    scores = predicted_scores(predict(model, fitted.clips))
    np.testing.assert_allclose(scores, cached_scores(fitted, "lstm"), rtol=0, atol=2e-3)


def test_predicting_leaves_the_model_alone(fitted: Fitted) -> None:
    model = load_model(fitted.model("fcn2d"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, fitted.clips[:1], dtype="bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_text_json_and_csv_say_the_same(fitted: Fitted) -> None:
    text, as_json, as_csv = (
        run(fitted.model("lstm"), *fitted.clips[:2], "--top", 2, "--format", kind) for kind in ("text", "json", "csv")
    )
    assert (text.exit_code, as_json.exit_code, as_csv.exit_code) == (0, 0, 0)
    objects, rows = json.loads(as_json.stdout), list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert [value["clip"] for value in objects] == fitted.clips[:2]
    assert [row["label"] for row in rows] == [score["label"] for value in objects for score in value["classes"]]
    assert [int(row["rank"]) for row in rows] == [1, 2, 1, 2]
    assert [float(row["probability"]) for row in rows] == [s["probability"] for v in objects for s in v["classes"]]
    best = objects[0]["classes"][0]
    assert text.stdout.splitlines()[1].split() == [f"{100 * best['probability']:.1f}", "%", best["label"]]
    assert len(objects[0]["frames"]) == T


def test_a_bad_clip_is_reported_and_the_others_go_on(fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    good = fitted.clips[:2]
    result = run(
        fitted.model("lstm"), good[0], tmp_path / "empty.mp4", tmp_path / "absent.mp4", good[1], "--format", "json"
    )
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [value.get("error", {}).get("kind") for value in found] == [None, "empty", "missing", None]
    assert "absent.mp4 does not exist" in result.stderr
    assert "2 of 4 clips could not be used" in result.stderr


def test_a_folder_and_a_list_on_stdin(fitted: Fitted) -> None:
    folder = fitted.folder / "clips"
    assert expanded([str(folder)]) == [str(path) for path in sorted(folder.iterdir())]
    listed = run(fitted.model("lstm"), "-", "--format", "csv", "--top", 1, stdin="\n".join(fitted.clips) + "\n\n")
    assert [row["clip"] for row in csv.DictReader(io.StringIO(listed.stdout))] == fitted.clips


def test_videos_and_frame_folders_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/two.MP4", "a.webm", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "00001.jpg").write_bytes(b"x")
    found = expanded([str(tmp_path), "elsewhere.mp4"])
    assert [Path(path).name for path in found] == ["a.webm", "two.MP4", "frames", "elsewhere.mp4"]
    (tmp_path / "b" / "0001.png").write_bytes(b"x")  # a thumbnail beside a video hides no video
    assert expanded([str(tmp_path)]) == found[:-1]
    assert expanded([str(tmp_path / "b")]) == [str(tmp_path / "b" / "two.MP4")]
    (tmp_path / "none").mkdir()
    with pytest.raises(PipelineError, match="There is no clip in the folder"):
        expanded([str(tmp_path / "none")])


def test_a_contact_sheet_shows_the_frames_that_were_used(fitted: Fitted, tmp_path: Path) -> None:
    result = run(fitted.model("lstm"), *fitted.clips[:3], "--contact-sheet", tmp_path / "sheet.png", "--speed")
    assert result.exit_code == 0, result.output
    assert "clips/s" in result.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (T * 112, 3 * (112 + 18))
        shown = np.asarray(sheet)
    # The last frame of the first clip, below its number: its brightness is that of the pixels that were scored.
    pixels = views_of(fitted.clips[0], load_model(fitted.model("lstm")).spec).pixels[0][-1].float()
    assert abs(shown[18 + 20 : 18 + 112, 112:].mean() - float(pixels[:, 40:].mean())) < 1


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.random.default_rng(3).integers(0, 256, (22, 40, 56, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("long") / "long"
    write_frame_folder(path, frames)
    return path


def test_a_window_scores_as_the_clip_that_it_is(fitted: Fitted, long_clip: Path, tmp_path: Path) -> None:
    scorer = Scorer(load_model(fitted.model("lstm")))
    found = slide(scorer, str(long_clip), window_frames=6, stride_frames=4)
    assert found.starts.tolist() == [0, 4, 8, 12, 16]
    images = sorted(long_clip.iterdir())
    for start, scores in zip(found.starts.tolist(), found.scores, strict=True):
        alone = tmp_path / str(start)
        alone.mkdir()
        for image in images[start : start + 6]:
            (alone / image.name).write_bytes(image.read_bytes())
        # The frames of an exact window may not be numbered from 0 or 1: give them new names.
        for number, image in enumerate(sorted(alone.iterdir())):
            image.rename(alone / f"new_{number:05d}.jpg")
        expected = scorer.clip_scores(views_of(str(alone), scorer.spec).pixels)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-3)


def test_a_timeline_is_drawn_and_written(fitted: Fitted, long_clip: Path, tmp_path: Path) -> None:
    chart = tmp_path / "line.png"
    result = run(fitted.model("lstm"), long_clip, "--timeline", chart, "--window", 6, "--fps", 12)
    assert result.exit_code == 0, result.output
    with Image.open(chart) as image:
        assert image.width > 800
    rows = list(csv.DictReader((tmp_path / "line.csv").read_text().splitlines()))
    assert [int(row["first_frame"]) for row in rows] == list(range(0, 17, 3))
    assert all(int(row["last_frame"]) == int(row["first_frame"]) + 5 for row in rows)
    best = max(CLASSES, key=lambda label: float(rows[0][f"score:{label}"]))
    assert rows[0]["predicted"] == best
    assert len(result.stdout.splitlines()) == len(rows)


def test_a_video_shorter_than_the_window_is_one_window(fitted: Fitted) -> None:
    scorer = Scorer(load_model(fitted.model("lstm")))
    found = slide(scorer, fitted.clips[0], window_frames=64)
    assert found.starts.tolist() == [0]
    expected = scorer.clip_scores(views_of(fitted.clips[0], scorer.spec).pixels)
    np.testing.assert_allclose(found.scores[0], expected, rtol=0, atol=1e-5)


def test_a_timeline_of_several_clips_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    result = run(fitted.model("lstm"), *fitted.clips[:2], "--timeline", tmp_path / "line.png")
    assert result.exit_code == 1
    assert "one video, but 2 clips" in result.stderr


@pytest.mark.parametrize(("option", "name"), [("--timeline", "line.csv"), ("--contact-sheet", "sheet.gif")])
def test_a_picture_of_another_format_is_refused_before_any_work(
    fitted: Fitted, tmp_path: Path, option: str, name: str
) -> None:
    result = run(fitted.model("lstm"), fitted.clips[0], option, tmp_path / name)
    assert result.exit_code == 1
    assert f"{name} must end in .png" in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_reason_names_its_clip_once(fitted: Fitted, tmp_path: Path) -> None:
    result = run(fitted.model("lstm"), tmp_path / "none.mp4")
    assert result.stderr.count("none.mp4") == 1


def test_ranks_are_stable_and_probabilities_sum_to_one() -> None:
    found = ranked(np.array([1.0, 3.0, 3.0]), ["a", "b", "c"], top=5)
    assert [score.label for score in found] == ["b", "c", "a"]
    assert sum(score.probability for score in found) == pytest.approx(1.0)


def test_work_ahead_is_bounded_and_in_order() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = decoded_ahead(lambda number: number * number, numbers())
    assert next(results) == 0
    assert len(taken) <= 12
    assert list(results) == [number * number for number in range(1, 100)]

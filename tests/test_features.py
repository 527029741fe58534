"""The way of features from a store to a training step."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.fit_head import features as module
from pipeline.fit_head.cached_data import CachedData
from pipeline.fit_head.features import FeatureDataset, batches, load_frames, load_pooled
from pipeline.fit_head.plan import plan_requests
from pipeline.fit_head.spatial_features import MapCache, open_spatial
from pipeline.fit_head.stored_clips import StoredClips, labelled_rows
from pipeline.recipe import SamplingConfig, named_recipe
from pipeline.settings.fit_head import FitHeadSettings
from pipeline.video.sampling import drawn_frame_indices, test_frame_indices
from tests.support.memory_source import SIZE, C, MemorySource, T, make_source

TRAIN_VIEWS = ("train-0", "train-1")


def every_kind(tmp_path: Path) -> list[tuple[MemorySource, FeatureDataset]]:
    source = make_source(num_train=20, num_val=5)
    rows = labelled_rows(source, "train", TRAIN_VIEWS)
    without_views = labelled_rows(source, "train", None)
    return [
        (source, load_pooled(source, rows, tmp_path)),
        (source, open_spatial(source, rows, MapCache(0))),
        (source, load_frames(source, without_views, T, SamplingConfig(), tmp_path)),
    ]


def test_an_epoch_visits_every_clip_once(tmp_path: Path) -> None:
    for _, features in every_kind(tmp_path):
        draw = features.shuffled_order(seed=3, epoch=1)
        assert sorted(draw.clips) == list(range(20))
        found = list(batches(features, draw, 8, num_loaders=2))
        assert [len(batch.labels) for batch in found] == [8, 8, 4]
        assert torch.cat([batch.labels for batch in found]).tolist() == [clip % 3 for clip in draw.clips]


def test_seed_and_epoch_alone_decide_the_draw(tmp_path: Path) -> None:
    for _, features in every_kind(tmp_path):
        one, same = features.shuffled_order(1, 2), features.shuffled_order(1, 2)
        assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True) if a is not None)
        assert not np.array_equal(one.clips, features.shuffled_order(1, 3).clips)
        assert not np.array_equal(one.clips, features.shuffled_order(2, 2).clips)


def test_every_view_is_drawn(tmp_path: Path) -> None:
    _, features = every_kind(tmp_path)[0]
    counts = Counter(int(view) for epoch in range(20) for view in features.shuffled_order(0, epoch).views)
    assert set(counts) == {0, 1}
    assert min(counts.values()) > 150


def test_pooled_features_are_those_of_the_store(tmp_path: Path) -> None:
    source, features = every_kind(tmp_path)[0]
    draw = features.shuffled_order(0, 0)
    found = features.gather(draw)
    assert found.shape == (20, T, C, 1, 1)
    for place, (clip, view) in enumerate(zip(draw.clips, draw.views, strict=True)):
        expected = source.read_pooled(TRAIN_VIEWS[view], [clip])[0]
        np.testing.assert_array_equal(found[place, :, :, 0, 0].numpy(), expected)


def test_maps_are_those_of_the_store_in_their_order_and_layout(tmp_path: Path) -> None:
    source, features = every_kind(tmp_path)[1]
    draw = features.shuffled_order(0, 0)
    found = torch.cat([batch.features for batch in batches(features, draw, 8, num_loaders=3)])
    assert found.shape == (20, T, C, SIZE, SIZE)
    assert next(batches(features, draw, 8)).features.permute(0, 1, 3, 4, 2).is_contiguous()
    for place, (clip, view) in enumerate(zip(draw.clips, draw.views, strict=True)):
        expected = source.maps[TRAIN_VIEWS[view]][clip].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(found[place].numpy(), expected)


def test_a_flipped_view_brings_its_own_label(tmp_path: Path) -> None:
    source = make_source(num_train=6, num_val=3)
    source.labels["train-1"] = (source.labels["train-1"] + 1) % 3
    features = load_pooled(source, labelled_rows(source, "train", TRAIN_VIEWS), tmp_path)
    draw = features.shuffled_order(0, 0)
    assert features.batch(draw).labels.tolist() == [(c + v) % 3 for c, v in zip(draw.clips, draw.views, strict=True)]


@pytest.mark.parametrize("num_segments", [8, 16])
def test_stores_of_all_frames_serve_any_number_of_segments(tmp_path: Path, num_segments: int) -> None:
    source = make_source(num_train=9, num_val=3)
    rows = labelled_rows(source, "train", None)
    features = load_frames(source, rows, num_segments, SamplingConfig(), tmp_path)
    plain = features.gather(features.sequential_order())[..., 0, 0].numpy()
    for clip in range(9):
        frames = source.frames[clip]
        np.testing.assert_array_equal(plain[clip], frames[test_frame_indices(len(frames), num_segments)])
    draw = features.shuffled_order(4, 2)
    generator = np.random.default_rng([4, 2])
    assert draw.clips.tolist() == generator.permutation(9).tolist()
    found = features.gather(draw)[..., 0, 0].numpy()
    for place, clip in enumerate(draw.clips):
        drawn = drawn_frame_indices(len(source.frames[clip]), num_segments, generator)
        np.testing.assert_array_equal(found[place], source.frames[clip][drawn])


def test_the_floor_sampler_draws_as_the_published_code(tmp_path: Path) -> None:
    source = make_source(num_train=9, num_val=3)
    rows = labelled_rows(source, "train", None)
    features = load_frames(source, rows, 8, SamplingConfig(), tmp_path).drawn_by(SamplingConfig(sampler="floor"))
    starts = np.concatenate([[0], np.cumsum([len(frames) for frames in source.frames[:9]])])
    for epoch in range(30):
        draw = features.shuffled_order(0, epoch)
        for clip, frames in zip(draw.clips, draw.frames, strict=True):
            num_frames = len(source.frames[clip])
            assert frames.max() - starts[clip] < num_frames // 8 * 8


def test_reading_ahead_is_bounded_and_ends_with_its_reader() -> None:
    source = make_source(num_train=40, num_val=3)
    features = open_spatial(source, labelled_rows(source, "train", TRAIN_VIEWS), MapCache(0))
    stream = batches(features, features.shuffled_order(0, 0), 4, num_loaders=1)
    next(stream)
    # One batch is out and at most num_loaders + 1 are read ahead.
    assert len(source.reads) <= 4 * 3
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("features")]


def test_the_cache_stays_within_its_bytes() -> None:
    source = make_source(num_train=10, num_val=3)
    one = source.maps["test"][0].nbytes
    cache = MapCache(3 * one)
    features = open_spatial(source, labelled_rows(source, "train", ["test"]), cache)
    for _ in range(2):
        features.gather(features.sequential_order())
    assert len(source.reads) == 10 + 7  # three were kept


def test_an_error_while_reading_ahead_reaches_the_reader() -> None:
    source = make_source(num_train=10, num_val=3)
    source.maps["train-0"][4] = np.nan
    features = open_spatial(source, labelled_rows(source, "train", ["train-0"]), MapCache(0))
    with pytest.raises(PipelineError, match=r"Row 4 of the store .* are missing"):
        list(batches(features, features.sequential_order(), 2, num_loaders=2))


def test_a_pooled_row_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = make_source(num_train=10, num_val=3)
    source.maps["train-1"][7] = np.nan
    with pytest.raises(PipelineError, match=r"Row 7 of the store counts as done.*pipeline store verify"):
        load_pooled(source, labelled_rows(source, "train", TRAIN_VIEWS), tmp_path)


def test_features_larger_than_the_memory_are_memory_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    monkeypatch.setattr(module, "RAM_SHARE", 0.0)
    source = make_source(num_train=10, num_val=3)
    rows = labelled_rows(source, "train", TRAIN_VIEWS)
    mapped = load_pooled(source, rows, tmp_path)
    monkeypatch.undo()
    in_ram = load_pooled(source, rows, tmp_path)
    (message,) = caplog.messages
    assert "memory-mapped" in message
    assert torch.equal(mapped.gather(mapped.shuffled_order(0, 0)), in_ram.gather(in_ram.shuffled_order(0, 0)))
    assert not list(tmp_path.iterdir())


def test_a_split_without_labels_is_a_sentence() -> None:
    with pytest.raises(PipelineError, match=r"no labelled clip in split 'dev'.*splits: train, val"):
        labelled_rows(make_source(), "dev", ["test"])


def test_a_store_without_training_views_trains_on_the_test_view(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    clips = StoredClips(make_source(num_views=0))
    assert clips.views == ("test",)
    plan_requests(FitHeadSettings(store="s.zarr", out=tmp_path, head=("tsn",)), clips)
    assert "training uses the test view" in caplog.messages[0]


def test_fewer_views_take_the_first_ones(tmp_path: Path) -> None:
    data = CachedData(make_source(num_views=3), tmp_path, num_views=1)
    assert data.views == ("train-0",)
    assert data.of("pooled", named_recipe("cached")).train.num_views == 1


def test_clips_that_lack_a_view_leave_it_out_for_all() -> None:
    source = make_source(num_train=6, num_val=3)
    source.rows[2] = source.rows[2]._replace(views=("test", "train-0"))
    assert labelled_rows(source, "train", TRAIN_VIEWS).views == ("train-0",)


def test_failed_and_pending_clips_are_left_out() -> None:
    source = make_source(num_train=6, num_val=3, num_unlabelled=2)
    source.rows[0] = source.rows[0]._replace(status="failed")
    source.rows[1] = source.rows[1]._replace(status="pending")
    assert [clip.row for clip in labelled_rows(source, "train", ["test"]).clips] == [2, 3, 4, 5]


def test_channel_statistics_are_those_of_the_first_view(tmp_path: Path) -> None:
    source = make_source(num_train=20, num_val=5)
    rows = labelled_rows(source, "train", TRAIN_VIEWS)
    of_maps = source.maps["train-0"][:20].astype(np.float64)
    pooled = source.read_pooled("train-0", range(20)).astype(np.float64)
    for features, values, axes in (
        (open_spatial(source, rows, MapCache(0)), of_maps, (0, 1, 2, 3)),
        (load_pooled(source, rows, tmp_path), pooled, (0, 1)),
    ):
        mean, deviation = features.channel_statistics()
        np.testing.assert_allclose(mean, values.mean(axis=axes), atol=1e-6)
        np.testing.assert_allclose(deviation, values.std(axis=axes), rtol=1e-4)


def test_channel_statistics_are_computed_once_whatever_reads(tmp_path: Path) -> None:
    source = make_source(num_train=20, num_val=5)
    rows = labelled_rows(source, "train", TRAIN_VIEWS)
    features, others = (open_spatial(source, rows, MapCache(0)) for _ in range(2))
    first = features.channel_statistics(num_loaders=2)
    num_reads = len(source.reads)
    assert num_reads == 20
    assert features.channel_statistics() is first
    assert len(source.reads) == num_reads
    for one, other in zip(first, others.channel_statistics(), strict=True):
        assert torch.equal(one, other)


def test_channel_statistics_are_those_of_the_frames_that_the_sampler_takes(tmp_path: Path) -> None:
    source = make_source(num_train=9, num_val=3)
    of_all = load_frames(source, labelled_rows(source, "train", None), 40, SamplingConfig(), tmp_path)
    of_all.channel_statistics()
    features = of_all.drawn_by(SamplingConfig(short_clip="first"))
    taken = np.concatenate(
        [frames[test_frame_indices(len(frames), 40, "first")] for frames in source.frames[:9]]
    ).astype(np.float64)
    mean, deviation = features.channel_statistics()
    np.testing.assert_allclose(mean, taken.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(deviation, taken.std(axis=0), rtol=1e-4)
    assert not torch.equal(mean, of_all.channel_statistics()[0])

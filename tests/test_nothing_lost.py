"""What is finished stays: whatever is asked for wrongly, moved away, taken out of the manifest or damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import ClipError, PipelineError
from pipeline.manifest import Manifest, read_manifest, write_manifest
from pipeline.store import FeatureStore
from pipeline.store.record import read_record
from pipeline.store.verify import find_corruption
from pipeline.store_command.hdf5 import export_hdf5, import_hdf5
from pipeline.store_command.hdf5_file import sealed_hdf5
from pipeline.video.limits import ClipLimits
from tests.conftest import REPOSITORY
from tests.support.run_stages import store_verify
from tests.test_extraction import arrays_of, draw_clip, run, write_data
from tests.test_store_repair import damage


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_data(tmp_path / "clips", train=3, val=2)


@pytest.fixture
def location(manifest: Manifest, tmp_path: Path) -> Path:
    run(manifest, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def without(manifest: Manifest, clip_id: str) -> Manifest:
    path = manifest.path.with_name("less.csv")
    write_manifest(path, [clip for clip in manifest.clips if clip.clip_id != clip_id], manifest.classes)
    return read_manifest(path)


def files_of(location: Path) -> dict[str, bytes]:
    return {str(path.relative_to(location)): path.read_bytes() for path in location.rglob("*") if path.is_file()}


def records_of(location: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (location / "records").glob("*.json")}


def check_rows(location: Path) -> None:
    """Every row that a reader is offered holds features and a label."""
    store = FeatureStore.open(location)
    for view in store.views:
        rows = [clip.row for clip in store.clips(view=view)]
        assert np.isfinite(store.read_pooled(view, rows)).all()
        assert np.isfinite(store.read_spatial_batch(view, rows)).all()
        assert (store.labels_of(view, rows) >= 0).all()


def test_clips_that_are_not_there_any_more_keep_their_features(
    manifest: Manifest, location: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {**arrays_of(location), **records_of(location)}
    (tmp_path / "empty").mkdir()
    summary = run(read_manifest(manifest.path, tmp_path / "empty"), location)
    assert {**arrays_of(location), **records_of(location)} == before
    assert (summary.num_computed, summary.failed) == (0, ())
    assert "5 finished clips have no file any more" in caplog.text


def test_a_view_is_added_for_the_clips_that_are_there(
    manifest: Manifest, location: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.move(manifest.root / "c1", tmp_path / "c1")
    run(manifest, location, views=2)
    assert "1 finished clips have no file any more" in caplog.text
    assert FeatureStore.open(location).num_failed == 0
    assert [clip.clip_id for clip in FeatureStore.open(location).clips("train", "train-1")] == ["c0", "c2"]
    assert [clip.clip_id for clip in FeatureStore.open(location).clips("train", "train-0")] == ["c0", "c1", "c2"]
    check_rows(location)
    shutil.move(tmp_path / "c1", manifest.root / "c1")
    assert run(manifest, location, views=2).num_computed == 1
    run(manifest, tmp_path / "whole.zarr", views=2)
    assert arrays_of(location) == arrays_of(tmp_path / "whole.zarr")
    assert records_of(location) == records_of(tmp_path / "whole.zarr")


def test_a_clip_that_comes_back_gets_the_views_that_were_added(
    manifest: Manifest, location: Path, tmp_path: Path
) -> None:
    run(without(manifest, "c0"), location, views=2)
    assert run(manifest, location, views=2).num_computed == 1
    check_rows(location)
    run(manifest, tmp_path / "whole.zarr", views=2)
    assert arrays_of(location) == arrays_of(tmp_path / "whole.zarr")


def test_a_file_holds_just_the_views_that_each_clip_has(manifest: Manifest, location: Path, tmp_path: Path) -> None:
    run(without(manifest, "c0"), location, views=2)
    run(manifest, location, views=1)
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    check_rows(tmp_path / "again.zarr")
    again = FeatureStore.open(tmp_path / "again.zarr")
    assert [clip.views for clip in again.table()] == [clip.views for clip in FeatureStore.open(location).table()]
    assert run(manifest, tmp_path / "again.zarr", views=2).num_computed == 1


def test_a_file_of_a_store_that_is_not_finished_keeps_what_is_done(
    manifest: Manifest, location: Path, tmp_path: Path
) -> None:
    more = write_data(manifest.root, train=4, val=2)
    store = FeatureStore.open(location, "r+")
    (location / "records/000001.json").unlink()
    run(without(more, "c3"), location)
    store.reload()
    done = [clip.clip_id for clip in store.table() if clip.status == "done"]
    (location / "records/000000.json").unlink()
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    found = {clip.clip_id: clip.status for clip in FeatureStore.open(tmp_path / "again.zarr").table()}
    assert sorted(found.values()).count("done") == len(done) - 2
    check_rows(tmp_path / "again.zarr")


def test_every_frame_of_a_block_is_kept_while_one_clip_is_done_again(manifest: Manifest, tmp_path: Path) -> None:
    location = tmp_path / "f.zarr"
    run(manifest, location, frames="all", maps=("pooled",))
    before = FeatureStore.open(location)
    kept = before.read_frames(next(clip.row for clip in before.table() if clip.clip_id == "c0"))
    less = without(manifest, "c0")
    run(less, location, frames="all", maps=("pooled",))
    draw_clip(manifest.root / "c1", seed=99, num_frames=9)
    assert run(less, location, frames="all", maps=("pooled",)).num_computed == 1
    assert run(manifest, location, frames="all", maps=("pooled",)).num_computed == 0
    store = FeatureStore.open(location)
    rows = {clip.clip_id: clip for clip in store.table()}
    np.testing.assert_array_equal(store.read_frames(rows["c0"].row), kept)
    assert len(store.read_frames(rows["c1"].row)) == rows["c1"].num_frames == 9
    assert find_corruption(store) == []


def test_a_repair_needs_the_clips_before_it_forgets_a_block(manifest: Manifest, location: Path, tmp_path: Path) -> None:
    damage(location)
    before = {**arrays_of(location), **records_of(location)}
    shutil.move(manifest.root / "c0", tmp_path / "c0")
    with pytest.raises(PipelineError, match=r"1 clips of the damaged blocks .*'c0'.*Nothing was changed"):
        store_verify(store=location, repair=True, workers=0)
    shutil.move(tmp_path / "c0", manifest.root / "c0")
    with pytest.raises(PipelineError, match=r"no weight file nosuch\.pt"):
        store_verify(store=location, repair=True, workers=0, weights="nosuch.pt")
    assert {**arrays_of(location), **records_of(location)} == before
    store_verify(store=location, repair=True, workers=0)
    assert find_corruption(FeatureStore.open(location)) == []


def test_a_repair_does_without_clips_of_sound_blocks(manifest: Manifest, location: Path) -> None:
    damage(location)
    val = [clip for clip in FeatureStore.open(location).table() if clip.split == "val"]
    before = records_of(location)
    for clip in val:
        shutil.rmtree(manifest.root / clip.path)
    store_verify(store=location, repair=True, workers=0)
    assert records_of(location) == before


@pytest.mark.parametrize(
    "changes", [{"weights": "nosuch.pt"}, {"device": "banana"}, {"backbone": "nosuch"}, {"dtype": "int8"}]
)
def test_a_rebuild_that_cannot_be_takes_nothing_away(
    manifest: Manifest, location: Path, changes: dict[str, Any]
) -> None:
    before = {**arrays_of(location), **records_of(location)}
    with pytest.raises(PipelineError):
        run(manifest, location, rebuild=True, **changes)
    assert {**arrays_of(location), **records_of(location)} == before
    with pytest.raises(PipelineError):
        run(manifest, location.with_name("new.zarr"), **changes)
    assert not (location.with_name("new.zarr") / "zarr.json").exists()


def test_a_store_is_not_made_among_other_files(manifest: Manifest, location: Path) -> None:
    with pytest.raises(PipelineError, match=r"not empty .*\(it contains 'c0'\)"):
        run(manifest, manifest.root)
    (location / "notes.txt").write_text("mine")
    (location / "own").mkdir()
    run(manifest, location, rebuild=True)
    assert (location / "notes.txt").read_text() == "mine"
    assert (location / "own").is_dir()
    with pytest.raises(PipelineError, match="no name"):
        run(manifest, Path(" "))


def test_folders_with_the_names_of_a_stores_are_strangers_too(manifest: Manifest, tmp_path: Path) -> None:
    for names in (["frames"], ["clips.csv", "frames"], ["records", "frames"]):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        (folder / "frames").mkdir()
        (folder / "frames" / "0.jpg").write_bytes(b"mine")
        if "records" in names:
            (folder / "records").mkdir()
            (folder / "records" / "clips.json").write_text("[]")
        if "clips.csv" in names:
            (folder / "clips.csv").write_text("clip_id,path,label,split\n")
        for rebuild in (False, True):
            with pytest.raises(PipelineError, match="not empty and not a feature store"):
                run(manifest, folder, rebuild=rebuild)
        assert (folder / "frames" / "0.jpg").read_bytes() == b"mine"


def unlink_attributes(location: Path) -> None:
    for key in ("records/attributes.json", "zarr.json"):
        (location / key).unlink()


def test_what_a_killed_rebuild_left_is_not_taken_for_done(manifest: Manifest, location: Path, tmp_path: Path) -> None:
    unlink_attributes(location)  # the first objects that go
    assert run(manifest, location, num_segments=3).num_computed == 5
    run(manifest, tmp_path / "fresh.zarr", num_segments=3)
    assert arrays_of(location) == arrays_of(tmp_path / "fresh.zarr")
    assert records_of(location) == records_of(tmp_path / "fresh.zarr")
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    unlink_attributes(location)
    import_hdf5(tmp_path / "s.h5", str(location))
    assert arrays_of(location) == arrays_of(tmp_path / "fresh.zarr")


def test_too_many_failed_clips_stay_too_many(manifest: Manifest, tmp_path: Path) -> None:
    for name in ("c0", "c4"):
        shutil.rmtree(manifest.root / name)
    for _ in range(4):
        with pytest.raises(PipelineError, match="more than --max-failed 0"):
            run(manifest, tmp_path / "s.zarr", max_failed=0)
    assert len(run(manifest, tmp_path / "s.zarr", max_failed=2).failed) == 2


def test_a_damaged_record_is_made_again_by_the_next_extraction(manifest: Manifest, location: Path) -> None:
    before = {**arrays_of(location), **records_of(location)}
    record = location / "records/000000.json"
    record.write_bytes(record.read_bytes()[:40])
    with pytest.raises(PipelineError, match=r"records/000000\.json of the store .* is damaged"):
        FeatureStore.open(location)
    assert run(manifest, location).num_computed == 2
    assert {**arrays_of(location), **records_of(location)} == before


def test_what_failed_without_being_read_is_tried_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(location: str, limits: ClipLimits) -> str:
        raise ClipError("unreadable", f"{location} cannot be read: Permission denied.")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.extract.clip_steps.digest_of", refused)
        assert len(run(manifest, tmp_path / "s.zarr").failed) == 5
    assert run(manifest, tmp_path / "s.zarr").failed == ()


def test_a_folder_within_a_folder_of_frames_is_passed_over(manifest: Manifest, tmp_path: Path) -> None:
    (manifest.root / "c0" / "thumbs").mkdir()
    assert run(manifest, tmp_path / "s.zarr").failed == ()
    (manifest.root / "c0" / "thumbs" / "1.jpg").write_bytes(b"x")
    assert run(manifest, tmp_path / "s.zarr").num_computed == 0


def test_verify_tells_a_changed_file_from_other_features(
    manifest: Manifest, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip in manifest.clips:
        if clip.clip_id == "c0":
            draw_clip(manifest.root / clip.path, seed=50, num_frames=5)
        else:
            shutil.rmtree(manifest.root / clip.path)
    with pytest.raises(PipelineError, match=r"The files of c0 have changed"):
        store_verify(store=location)
    output = capsys.readouterr().out
    assert "whose files are missing" in output
    assert "5 clips: 5 done, 0 failed, 0 pending" in output


def test_a_failed_import_leaves_nothing(location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")

    def full(*_: Any) -> None:
        raise PipelineError("No room")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.store_command.hdf5.write_block", full)
        with pytest.raises(PipelineError, match="No room"):
            import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr"))
    assert arrays_of(tmp_path / "again.zarr") == arrays_of(location)


@pytest.mark.parametrize(
    ("name", "dtype"), [("views/test/clip", np.dtype(np.int64)), ("clips/clip_id", h5py.string_dtype("utf-8"))]
)
def test_values_that_an_export_does_not_hold_take_no_memory(
    location: Path, tmp_path: Path, name: str, dtype: np.dtype[Any]
) -> None:
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5") as found, sealed_hdf5(tmp_path / "strange.h5") as file:
        file.attrs.update(found.attrs)
        for group in found:
            found.copy(group, file)
        del file[name]
        file.create_dataset(name, (1 << 40,), dtype)  # takes no space in the file, and 8 TiB in memory
    with pytest.raises(PipelineError, match=rf"/{name} has 1,099,511,627,776 values, but the file does not hold them"):
        import_hdf5(tmp_path / "strange.h5", str(tmp_path / "again.zarr"))
    assert import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr")) == 5


def test_an_import_that_was_complete_can_be_run_again(location: Path, tmp_path: Path, manifest: Manifest) -> None:
    export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    assert import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr")) == 5
    before = files_of(tmp_path / "again.zarr")
    assert import_hdf5(tmp_path / "s.h5", str(tmp_path / "again.zarr")) == 5
    assert files_of(tmp_path / "again.zarr") == before
    # With one more view it is another store.
    run(manifest, tmp_path / "other.zarr", views=2)
    export_hdf5(FeatureStore.open(tmp_path / "other.zarr"), tmp_path / "other.h5")
    with pytest.raises(PipelineError, match=r"Another store .* Import into another --store, or delete it"):
        import_hdf5(tmp_path / "other.h5", str(tmp_path / "again.zarr"))


def test_an_export_needs_room_and_no_clip(
    manifest: Manifest, location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(10))
        with pytest.raises(PipelineError, match="has only 0 MB of free space"):
            export_hdf5(FeatureStore.open(location), tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()
    for clip in manifest.clips:
        shutil.rmtree(manifest.root / clip.path)
    run(manifest, tmp_path / "failed.zarr")
    assert export_hdf5(FeatureStore.open(tmp_path / "failed.zarr"), tmp_path / "failed.h5") == 5


@pytest.mark.parametrize("key", ["views/zarr.json", "views/test/zarr.json", "views/test/pooled/zarr.json"])
def test_damaged_metadata_is_found_named_and_made_again(manifest: Manifest, location: Path, key: str) -> None:
    whole = (location / key).read_bytes()
    (location / key).write_bytes(whole[:20])
    assert [item.key for item in find_corruption(FeatureStore.open(location))] == [key]
    store_verify(store=location, repair=True, workers=0)
    assert find_corruption(FeatureStore.open(location)) == []
    (location / key).write_bytes(whole[:20])
    run(write_data(manifest.root, train=3, val=4), location)
    assert find_corruption(FeatureStore.open(location)) == []


@pytest.mark.parametrize("keys", [("zarr.json", "records/attributes.json"), ("records/clips.json",)])
def test_a_store_without_its_root_or_table_is_a_sentence_and_can_be_rebuilt(
    manifest: Manifest, location: Path, keys: tuple[str, ...]
) -> None:
    for key in keys:
        (location / key).write_bytes(b'{"zarr')
    with pytest.raises(PipelineError, match=rf"{location}.* damaged.*(--rebuild|extract. again)"):
        FeatureStore.open(location)
    assert run(manifest, location, rebuild=True).num_computed == 5


def test_places_that_cannot_be_are_sentences(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in ("file", "file/x.zarr", "foo://x"):
        command = ["extract", "--manifest", str(manifest.path), "--root", str(manifest.root), "--weights", "random"]
        result = CliRunner().invoke(cli, [*command, "--store", str(tmp_path / store) if "://" not in store else store])
        assert result.exit_code == 1, store
        assert "\nError: " in "\n" + result.output, result.output
        assert isinstance(result.exception, SystemExit), result.exception


def test_records_of_the_first_stores_are_read(location: Path) -> None:
    """They did not say which clips lack a view: none did."""
    whole = (location / "records/000000.json").read_bytes()
    body = whole.partition(b"\n")[2].removeprefix(b'"record": ').removesuffix(b"}\n")
    first = body.replace(b', "lacking": {}', b"")
    assert len(first) < len(body)
    digest = hashlib.sha256(first).hexdigest().encode()
    assert read_record(b'{"sha256": "%s",\n"record": %s}\n' % (digest, first), "r") == read_record(whole, "r")


def test_two_copies_of_a_study_have_stores_of_the_same_bytes(tmp_path: Path, manifest: Manifest) -> None:
    """What DVC hashes holds no absolute path and no time: a clone in another folder has a clean `git status`."""
    stores = []
    for name in ("here", "elsewhere/deeper"):
        study = tmp_path / name
        shutil.copytree(manifest.path.parent, study)  # new times of change
        copied = read_manifest(study / manifest.path.name)
        broken = copied.locate(copied.clips[0])
        shutil.rmtree(broken) if Path(broken).is_dir() else Path(broken).unlink()
        run(copied, study / "cache" / "s.zarr")
        stores.append(files_of(study / "cache" / "s.zarr"))
    kept = [{key: data for key, data in store.items() if not key.startswith("records/.")} for store in stores]
    assert kept[0].keys() == kept[1].keys()
    assert [key for key in kept[0] if kept[0][key] != kept[1][key]] == []
    for store in kept:
        assert not any(str(tmp_path).encode() in data for data in store.values())
    ignored = (REPOSITORY / ".dvcignore").read_text()
    hidden = {key.split("/")[1] for key in stores[0] if "/." in key}
    assert hidden <= {".local", ".lock", ".workers"}
    assert all(f"**/*.zarr/records/{name}\n" in ignored for name in (".local", ".lock", ".workers"))


def test_a_touched_clip_is_read_once_and_not_extracted_again(tmp_path: Path, manifest: Manifest) -> None:
    study = tmp_path / "study"
    shutil.copytree(manifest.path.parent, study)
    copied = read_manifest(study / manifest.path.name)
    location = study / "s.zarr"
    run(copied, location)
    before = files_of(location)
    shutil.rmtree(location / "records/.local")  # as after a clone or `dvc pull`
    assert run(copied, location).num_computed == 0
    after = files_of(location)
    assert after == before  # the times are there again


def test_the_manifest_is_found_from_any_folder(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "s.zarr")
    store = FeatureStore.open(str(tmp_path / "s.zarr"))
    assert not os.path.isabs(store.attributes.provenance["manifest"])
    monkeypatch.chdir("/")
    assert store.provenance["manifest"] == str(manifest.path.resolve())
    assert store.provenance["weights"] == "random"
    assert not any("+" in text for text in store.provenance["versions"].values())

"""The time that `fit-head` announces before it fits, from a measured step of each head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.calibration import Calibration, OtherPrograms
from pipeline.fit_head import estimate, fit_all
from pipeline.fit_head.compute import HeadSizes
from pipeline.fit_head.estimate import estimate_text, seconds_of_fit
from pipeline.fit_head.run import HeadRun
from pipeline.heads import HEADS
from pipeline.recipe import named_recipe
from pipeline.runtime import Runtime
from tests.support.fitted_models import fitted_in
from tests.support.run_stages import fit_head

SIZES = HeadSizes(in_channels=16, num_segments=4, num_classes=3, map_size=3)


class FixedCalibration(Calibration):
    """A calibration that measures half a second for every step."""

    def measure(self, what: str, sizes: Any, candidates: Any, clock: Any, **options: Any) -> dict[str, float]:
        for prepare in candidates.values():
            prepare()()  # the step must run
        return dict.fromkeys(candidates, 0.5)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_fit_takes_its_steps_and_a_third_of_them_for_scoring(head: str, tmp_path: Path) -> None:
    recipe = named_recipe("cached").with_overrides(epochs=10, batch_size=8)
    sizes = SIZES if HEADS[head].reads == "spatial" else replace(SIZES, map_size=1)
    run = HeadRun(head, recipe, (0,), Runtime(torch.device("cpu"), "float32"))
    seconds = seconds_of_fit(run, 80, 24, sizes, FixedCalibration(tmp_path / "calibration.json"))
    # Ten epochs of 80 / 8 steps, and of 24 / 8 forward passes at a third of a step.
    assert seconds == pytest.approx(0 if head == "knn" else 10 * (10 + 1) * 0.5)


def test_heads_side_by_side_share_the_time_and_the_others_follow() -> None:
    text = estimate_text({"gru": 40.0, "trn": 100.0}, {"convlstm": 600.0}, slots=2)
    assert text.endswith(": gru 20 s, trn 50 s, convlstm 10 min 00 s; all 11 min 10 s.")


def test_long_fits_announce_their_time_and_short_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = fitted_in(tmp_path / "fitted", heads=("tsn",))
    options: dict[str, Any] = {
        "store": fitted.store,
        "head": ("mlp", "fcn2d"),
        "overrides": {"epochs": 2},
        "precision": "float32",
        "jobs": 1,
        "calibration": tmp_path / "calibration.json",
    }
    fit_head(out=tmp_path / "short", **options)
    assert "Estimated time" not in caplog.text
    # Three of seven training clips select; the two fits train four in each of two epochs.
    monkeypatch.setattr(fit_all, "MIN_CLIPS", 16)
    # Tests run in parallel, and a measurement of two threads beside other programs is not kept.
    monkeypatch.setattr(OtherPrograms, "load", lambda self: 0.0)
    fit_head(out=tmp_path / "long", **options)
    (line,) = [record.getMessage() for record in caplog.records if "Estimated time" in record.getMessage()]
    assert "mlp " in line
    assert "fcn2d " in line
    known = json.loads((tmp_path / "calibration.json").read_text())
    assert sum('"training of head' in key for key in known) == 2
    # A second call reads the measured steps.
    monkeypatch.setattr(estimate, "training_step", lambda *_, **__: pytest.fail("measured again"))
    fit_head(out=tmp_path / "again", **options)

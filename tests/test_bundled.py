"""Training of the bundled weights on drawn stills, and the weights that the repository carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.backbones.backbone import pooled
from pipeline.backbones.squeezenet import SqueezeNet
from pipeline.backbones.weights import BUNDLED_FOLDER, load_weights
from pipeline.bundled.command import train_bundled_weights
from pipeline.bundled.pretext import QUESTIONS, Pretext
from pipeline.bundled.still_pools import varied_batch
from pipeline.bundled.stills import TARGET_NAMES, Stills, draw_stills, random_pose
from pipeline.bundled.train import BundledSettings, Phase, train_bundled
from pipeline.errors import PipelineError
from pipeline.prepare.gestures.hands import paint_hand, random_look
from pipeline.prepare.gestures.seeding import generator_for
from pipeline.settings.bundled import TrainBundledSettings

TINY = BundledSettings(
    phases=(Phase(48, 48, 2, 1), Phase(48, 64, 1, 1)),
    pool_images=16,
    drawing_images=8,
    batch_size=8,
    warm_up_steps=2,
)


def test_interrupted_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    whole = train_bundled(tmp_path / "whole.safetensors", tmp_path / "whole.pt", TINY)
    assert whole.is_finished
    assert whole.num_steps == 6
    out, checkpoint = tmp_path / "parts.safetensors", tmp_path / "parts.pt"
    # Stopped inside the second pool.
    part = train_bundled(out, checkpoint, TINY, stop_after_steps=3)
    assert part.steps_done == 3
    assert not part.is_finished
    assert out.read_bytes() != whole.out.read_bytes()
    assert train_bundled(out, checkpoint, TINY).is_finished
    parts, wanted = load_file(out), load_file(whole.out)
    assert all(torch.equal(parts[name], tensor) for name, tensor in wanted.items())
    with pytest.raises(PipelineError, match="other settings"):
        train_bundled(out, checkpoint, replace(TINY, seed=1))

    backbone = SqueezeNet()
    backbone.initialise(0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    load_weights(backbone, str(out))
    assert set(parts) == set(before)
    changed = [name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name].half())]
    assert len(changed) > len(before) / 2
    assert all(tensor.dtype == torch.float16 for tensor in parts.values())


def test_time_limit_stops_at_a_checkpoint(tmp_path: Path) -> None:
    summary = train_bundled(tmp_path / "w.safetensors", tmp_path / "w.pt", TINY, minutes=0.0)
    assert summary.steps_done == 1
    assert (tmp_path / "w.pt").is_file()
    assert set(summary.errors) == {question.name for question in QUESTIONS}


def test_stage_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.bundled.command.BundledSettings", lambda seed: replace(TINY, seed=seed))
    threads = torch.get_num_threads()
    train_bundled_weights(
        TrainBundledSettings(out=tmp_path / "w.safetensors", checkpoint=tmp_path / "w.pt", minutes=0.0, threads=2)
    )
    assert torch.get_num_threads() == threads
    assert "1 of 6 steps" in (printed := capsys.readouterr().out)
    assert f"resumes from {tmp_path / 'w.pt'}" in printed


def test_pools_must_divide_into_batches() -> None:
    with pytest.raises(PipelineError, match="pool_images"):
        BundledSettings(pool_images=100)


@pytest.mark.parametrize("phase", [Phase(48, 32, 1, 1), Phase(50, 48, 1, 1)])
def test_phases_without_a_map_or_a_mask_are_refused(phase: Phase) -> None:
    with pytest.raises(PipelineError, match="input_size"):
        BundledSettings(phases=(phase,))


def test_diverged_training_stops_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="diverged"):
        train_bundled(tmp_path / "w.safetensors", tmp_path / "w.pt", replace(TINY, peak_learning_rate=1e20))


def test_losses_fall_on_a_few_images() -> None:
    stills = draw_stills(0, 0, 16, 48)
    torch.manual_seed(0)
    backbone, pretext = SqueezeNet(), Pretext(512)
    backbone.initialise(0)
    optimiser = torch.optim.AdamW([*backbone.parameters(), *pretext.parameters()], lr=1e-3)
    sums = []
    for _ in range(25):
        images, targets, masks = varied_batch(stills, np.arange(16), generator_for("fixed"), 48, "cpu")
        losses = pretext(backbone.forward_features(backbone.normalise(images)), targets, masks)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        sums.append(float(total.detach()))
    assert all(bool(parameter.grad is not None) for parameter in pretext.parameters())
    assert sums[-1] < 0.9 * sums[0]


def test_mirrored_images_have_mirrored_targets() -> None:
    """A batch's images, drawn again from its targets alone, cover what its masks say."""
    generator = generator_for("mirror")
    look, poses = random_look(generator), [random_pose(generator) for _ in range(12)]
    size = 64
    targets = np.array(
        [(1, p.x, p.y, np.log(p.size), p.angle, p.openness, p.spread, look.side) for p in poses], np.float32
    )
    masks = [paint_hand(np.zeros((size, size, 3), np.uint8), look, pose) for pose in poses]
    stills = Stills(np.zeros((12, size, size, 3), np.uint8), targets, np.array(masks))
    _, seen, covers = varied_batch(stills, np.arange(12), generator_for("flips"), size, "cpu")
    assert 0 < (seen[:, 1].numpy() != targets[:, 1]).sum() < 12
    for row, cover in zip(seen.numpy(), covers.numpy(), strict=True):
        values = dict(zip(TARGET_NAMES, row.tolist(), strict=True))
        pose = replace(poses[0], **{name: values[name] for name in ("x", "y", "angle", "openness", "spread")})
        pose = replace(pose, size=float(np.exp(values["log_size"])))
        again = paint_hand(np.zeros((size, size, 3), np.uint8), replace(look, side=int(values["side"])), pose)
        assert np.abs(again / 255 - cover[0]).mean() < 0.02


def test_read_out_is_in_the_units_of_the_targets() -> None:
    pretext = Pretext(4)
    with torch.no_grad():
        pretext.values.weight.zero_()
        pretext.values.bias.zero_()
    middles = torch.tensor([(question.low + question.high) / 2 for question in QUESTIONS])
    assert torch.allclose(pretext.read(torch.ones(2, 4, 3, 3)), middles.expand(2, -1))


def test_images_without_a_hand_ask_nothing_about_it() -> None:
    pretext = Pretext(4)
    maps = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    losses = pretext(maps, torch.zeros(3, 8), torch.zeros(3, 1, 8, 8))
    assert {name for name, loss in losses.items() if float(loss.detach()) != 0} == {"presence", "cover"}


@pytest.fixture(scope="module")
def bundled() -> SqueezeNet:
    backbone = SqueezeNet()
    record = load_weights(backbone, "bundled")
    assert record.name == "bundled"
    return backbone.eval()


def test_bundled_file_is_small_finite_and_says_how_it_was_made() -> None:
    path = BUNDLED_FOLDER / "squeezenet.safetensors"
    assert path.stat().st_size < 1_500_000
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["backbone"] == "squeezenet"
    assert "train-bundled" in metadata["made_by"]
    done, _, total = metadata["steps"].split()
    assert 0 < int(done) <= int(total)
    tensors = load_file(path)
    assert all(tensor.dtype == torch.float16 and bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_bundled_features_tell_where_a_hand_is(bundled: SqueezeNet) -> None:
    """A linear fit on pooled features of other stills explains most of where the hand is; activations fit float16."""
    stills = draw_stills(12345, 0, 180, 112)
    present = stills.targets[:, 0] == 1
    with torch.inference_mode():
        images = torch.from_numpy(stills.images[present]).permute(0, 3, 1, 2)
        large = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear", align_corners=False)
        maps = torch.cat([bundled(part) for part in large.split(16)])
    assert float(maps.max()) < 1000
    features = pooled(maps).numpy()
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    wanted = stills.targets[present][:, 1:3]
    fit, judged = slice(0, 120), slice(120, None)
    kernel = features[fit] @ features[fit].T + 30.0 * np.eye(120)
    weights = features[fit].T @ np.linalg.solve(kernel, wanted[fit] - wanted[fit].mean(0))
    errors = features[judged] @ weights + wanted[fit].mean(0) - wanted[judged]
    explained = 1 - errors.var(0) / wanted[judged].var(0)
    assert (explained > 0.5).all()

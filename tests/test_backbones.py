"""Backbones: the declared contract, equality with independent implementations, normalisation, calibration."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbones import BACKBONES, Preprocessing, backbone_contract, build_backbone, calibrate_batch_norm, pooled
from pipeline.backbones.squeezenet import Fire
from pipeline.backbones.torchvision_import import MISSING_OPERATORS_REASON, torchvision
from pipeline.errors import PipelineError, ShapeError
from pipeline.registry import BACKBONE_NAMES

NAMES = (*BACKBONE_NAMES, "torchvision:resnet18")


def frames(num_frames: int = 2, size: int = 224, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(values).permute(0, 3, 1, 2)  # channels_last storage, as the views give it


def test_names_equal_the_torch_free_list() -> None:
    assert tuple(BACKBONES) == BACKBONE_NAMES
    assert all(name == entry.name for name, entry in BACKBONES.items())


@pytest.mark.parametrize("name", NAMES)
def test_contract_holds(name: str) -> None:
    backbone, record = build_backbone(name, "random", seed=3)
    contract = backbone_contract(name)
    assert (backbone.name, record.name, record.note) == (name, "random", "seed 3")
    assert (backbone.channels, backbone.map_size, backbone.preprocessing) == contract[:3]
    batch = frames(size=contract.preprocessing.input_size)
    maps = backbone(batch)
    assert maps.shape == (2, contract.channels, contract.map_size, contract.map_size)
    assert maps.dtype == torch.float32
    assert bool(torch.isfinite(maps).all())
    assert 0 < float((maps > 0).float().mean()) < 1
    assert not backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    maps.mean().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None] == []
    # A frame's maps do not depend on its neighbours or on the memory format.
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch[:1].contiguous()), maps[:1], rtol=1e-4, atol=1e-4)


def test_contracts_are_those_of_the_paper() -> None:
    sizes = {name: backbone_contract(name)[:2] for name in NAMES}
    assert sizes == {
        "squeezenet": (512, 13),
        "squeezenet_bypass": (512, 13),
        "bninception": (1024, 7),
        "torchvision:resnet18": (512, 7),
    }
    assert {name: backbone_contract(name).num_norms for name in NAMES} == {
        "squeezenet": 0,
        "squeezenet_bypass": 0,
        "bninception": 69,  # one behind each of its 69 convolutions
        "torchvision:resnet18": 20,  # one behind each of its 17 convolutions and 3 shortcuts
    }
    assert backbone_contract("bninception").preprocessing == Preprocessing("BGR", 1.0, (104, 117, 128), (1, 1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_survives_json(name: str) -> None:
    preprocessing = backbone_contract(name).preprocessing
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.as_dict()))) == preprocessing


def test_preprocessing_refuses_what_cannot_be() -> None:
    values = backbone_contract("squeezenet").preprocessing.as_dict()
    for wrong in ({"channel_order": "GBR"}, {"std": [1, 0, 1]}, {"mean": [1.0]}, {"crop_fraction": 0}):
        with pytest.raises(PipelineError):
            Preprocessing.from_dict({**values, **wrong})
    with pytest.raises(PipelineError, match="has the fields"):
        Preprocessing.from_dict({"scale": 1.0})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalises_inside_and_exactly(name: str, dtype: torch.dtype) -> None:
    backbone, _ = build_backbone(name, "random")
    rule = backbone.preprocessing
    batch = frames(size=8)
    pixels = batch.numpy().astype(np.float64)
    if rule.channel_order == "BGR":
        pixels = pixels[:, ::-1]
    mean, std = np.reshape(rule.mean, (1, 3, 1, 1)), np.reshape(rule.std, (1, 3, 1, 1))
    expected = torch.from_numpy((pixels * rule.scale - mean) / std)
    backbone.to(dtype)
    found = backbone.normalise(batch)
    assert found.dtype == dtype
    # In bfloat16 (8 binary digits) only the result is rounded, not the constants.
    error = 2**-8 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.double(), expected, rtol=error, atol=1e-6)
    assert not any("pixel" in key for key in backbone.state_dict())


def test_autocast_computes_in_bfloat16() -> None:
    backbone, _ = build_backbone("squeezenet", "random")
    with torch.no_grad():
        exact = backbone(frames())
        with torch.autocast("cpu", torch.bfloat16):
            rounded = backbone(frames())
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 224, 224), torch.zeros(3, 224, 224, dtype=torch.uint8), frames().permute(0, 2, 3, 1)]
)
def test_refuses_other_frames(wrong: torch.Tensor) -> None:
    backbone, _ = build_backbone("squeezenet", "random")
    with pytest.raises(ShapeError, match=r"uint8 with the axes \(N, 3, H, W\)"):
        backbone(wrong)


def test_pooled_sums_in_float32() -> None:
    maps = torch.rand(2, 512, 13, 13, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16) * 100
    expected = maps.double().numpy().mean(axis=(2, 3))
    found = pooled(maps)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "suggestion"), [("squeezenett", "squeezenet"), ("torchvision:resnet19", "resnet18")])
def test_unknown_backbone_is_suggested(name: str, suggestion: str) -> None:
    with pytest.raises(PipelineError, match=f"Did you mean '{suggestion}'"):
        build_backbone(name, "random")


def test_squeezenet_equals_torchvision() -> None:
    backbone, _ = build_backbone("squeezenet", "random", seed=1)
    reference = torchvision.models.squeezenet1_1(weights=None).eval()
    missing, unexpected = reference.load_state_dict(backbone.state_dict(), strict=False)
    assert missing == ["classifier.1.weight", "classifier.1.bias"]
    assert unexpected == []
    with torch.no_grad():
        expected = reference.features(backbone.normalise(frames()))
        torch.testing.assert_close(backbone(frames()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.shared
def test_squeezenet_equals_published_outputs(shared: Path) -> None:
    path = shared / "weights" / "squeezenet1_1_imagenet.pth"
    backbone, _ = build_backbone("squeezenet", str(path))
    classifier = torch.load(path, weights_only=True)
    pairs = np.load(shared / "weights" / "squeezenet1_1_ref_io.npz")
    for index in (0, 1):
        with torch.no_grad():
            maps = backbone.forward_features(torch.from_numpy(pairs[f"input_{index}"]))
            class_maps = F.conv2d(maps, classifier["classifier.1.weight"], classifier["classifier.1.bias"])
            scores = torch.relu(class_maps).mean((2, 3))
        np.testing.assert_allclose(scores.numpy(), pairs[f"output_{index}"], rtol=0, atol=2e-4)


def test_bypass_has_the_parameters_of_squeezenet_and_its_own_sums() -> None:
    plain, _ = build_backbone("squeezenet", "random")
    bypass, _ = build_backbone("squeezenet_bypass", "random")
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in bypass.state_dict().items()
    }
    # Round fire modules 3, 5, 7 and 9, worked out by hand from the plain network's layers.
    with torch.no_grad():
        outputs = plain.normalise(frames())
        fire = 1
        for layer in plain.features:
            inputs, outputs = outputs, layer(outputs)
            if isinstance(layer, Fire):
                fire += 1
                if fire in (3, 5, 7, 9):
                    outputs = outputs + inputs
        assert fire == 9
        torch.testing.assert_close(bypass(frames()), outputs)


def test_bninception_equals_the_port() -> None:
    import pretrainedmodels

    reference = pretrainedmodels.bninception(num_classes=10, pretrained=None).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in reference.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias", "_bn.weight")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3 + float(name.endswith("_bn.weight")))
    backbone, _ = build_backbone("bninception", "random")
    weights = {key: value for key, value in reference.state_dict().items() if not key.startswith("last_linear")}
    backbone.load_state_dict(weights, strict=True)
    blue_first = frames().flip(1).float() - torch.tensor([104.0, 117.0, 128.0]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(backbone(frames()), reference.features(blue_first), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "classifier_parameters", "total"),
    [
        ("squeezenet", 722_496, 512 * 1000 + 1000, 1_235_496),  # "1.24 M"
        ("bninception", 10_270_240, 1024 * 1000 + 1000, 11_295_240),  # "11.30 M"
    ],
)
def test_parameters_are_those_of_the_paper(name: str, parameters: int, classifier_parameters: int, total: int) -> None:
    backbone, _ = build_backbone(name, "random")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert parameters + classifier_parameters == total


def reference_features(name: str) -> nn.Module:
    """The same network by other hands, without its classifier."""
    if name == "squeezenet":
        features: nn.Module = torchvision.models.squeezenet1_1(weights=None).features
        return features
    import pretrainedmodels

    network = pretrainedmodels.bninception(num_classes=1, pretrained=None)
    network.global_pool, network.last_linear = nn.AdaptiveAvgPool2d(1), nn.Identity()
    return network


# The paper says 338 and 1894 MFLOPs; with the classifiers these are 349,151,936 and 2,032,600,064 (docs/backbones.md).
@pytest.mark.parametrize(("name", "macs"), [("squeezenet", 262_623_936), ("bninception", 2_031_576_064)])
def test_multiply_accumulates(name: str, macs: int) -> None:
    backbone, _ = build_backbone(name, "random")
    with FlopCounterMode(display=False) as ours, torch.no_grad():
        backbone(frames(1))
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        reference_features(name).eval()(torch.zeros(1, 3, 224, 224))
    assert ours.get_total_flops() == theirs.get_total_flops() == 2 * macs


def test_multiply_accumulates_of_squeezenet_by_hand() -> None:
    # (maps' side, channels in, squeezed, expanded by each of the two convolutions)
    fires = [
        *((55, 64, 16, 64), (55, 128, 16, 64), (27, 128, 32, 128), (27, 256, 32, 128)),
        *((13, 256, 48, 192), (13, 384, 48, 192), (13, 384, 64, 256), (13, 512, 64, 256)),
    ]
    first = 111 * 111 * 3 * 3 * 3 * 64
    rest = sum(side**2 * squeezed * (inputs + (1 + 9) * expanded) for side, inputs, squeezed, expanded in fires)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build_backbone("squeezenet", "random")[0](frames(1))
    assert counter.get_total_flops() == 2 * (first + rest)


def test_random_features_are_of_order_one() -> None:
    for name in BACKBONE_NAMES:
        backbone, _ = build_backbone(name, "random")
        with torch.no_grad():
            maps = backbone(frames())
        assert 0.1 < float(maps.std()) < 30
        # Frames differ in what comes out, by more than rounding.
        assert float((pooled(maps)[0] - pooled(maps)[1]).abs().max()) > 1e-3


def test_calibration_sets_the_statistics_of_the_frames() -> None:
    backbone, _ = build_backbone("bninception", "random")
    backbone.train()
    batch = frames(4)
    assert calibrate_batch_norm(backbone, batch) == 69
    assert all(module.training for module in backbone.modules())
    assert all(norm.momentum == 0.1 for norm in backbone.modules() if isinstance(norm, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    norm = backbone.get_submodule("inception_3a_3x3_bn")
    norm.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    backbone.eval()
    with torch.no_grad():
        backbone(batch)
    # In training mode a norm divides by the biased deviation, in eval mode by the unbiased one: equal to 1 in 3136.
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(64), rtol=0, atol=5e-3)
    torch.testing.assert_close(seen[0].var((0, 2, 3)), torch.ones(64), rtol=5e-3, atol=0)
    with pytest.raises(PipelineError, match="at least 2 frames"):
        calibrate_batch_norm(backbone, batch[:1])


def test_torchvision_classifiers_end_before_their_classifier() -> None:
    backbone, _ = build_backbone("torchvision:resnet18", "random", seed=0)
    reference = torchvision.models.resnet18(weights=None).eval()
    tensors = {**backbone.weight_tensors(), "fc.weight": torch.eye(512), "fc.bias": torch.zeros(512)}
    reference.fc = nn.Linear(512, 512)
    reference.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(pooled(backbone(frames())), reference(backbone.normalise(frames())))
    # The classifier of this one is a convolution: its class scores are a map too, and must not be taken for features.
    assert backbone_contract("torchvision:squeezenet1_1")[:2] == (512, 13)


def test_torchvision_classifier_without_a_map_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"no feature map: its scores come from encoder\.ln.*\(1, 197, 768\)"):
        backbone_contract("torchvision:vit_b_16")


def test_operators_are_declared_only_where_loading_failed() -> None:
    declared = torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU")
    assert bool(MISSING_OPERATORS_REASON) != declared


def test_the_paper_backbones_do_without_torchvision() -> None:
    program = (
        "import sys; from pipeline.backbones import build_backbone; build_backbone('squeezenet', 'random');"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", [*NAMES, "torchvision:mobilenet_v3_small"])
def test_a_copy_computes_the_same_in_both_modes(name: str) -> None:
    """The copy of a torchvision network normalised by the statistics of the batch, so bfloat16 seemed to be wrong."""
    backbone, _ = build_backbone(name, "random", seed=0)
    copied = copy.deepcopy(backbone)
    modes = [module.training for module in backbone.modules()]
    assert [module.training for module in copied.modules()] == modes
    batch = frames(3)
    with torch.no_grad():
        assert torch.equal(copied(batch), backbone(batch))
    first = next(module for module in backbone.train().modules() if isinstance(module, nn.Conv2d))
    first.eval()  # a frozen layer
    again = copy.deepcopy(backbone)
    assert [module.training for module in again.modules()] == [module.training for module in backbone.modules()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # inductor's own use of it
@pytest.mark.parametrize("name", NAMES)
def test_compiles_in_one_graph(name: str) -> None:
    backbone, _ = build_backbone(name, "random")
    backbone.to(memory_format=torch.channels_last)
    compiled = torch.compile(backbone, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(frames()), backbone(frames()), rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_equal_on_a_gpu(name: str) -> None:
    backbone, _ = build_backbone(name, "random")
    with torch.no_grad():
        expected = backbone(frames())
        found = backbone.to("cuda")(frames().to("cuda")).cpu()
    assert (found - expected).norm() / expected.norm() < 2e-3  # TensorFloat-32 convolutions

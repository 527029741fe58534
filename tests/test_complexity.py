"""Parameters and multiply-accumulates against the reference table, formulas worked out by hand, and torch's counter."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.compare.complexity import describe_backbones, describe_heads
from pipeline.errors import PipelineError
from pipeline.heads import HEADS, build_head
from tests.support.plain_heads import PLAIN_HEADS, trn

# Worked out by hand from the paper's layer shapes for 8 segments, 256 features, 27 classes:
# parameters, MACs at 7×7 or on pooled features, MACs at 13×13.
REFERENCE = {
    "mlp": (1_062_939, 1_062_400, 1_062_400),
    "tsn": (0, 0, 0),
    "trn": (2_344_125, 68_291_840, 68_291_840),
    "rnn_tanh": (138_523, 1_055_488, 1_055_488),
    "rnn_relu": (138_523, 1_055_488, 1_055_488),
    "lstm": (533_275, 4_201_216, 4_201_216),
    "gru": (401_691, 3_152_640, 3_152_640),
    "blstm": (402_203, 3_152_640, 3_152_640),
    "convlstm": (4_726_555, 1_849_694_976, 6_379_543_296),
    "fcn2d": (562_395, 76_529_664, 76_529_664),
    "fcn3d": (1_556_571, 152_070_912, 524_489_472),
}

# Table 3 of the paper: millions of parameters; MFLOPs with BNInception (7×7) and with SqueezeNet (13×13).
TABLE_3 = {
    "mlp": (1.06, 2.13, 2.13),
    "tsn": (0.00, 0.001, 0.001),
    "trn": (2.34, 11.95, 11.95),
    "rnn_tanh": (0.14, 3.16, 3.16),
    "rnn_relu": (0.14, 3.16, 3.16),
    "lstm": (0.53, 8.42, 8.42),
    "gru": (0.40, 6.32, 6.32),
    "blstm": (0.40, 6.33, 6.33),
    "convlstm": (4.73, 1849.70, 6379.54),
    "fcn2d": (0.56, 39.07, 39.07),
    "fcn3d": (1.56, 152.07, 524.49),
}


def parameters_by_hand(num_segments: int, num_classes: int) -> dict[str, int]:
    """Weights and biases added up from the paper's tables and equations."""
    n, k = num_segments, num_classes
    scores = 256 * k + k
    recurrent = 256 * 256 + 256 * 256 + 256 + 256
    half = 256 * 128 + 128 * 128 + 128 + 128
    planes = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256)]
    volumes = [(256, 64), (64, 128), (128, 256)]
    return {
        "mlp": (n * 256 + 1) * 512 + (512 + 1) * k,
        "tsn": 0,
        "trn": sum(d * 256 * 256 + 256 + scores for d in range(2, n + 1)),
        "rnn_tanh": recurrent + scores,
        "rnn_relu": recurrent + scores,
        "lstm": 4 * recurrent + scores,
        "gru": 3 * recurrent + scores,
        "blstm": 2 * 4 * half + scores,
        "convlstm": 4 * 256 * ((256 + 256) * 3 * 3 + 1) + scores,
        "fcn2d": sum(9 * a * b + b + 2 * b for a, b in planes) + scores,
        "fcn3d": sum(27 * a * b + b + 2 * b for a, b in volumes) + scores,
    }


def rows(**sizes: int) -> dict[str, dict[str, int]]:
    return {row["name"]: row for row in describe_heads(**sizes)}


def of_paper(table: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {name: row for name, row in table.items() if name in REFERENCE}


def test_every_head_of_the_registry_has_a_row() -> None:
    table = describe_heads()
    assert [row["name"] for row in table] == list(HEADS)
    for row in table:
        extra = {"macs_sampled"} if row["name"] == "trn" else set()
        assert set(row) == {"name", "maps", "parameters", "macs", "section", "order"} | extra
        assert row["maps"] == HEADS[row["name"]].reads


def test_parameters_and_macs_equal_the_reference_to_the_unit() -> None:
    small, large = of_paper(rows(map_size=7)), of_paper(rows(map_size=13))
    found = {name: (small[name]["parameters"], small[name]["macs"], large[name]["macs"]) for name in small}
    assert found == REFERENCE
    assert small["trn"]["macs_sampled"] == 5_964_032


def test_parameters_agree_with_the_papers_two_decimals() -> None:
    for name, row in of_paper(rows()).items():
        assert f"{row['parameters'] / 1e6:.2f}" == f"{TABLE_3[name][0]:.2f}", name


@pytest.mark.parametrize(("num_segments", "num_classes"), [(8, 27), (16, 174), (16, 27), (2, 3), (5, 12)])
def test_parameters_scale_as_worked_out_by_hand(num_segments: int, num_classes: int) -> None:
    table = of_paper(rows(num_segments=num_segments, num_classes=num_classes))
    found = {name: row["parameters"] for name, row in table.items()}
    assert found == parameters_by_hand(num_segments, num_classes)


def counted_macs(name: str, num_segments: int, num_classes: int, map_size: int) -> int:
    """MACs of the plain definition of a head, counted by torch as it runs, less those of the projection."""
    in_channels = 4
    head = build_head(name, in_channels=in_channels, num_segments=num_segments, num_classes=num_classes).eval()
    size = 1 if head.reads == "pooled" else map_size
    features = torch.randn(1, num_segments, in_channels, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        PLAIN_HEADS[name](head, features)
    width = num_classes if name == "tsn" else 256
    return counter.get_total_flops() // 2 - num_segments * in_channels * width * size**2


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize(("num_segments", "num_classes", "map_size"), [(8, 27, 7), (3, 5, 4)])
def test_macs_equal_an_independent_count(name: str, num_segments: int, num_classes: int, map_size: int) -> None:
    row = rows(num_segments=num_segments, num_classes=num_classes, map_size=map_size)[name]
    assert row["macs"] == counted_macs(name, num_segments, num_classes, map_size)


def test_macs_of_trn_with_sampled_tuples_equal_an_independent_count() -> None:
    head = build_head("trn", in_channels=4, num_segments=8, num_classes=27).eval()
    sampled = {d: head.evaluation_tuples(d)[:3] for d in head.scales}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trn(head, torch.randn(1, 8, 4, 1, 1), sampled)
    assert counter.get_total_flops() // 2 - 8 * 4 * 256 == 5_964_032


def test_any_number_of_segments_is_described_at_once() -> None:
    row = rows(num_segments=64)["trn"]
    tuples = {d: math.comb(64, d) for d in range(2, 65)}
    assert row["macs"] == sum(count * (d * 256 + 27) * 256 for d, count in tuples.items())


def test_describing_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    describe_heads()
    assert torch.equal(torch.get_rng_state(), before)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"`map_size` \(=0\)"):
        describe_heads(map_size=0)
    with pytest.raises(PipelineError, match=r"`num_classes` \(=0\)"):
        describe_heads(num_classes=0)


def papers_mflops() -> dict[str, tuple[float, float]]:
    """The paper's FLOPs column as `docs/flops.md` explains it, in MFLOPs at 7×7 and at 13×13."""

    def linear(size_in: int, size_out: int) -> int:
        return (2 * size_in - 1) * size_out  # a multiplication for each weight, one addition less for each output

    mlp = 8 * 256 + linear(8 * 256, 512) + 512 + linear(512, 27)  # with one operation for each element of a ReLU
    counts = {d: 3 for d in range(2, 8)} | {8: 1}
    trn_sampled = sum(count * (d * 256 + linear(d * 256, 256) + 256 + linear(256, 27)) for d, count in counts.items())

    def gated(num_gates: int, size_in: int, size: int, gating: int, activations: int) -> int:
        return 8 * (2 * num_gates * size * (size_in + size) + size * (2 * num_gates + activations + gating))

    lstm = gated(4, 256, 256, gating=4, activations=5)
    gru = gated(3, 256, 256, gating=5, activations=3)
    blstm = 2 * gated(4, 256, 128, gating=4, activations=5)

    planes, fcn2d, columns = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256)], 8 * 256, 256
    for width_in, width_out in planes:
        columns //= 2
        fcn2d += (9 * width_in + 1) * width_out * 8 * columns // 2  # the width divided by the stride once more
        fcn2d += 3 * width_out * 8 * columns  # two operations for batch norm, one for ReLU
    fcn2d += (256 + 1) * 27 * 64 + 27 * 64 + 65 * 27  # scores, their ReLU, their average

    def convlstm(size: int) -> int:
        return 8 * size**2 * 9 * 512 * 1024 + (256 + 1) * 27

    def fcn3d(size: int) -> int:
        return size**2 * (27 * (4 * 256 * 64 + 2 * 64 * 128 + 128 * 256) + 256 * 27)

    values = {
        "mlp": (mlp, mlp),
        "trn": (trn_sampled, trn_sampled),
        "lstm": (lstm, lstm),
        "gru": (gru, gru),
        "blstm": (blstm, blstm),
        "rnn_tanh": (gru / 2, gru / 2),
        "rnn_relu": (gru / 2, gru / 2),
        "convlstm": (convlstm(7), convlstm(13)),
        "fcn2d": (fcn2d, fcn2d),
        "fcn3d": (fcn3d(7), fcn3d(13)),
    }
    return {name: (small / 1e6, large / 1e6) for name, (small, large) in values.items()}


def test_the_papers_flops_come_out_as_the_docs_explain_them() -> None:
    for name, (small, large) in papers_mflops().items():
        _, paper_small, paper_large = TABLE_3[name]
        assert (f"{small:.2f}", f"{large:.2f}") == (f"{paper_small:.2f}", f"{paper_large:.2f}"), name


def test_backbones_are_described() -> None:
    table = {row["name"]: row for row in describe_backbones()}
    for row in table.values():
        names = {"name", "channels", "map_size", "input_size", "parameters", "macs", "license", "preprocessing"}
        assert set(row) == names
    squeezenet = table["squeezenet"]
    # With the 1×1 convolution to 1000 classes that SqueezeNet has elsewhere: the paper's 1.24 M.
    assert squeezenet["parameters"] + (512 + 1) * 1000 == 1_235_496
    assert squeezenet["macs"] == squeezenet_macs_by_hand()
    assert table["squeezenet_bypass"]["macs"] == squeezenet["macs"]
    assert (squeezenet["channels"], squeezenet["map_size"]) == (512, 13)


def squeezenet_macs_by_hand() -> int:
    """Of the feature layers of SqueezeNet 1.1 at 224×224: conv 3×3/2, then fire modules between poolings."""
    fires = [(64, 16, 64, 55), (128, 16, 64, 55), (128, 32, 128, 27), (256, 32, 128, 27)]
    fires += [(256, 48, 192, 13), (384, 48, 192, 13), (384, 64, 256, 13), (512, 64, 256, 13)]
    total = 111**2 * 27 * 64
    for channels, squeeze, expand, size in fires:
        total += size**2 * (channels * squeeze + squeeze * expand + 9 * squeeze * expand)
    return total

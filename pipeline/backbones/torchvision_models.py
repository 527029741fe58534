"""Any classifier of torchvision that computes its scores from a feature map: `torchvision:NAME`.

The map is found automatically. The network is traced, run once on zeros and searched backwards from its scores: the
map is the last tensor with a spatial size before the classifier.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.download import PublishedWeights
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.torchvision_import import feature_extraction, torchvision
from pipeline.errors import PipelineError
from pipeline.registry import unknown_name

# The published weights of these two expect another normalisation of inputs, and convert them on request.
BUILDER_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


class TorchvisionBackbone(Backbone):
    """The layers of a torchvision classifier up to its feature map, with torchvision's key names.

    A run on zeros determines channels and map size. Preprocessing and the address of the ImageNet weights are those of
    torchvision's default weights of the network.

    Raises:
        PipelineError: the classifier does not exist, or computes its scores without a map, as vision transformers do.
    """

    def __init__(self, name: str) -> None:
        published = _default_weights(name)
        self._builder_name = name
        self.preprocessing = _preprocessing(published.transforms())
        super().__init__()
        self.name = f"torchvision:{name}"
        self.imagenet = PublishedWeights.named_by_checksum(published.url)
        model = _build(name, seed=0)
        names = tuple(model.state_dict())  # before tracing, which adds constants
        node_name, self.channels, self.map_size = find_map(model, self.name, self.preprocessing.input_size)
        # Built from the traces in both modes, so that `train()` also switches functions between the layers.
        self.layers = feature_extraction.create_feature_extractor(
            model, return_nodes={node_name: "maps"}, suppress_diff_warning=True
        )
        kept = self.layers.state_dict()
        self._weight_names = tuple(key for key in names if key in kept)
        self.ignored_prefixes = tuple(key for key in names if key not in kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchvisionBackbone:
        """Copy the modes of the layers too: after torch.fx's copy, batch norms use the statistics of the batch."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        copied.train(self.training)
        for module, original in zip(copied.modules(), self.modules(), strict=True):
            module.training = original.training
        return copied

    def weight_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = self.layers.state_dict()
        return {name: tensors[name] for name in self._weight_names}

    def initialise(self, seed: int) -> None:
        """Use torchvision's initialisation; it is equal on machines with the same torch and processor."""
        values = _build(self._builder_name, seed).state_dict()
        with torch.no_grad():
            for name, tensor in self.weight_tensors().items():
                tensor.copy_(values[name])

    def forward_features(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)["maps"]
        return outputs


def find_map(model: nn.Module, name: str, input_size: int) -> tuple[str, int, int]:
    """Return the name of the node that computes the feature map, its channels and its side.

    The search starts at the scores and goes from each tensor to the only one from which it was computed. The map is the
    first tensor with a spatial size outside of the classifier, which is the child module of the last layer.

    Raises:
        PipelineError: the search finds no map: two tensors are joined, or there are tokens without a spatial size.
    """
    train_names, eval_names = feature_extraction.get_graph_node_names(model, suppress_diff_warning=True)
    traced: fx.GraphModule = feature_extraction.create_feature_extractor(
        model,
        train_return_nodes=train_names[-1:],
        eval_return_nodes=eval_names,
        suppress_diff_warning=True,
    ).eval()
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, 3, input_size, input_size))
    returned: Mapping[str, fx.Node] = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    name_of = {node: qualified for qualified, node in returned.items()}
    node = returned[eval_names[-1]]
    classifier = ""
    while True:
        if not classifier and node.op == "call_module":
            classifier = name_of[node].split(".")[0]
        shape = _shape(node)
        if len(shape) == 4 and min(shape[2:]) > 1 and name_of[node].split(".")[0] != classifier:
            break
        sources = [source for source in node.all_input_nodes if source.op != "get_attr" and _shape(source)]
        if len(shape) not in (2, 4) or len(sources) != 1:
            raise PipelineError(
                f"The backbone {name} has no feature map: its scores come from {name_of[node]}, of shape {shape}. "
                f"Choose a classifier that pools a map (N, C, h, w), such as torchvision:resnet18."
            )
        node = sources[0]
    if shape[2] != shape[3]:
        raise PipelineError(f"The backbone {name} has maps that are not square: {shape}.")
    return name_of[node], shape[1], shape[2]


def _shape(node: fx.Node) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(getattr(found, "shape", ()))


def _default_weights(name: str) -> Any:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision classifier", name, known)
    return torchvision.models.get_model_weights(name).DEFAULT


def _build(name: str, seed: int) -> nn.Module:
    # Constructors draw from the global generator, so its state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **BUILDER_OPTIONS.get(name, {}))
    return model


def _preprocessing(transforms: Any) -> Preprocessing:
    input_size, short_side = transforms.crop_size[0], transforms.resize_size[0]
    return Preprocessing(
        channel_order="RGB",
        scale=1 / 255,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        input_size=input_size,
        crop_fraction=input_size / short_side,
    )

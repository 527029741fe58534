"""Any image model of timm that gives maps or patch tokens: `timm:NAME[@SIZE][+TAP…]`.

The tokens of a transformer become a map at the places of their patches; class and register tokens are not part of it.
The final norm of a transformer is applied to every tap, as its own classifier or probe reads it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.blocks import NORMS
from pipeline.backbones.download import PublishedWeights, fetch
from pipeline.backbones.hub import hub_file
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.timm_import import timm
from pipeline.backbones.timm_name import CLASS_TOKEN, parse_timm_name
from pipeline.errors import PipelineError
from pipeline.files import sha256_of_file
from pipeline.registry import did_you_mean

HUB_FILE = "model.safetensors"


class TimmBackbone(Backbone):
    """The layers of a timm model up to its last tap, with timm's key names.

    Several taps are concatenated along the channels; each is averaged to the smallest of their maps. The class token
    is the same at each place of the map, so that it is also its mean; alone, it is a map of 1×1.

    Preprocessing, licence and weights are those of the model's pretrained configuration.

    Raises:
        PipelineError: the model, its tag or a tap does not exist, or it gives no square map.
    """

    packages = ("timm",)

    def __init__(self, name: str) -> None:
        parsed = parse_timm_name(name)
        config = _pretrained_config(parsed.model)
        self._model_name, self._config = parsed.model, config
        self.preprocessing = _preprocessing(parsed.model, config)
        super().__init__()
        self.name, self.named_input_size, self.license = str(parsed), parsed.input_size, config.license or ""
        self.layers: Any = _build(parsed.model, seed=0)
        names = tuple(self.layers.state_dict())
        self._taps, self._layers, self._reads_class_token = _prune(self.layers, self.name, parsed.taps)
        self._norm = {"norm": True}
        kept = self.layers.state_dict()
        self.ignored_prefixes = tuple(key for key in names if key not in kept)
        self.channels, self.map_size = self._sizes(parsed.taps)

    def forward_features(self, inputs: Tensor) -> Tensor:
        more = {"return_prefix_tokens": True} if self._reads_class_token else {}
        found = self.layers.forward_intermediates(
            inputs, indices=self._layers, output_fmt="NCHW", intermediates_only=True, **self._norm, **more
        )
        of_layer = dict(zip(self._layers, found, strict=True))
        maps: list[Tensor] = []
        for tap in self._taps:
            if tap == CLASS_TOKEN:
                _, tokens = of_layer[self._layers[-1]]  # (N, prefix tokens, C), the class token is the first
                maps.append(tokens[:, 0, :, None, None])
            else:
                layer = of_layer[int(tap)]
                maps.append(layer[0] if self._reads_class_token else layer)
        return _side_by_side(maps)

    def block_of_parameters(self) -> dict[str, int]:
        """Return the block of each parameter as timm groups them, such as one for each block of a transformer.

        A last group of norms belongs to the block before it.
        """
        if not hasattr(self.layers, "group_matcher"):
            return super().block_of_parameters()
        numbers = timm.models.group_parameters(self.layers, self.layers.group_matcher(coarse=False), reverse=True)
        last = max(numbers.values())
        owners = [name.rpartition(".")[0] for name, number in numbers.items() if number == last]
        if all(isinstance(self.layers.get_submodule(owner), NORMS) for owner in owners):
            last = max(last - 1, 0)
        return {f"layers.{name}": min(number, last) for name, number in numbers.items()}

    def weight_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = self.layers.state_dict()
        return tensors

    def initialise(self, seed: int) -> None:
        """Use timm's initialisation; it is equal on machines with the same torch and processor."""
        values = _build(self._model_name, seed).state_dict()
        with torch.no_grad():
            for name, tensor in self.weight_tensors().items():
                tensor.copy_(values[name])

    def set_input_size(self, size: int) -> None:
        """Declare another side of the square input; position embeddings are interpolated by timm.

        Raises:
            PipelineError: the size is out of range, or the model does not allow it.
        """
        if size != self.preprocessing.input_size and hasattr(self.layers, "set_input_size"):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # timm interpolates with calls that torch deprecates
                    self.layers.set_input_size(img_size=(size, size))
            except (RuntimeError, AssertionError, ValueError, ZeroDivisionError) as error:
                raise PipelineError(
                    f"Backbone '{self.name}' cannot read inputs of {size} pixels ({error}). Its own size is "
                    f"{self.preprocessing.input_size}."
                ) from error
        super().set_input_size(size)

    def published_file(self) -> tuple[Path, str]:
        """Return the path of the pretrained weights in the cache of the hub or of torch, and their SHA-256.

        Raises:
            PipelineError: the model has no pretrained weights, or they cannot be downloaded.
        """
        config = self._config
        if config.hf_hub_id is None and config.url:
            return fetch(PublishedWeights.named_by_checksum(config.url))
        if config.hf_hub_id is None or config.custom_load:
            raise PipelineError(
                f"timm has no weights of {self.name} that can be read; pass a weight file, or 'random'."
            )
        path = hub_file(config.hf_hub_id, config.hf_hub_filename or HUB_FILE)
        return path, sha256_of_file(path)

    def convert_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert a file in the format of the model's authors by timm's own function; timm's format stays as it is."""
        known = {*self.weight_tensors(), *self.ignored_prefixes}
        convert = getattr(sys.modules[type(self.layers).__module__], "checkpoint_filter_fn", None)
        if convert is None or tensors.keys() <= known:
            return tensors
        try:
            converted: Mapping[str, Tensor] = convert(dict(tensors), _build(self._model_name, seed=0))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError):
            return tensors  # a file of another network: the check of its keys names them
        return converted

    def _sizes(self, taps: Sequence[str]) -> tuple[int, int]:
        """Return channels and side of the map, by a run without values."""
        size = self.preprocessing.input_size
        layers = self.layers
        with torch.device("meta"), torch.no_grad():
            self.layers = _build(self._model_name, seed=0).eval()
            _prune(self.layers, self.name, taps)
            try:
                try:
                    maps = self.forward_features(torch.empty(1, 3, size, size))
                except AssertionError:  # models without a norm for their taps
                    self._norm = {}
                    maps = self.forward_features(torch.empty(1, 3, size, size))
            except (AssertionError, RuntimeError, TypeError) as error:
                raise PipelineError(f"The model {self.name} gives no map (N, C, h, w): {error}.") from error
        self.layers = layers
        if maps.ndim != 4 or maps.shape[2] != maps.shape[3]:
            raise PipelineError(f"The maps of {self.name} are not square: {tuple(maps.shape)}.")
        return maps.shape[1], maps.shape[2]


def _prune(layers: Any, name: str, taps: Sequence[str]) -> tuple[tuple[str, ...], list[int], bool]:
    """Remove the parts behind the last tap; return the taps, the numbers of their layers, and whether one is `cls`."""
    if not hasattr(layers, "forward_intermediates") or not hasattr(layers, "prune_intermediate_layers"):
        raise PipelineError(f"The model {name} has no `forward_intermediates`: timm cannot return its maps.")
    prune = layers.prune_intermediate_layers
    (last,) = prune(1, prune_norm=False, prune_head=True)
    chosen = tuple(taps) or (str(last),)
    wrong = [tap for tap in chosen if tap != CLASS_TOKEN and int(tap) > last]
    if wrong:
        raise PipelineError(f"The taps of {name} must be from 0 to {last}, its last layer, not {', '.join(wrong)}.")
    reads_class_token = CLASS_TOKEN in chosen
    if reads_class_token and getattr(layers, "cls_token", None) is None:
        raise PipelineError(f"The model {name} has no class token; leave out the tap {CLASS_TOKEN}.")
    numbers = {last if tap == CLASS_TOKEN else int(tap) for tap in chosen}
    return chosen, prune(sorted(numbers), prune_norm=False, prune_head=True), reads_class_token


def _side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps along the channels, each averaged to the smallest; a map of 1×1 is repeated.

    Shape:
        maps:    (N, C, h, w) each. returns: (N, sum of C, h, w) of the smallest map.
    """
    sizes = [int(of_tap.shape[-1]) for of_tap in maps if of_tap.shape[-1] > 1]  # int: a tracer gives tensors
    if len(maps) == 1 or not sizes:
        return torch.cat(tuple(maps), dim=1)
    size = min(sizes)
    resized = [
        of_tap.expand(-1, -1, size, size) if of_tap.shape[-1] == 1 else F.adaptive_avg_pool2d(of_tap, size)
        for of_tap in maps
    ]
    return torch.cat(resized, dim=1)


def _pretrained_config(model: str) -> Any:
    if not timm.is_model(model):
        raise PipelineError(f"Unknown timm model '{model}'.{did_you_mean(model, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(model)
    except RuntimeError:
        architecture = model.partition(".")[0]
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        raise PipelineError(
            f"{architecture} has no weights '{model.partition('.')[2]}'. Known: {', '.join(tags)}."
        ) from None
    if config is None:
        raise PipelineError(f"timm has no configuration of {model}, so its preprocessing is unknown.")
    return config


def _preprocessing(model: str, config: Any) -> Preprocessing:
    values = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    channels, height, width = values["input_size"]
    if channels != 3 or height != width:
        raise PipelineError(f"The input of {model} is {channels}×{height}×{width}; it must be square, of 3 channels.")
    return Preprocessing(
        channel_order="RGB",
        scale=1 / 255,
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        input_size=height,
        crop_fraction=values["crop_pct"],
    )


def _build(model: str, seed: int) -> nn.Module:
    # Constructors draw from the global generator, so its state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        built: nn.Module = timm.create_model(model, pretrained=False)
    return built

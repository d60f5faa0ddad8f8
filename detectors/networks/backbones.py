"""Feature maps of many networks by name, from which a PDN teacher can be distilled.

    source = extractor("torchvision:wide_resnet101_2", weights=path)    # layer2 and layer3
    source = extractor("timm:convnext_tiny", weights=path, layers=["stages.1", "stages.2"])
    maps = source(normalise(images_B3HW))                               # one (B, C, h, w) each

| name | network | layers by default |
|---|---|---|
| torchvision:NAME | any classifier of torchvision | layer2, layer3 |
| timm:NAME | any model of timm with intermediate features | those of stride 8 and 16 |
| resnet18 | the trunk of `pipeline.models.backbone` | layer2, layer3 |
| bundled-teacher | the small teacher that ships with this project | layer2, layer3 |

Files are read by `pipeline.models.weights.safe_load`, which executes no code; nothing is
downloaded. Without a file the network is randomly initialised, for tests. All networks are frozen
and take ImageNet-normalised images, see `pipeline.models.backbone.normalise`.

Shapes: B batch; C channels of a layer; h, w its cells; H, W image; 3 colour (RGB).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import UserError, WeightsError
from pipeline.models.backbone import STRIDES, Trunk, resnet18_trunk, small_teacher
from pipeline.models.weights.safe_load import load_state

# The backbone that EfficientAD's authors distilled (WACV 2024, section 3.1).
PAPER = "torchvision:wide_resnet101_2"
LAYERS = ("layer2", "layer3")
# Names whose file the weights registry knows; all others need an explicit file.
KNOWN_WEIGHTS = {
    PAPER: "wide-resnet101-2",
    "torchvision:resnet18": "resnet18",
    "timm:swin_tiny_patch4_window7_224.ms_in1k": "swin-tiny",
    "resnet18": "resnet18",
    "bundled-teacher": "bundled-teacher",
}
# Networks of this project, built by `pipeline.models.backbone`.
_TRUNKS: dict[str, Callable[[Path | None], Trunk]] = {
    "resnet18": resnet18_trunk,
    "bundled-teacher": small_teacher,
}
_TRUNK_LAYERS = ("layer1", "layer2", "layer3")


class Extractor(nn.Module):
    """Some layers of a frozen network: `forward(images_B3HW)` returns their maps, one per layer.

    Takes normalised float RGB. Always in evaluation mode.
    """

    def __init__(self, name: str, layers: Sequence[str], network: nn.Module) -> None:
        super().__init__()
        self.name, self.layers = name, tuple(layers)
        self.network = network.requires_grad_(False).eval()

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Maps (B, C, h, w) in the order of `layers`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "Extractor":
        """Ignore `mode`: the network is frozen."""
        return super().train(False)


def extractor(name: str, weights: Path | None = None, layers: Sequence[str] = ()) -> Extractor:
    """The network of that name with weights from a file, returning the maps of `layers`.

    Without `layers` the defaults of the table above. UserError for an unknown name or layer,
    WeightsError for a file of another network.
    """
    # NAME alone, or FAMILY:NAME.
    family, colon, model = name.partition(":")
    if name in _TRUNKS:
        return _OfTrunk(name, layers or LAYERS, _TRUNKS[name](weights))
    if family == "torchvision" and colon:
        return _of_torchvision(name, model, weights, layers or LAYERS)
    if family == "timm" and colon:
        return _of_timm(name, model, weights, layers)
    raise UserError(
        f"no backbone is called {name!r}; known: torchvision:NAME, timm:NAME, {', '.join(_TRUNKS)}"
    )


def join_layers(maps: list[Tensor], side: int, channels: int) -> Tensor:
    """Maps of several layers on one grid of `side` cells, pooled to `channels` channels; float32.

    Coarser maps are interpolated, finer ones averaged. Layers are concatenated and their channels
    average-pooled: channel c is the mean over the c-th of `channels` equal intervals. This is the
    feature pooling of EfficientAD's distillation (WACV 2024, appendix).
    """
    same = [_on_grid(map_BChw.float(), side) for map_BChw in maps]
    # Concatenate the channels, then pool over neighbouring ones.
    all_BhwC = torch.cat(same, 1).permute(0, 2, 3, 1)
    if all_BhwC.shape[3] != channels:
        pooled_NC = F.adaptive_avg_pool1d(all_BhwC.flatten(0, 2), channels)
        all_BhwC = pooled_NC.view(*all_BhwC.shape[:3], channels)
    return all_BhwC.permute(0, 3, 1, 2)


class _OfTrunk(Extractor):
    """Levels of one of the ResNet trunks of `pipeline.models.backbone`."""

    def __init__(self, name: str, layers: Sequence[str], trunk: Trunk) -> None:
        super().__init__(name, layers, trunk)
        # Strides help to choose a layer, so error messages list them.
        known = [f"{own} (stride {s})" for own, s in zip(_TRUNK_LAYERS, STRIDES, strict=True)]
        _check_layers(name, layers, _TRUNK_LAYERS, known)
        self.places = [_TRUNK_LAYERS.index(layer) for layer in layers]

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        levels = self.network(images_B3HW)
        return [levels[place] for place in self.places]


class _OfTorchvision(Extractor):
    """Named nodes of a torchvision classifier."""

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        found = self.network(images_B3HW)
        return [_as_map(found[layer], self.name, layer) for layer in self.layers]


class _OfTimm(Extractor):
    """Intermediate features of a timm model; `places` are their numbers, ascending."""

    def __init__(
        self, name: str, layers: Sequence[str], network: nn.Module, places: list[int]
    ) -> None:
        super().__init__(name, layers, network)
        self.places = places

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        forward: Callable[..., list[Tensor]] = self.network.forward_intermediates  # type: ignore[assignment]
        found = forward(images_B3HW, indices=self.places, intermediates_only=True)
        return [_as_map(map_BChw, self.name, layer)
                for map_BChw, layer in zip(found, self.layers, strict=True)]  # fmt: skip


def _of_torchvision(
    name: str, model: str, weights: Path | None, layers: Sequence[str]
) -> Extractor:
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    # Classifiers only: detection and segmentation models download a backbone when they are built.
    if model not in models.list_models(module=models):
        raise UserError(f"torchvision has no classifier {model!r}; see torchvision.models")
    # The whole network first, to check the names of the layers.
    whole = models.get_model(model, weights=None)
    _check_layers(name, layers, dict(whole.named_modules()), [n for n, _ in whole.named_children()])
    # Everything after the last layer is cut off, so it is not computed and the file may lack it.
    network = create_feature_extractor(whole.eval(), list(layers))
    if weights is not None:
        _fill(network, load_state(weights), weights, name)
    return _OfTorchvision(name, layers, network)


def _of_timm(name: str, model: str, weights: Path | None, layers: Sequence[str]) -> Extractor:
    import timm

    if not timm.is_model(model):
        raise UserError(f"timm has no model {model!r}; see timm.list_models()")
    network = _timm_of_any_size(model)
    if not hasattr(network, "forward_intermediates"):
        raise UserError(f"{name} has no intermediate features; choose another backbone")
    # timm describes every intermediate layer, with its stride (`reduction`).
    infos: list[dict[str, Any]] = list(network.feature_info)  # type: ignore[arg-type]
    strides = {str(info["module"]): int(info["reduction"]) for info in infos}
    known = [f"{layer} (stride {stride})" for layer, stride in strides.items()]
    # By default the strides of a ResNet's layer2 and layer3, which other networks name differently.
    if not layers:
        layers = [layer for layer, stride in strides.items() if stride in STRIDES[1:]]
        if [strides[layer] for layer in layers] != list(STRIDES[1:]):
            raise UserError(f"choose --layers of {name}; known: {', '.join(known)}")
    _check_layers(name, layers, strides, known)
    if weights is not None:
        _fill(network, load_state(weights), weights, name, str(_head_of(network)))
    # timm returns maps from fine to coarse, independent of the order of the request.
    places = sorted(list(strides).index(layer) for layer in layers)
    ordered = [list(strides)[place] for place in places]
    # Pruned only after the file is read, as it has tensors of the pruned layers, too.
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers(places, prune_head=True)  # type: ignore[operator]
    return _OfTimm(name, ordered, network, places)


def _timm_of_any_size(model: str) -> nn.Module:
    """A model that takes images of other sizes than it was trained at.

    Transformers need an option for that; its name depends on the architecture.
    """
    import timm

    options: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
    for option in options:
        try:
            return timm.create_model(model, pretrained=False, **option)
        # The constructor of this network has no such option.
        except TypeError:
            continue
    return timm.create_model(model, pretrained=False)


def _head_of(network: nn.Module) -> object:
    """The prefix of the classifier's tensors."""
    return getattr(network, "pretrained_cfg", {}).get("classifier", "head")


def _fill(
    network: nn.Module, state: dict[str, Tensor], path: Path, name: str, head: str = ""
) -> None:
    """Fill a network from a file that may hold more tensors, but must hold all of the network's.

    Tensors below `head` may be absent or of another shape: no feature depends on them.
    """
    own = network.state_dict()
    # Batch norm's counters have no effect in evaluation mode, and some files omit them.
    spare = {key for key in own if key.endswith("num_batches_tracked")}
    spare |= {key for key in own if head and key.startswith(head + ".")}
    # Everything must be in the file and have the right shape, except spare tensors.
    absent = [key for key in own if key not in state and key not in spare]
    taken = {
        key: state[key] for key, value in own.items()
        if key in state and not (key in spare and state[key].shape != value.shape)
    }  # fmt: skip
    unlike = [key for key, value in taken.items() if value.shape != own[key].shape]
    if absent or unlike:
        # One example and the counts are enough to recognise a wrong file.
        first = f"{absent[0]} is not in it" if absent else f"{unlike[0]} has another shape"
        raise WeightsError(
            f"{path}: expected the weights of {name}, but {first} ({len(absent)} of {len(own)} "
            f"tensors absent, {len(unlike)} of another shape); pass the matching file"
        )
    network.load_state_dict(taken, strict=False)


def _check_layers(
    name: str, layers: Sequence[str], known: Sequence[str] | Mapping[str, object], listed: list[str]
) -> None:
    """UserError unless all layers are known and distinct; the message shows `listed`."""
    for layer in layers:
        if layer not in known:
            raise UserError(f"{name} has no layer {layer!r}; known: {', '.join(listed)}")
    if len(set(layers)) < len(layers):
        raise UserError(f"name each layer only once, got {', '.join(layers)}")


def _as_map(features: Tensor, name: str, layer: str) -> Tensor:
    """The features themselves, or UserError when they are no maps (B, C, h, w)."""
    if features.ndim != 4:
        raise UserError(
            f"{layer} of {name} returns {tuple(features.shape)}, expected maps (B, C, h, w); "
            "choose another layer"
        )
    return features


@torch.no_grad()
def channels_of(source: Extractor, size: int) -> list[tuple[int, int]]:
    """(channels, cells per side) of each layer for images of that size."""
    device = next(source.parameters()).device
    # A black image suffices to measure shapes.
    maps = source(torch.zeros(1, 3, size, size, device=device))
    return [(map_BChw.shape[1], map_BChw.shape[2]) for map_BChw in maps]


def _on_grid(map_BChw: Tensor, side: int) -> Tensor:
    """The map on `side` x `side` cells."""
    # Average pooling uses every cell of a finer map, interpolation would skip some.
    if map_BChw.shape[2] > side:
        return F.adaptive_avg_pool2d(map_BChw, side)
    if map_BChw.shape[2] < side:
        return F.interpolate(map_BChw, (side, side), mode="bilinear", align_corners=False)
    return map_BChw

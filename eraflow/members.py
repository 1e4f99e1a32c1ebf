"""K networks of one configuration, trained as one: all see the same batches, and each is what it would be alone.

The weights of all members lie in one tensor a layer, so that a batch is gathered, widened and multiplied once for
all of them; every `Mlp` that was given becomes a view of its part. Forward and backward are written out (`layers`):
a buffer over 32 MB that is allocated in each step is page-faulted in each step, and autograd allocates all of them.

Shape letters: B batch, F features, K members, G and H units of a layer's input and output, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from eraflow import layers, models
from eraflow.models import Mlp


class Members:
    """The networks `nets`, which become views of what is trained here, for batches of up to `largest` rows.

    `generators` are those that the members draw their dropout from.
    """

    def __init__(self, nets: Sequence[Mlp], largest: int, generators: Sequence[torch.Generator]) -> None:
        self.nets, self.largest = list(nets), largest
        self.parameters = {name: _with_grad(_joined(nets, name)) for name, _ in nets[0].named_parameters()}
        self._running = {name: _joined(nets, name) for name, _ in nets[0].named_buffers()}
        self._layers = list(self._chain(generators))

    @property
    def matrices(self) -> list[Tensor]:
        """Weights of the linear layers, `[K, H, G]`."""
        return [parameter for parameter in self.parameters.values() if parameter.ndim == 3]

    @property
    def vectors(self) -> list[Tensor]:
        """Biases, and scales and shifts of the norms, `[K, H]`."""
        return [parameter for parameter in self.parameters.values() if parameter.ndim == 2]

    def forward(self, code_BF: Tensor) -> Tensor:
        """Predictions `[B, K]` in training mode, `[B, K, T]` of networks with several outputs.

        They and all between are overwritten by the next call.
        """
        x_KBH = code_BF[None]
        for layer in self._layers:
            x_KBH = layer.forward(x_KBH)
        return x_KBH[:, :, 0].T if x_KBH.shape[2] == 1 else x_KBH.transpose(0, 1)

    def backward(self, slope: Tensor) -> None:
        """Write each parameter's `grad` for the last batch, from the loss's slope by its predictions."""
        slope_KBH = slope.T[:, :, None] if slope.ndim == 2 else slope.transpose(0, 1)
        for layer in reversed(self._layers):
            slope_KBH = layer.backward(slope_KBH)

    def _chain(self, generators: Sequence[torch.Generator]) -> Iterator[layers.Layer]:
        """The layers as `Mlp` has them, and where each writes."""
        config, (first, *rest) = self.nets[0].config, self.nets[0].layers.named_children()
        units = config.hidden[0]
        scale, offset = (0.25, -2.0) if config.input == "unit" else (1.0, 0.0)
        if self.nets[0].input_norm is None:
            yield layers.CodesLinear(*self._linear(first[0]), self._buffer(units), scale, offset)
        else:
            norm = self._norm("input_norm", self.nets[0].input_norm)
            yield layers.NormedCodesLinear(*self._linear(first[0]), self._buffer(units), scale, offset, norm)
        needed = False  # whether what the last layer gave is read on the way back
        for name, module in rest:
            if isinstance(module, nn.Linear):
                slope = self._buffer(units) if needed else None
                units = module.out_features
                yield layers.Linear(*self._linear(name), self._buffer(units), slope)
            elif isinstance(module, nn.BatchNorm1d):
                needed = False
                yield self._norm(f"layers.{name}", module)
            elif isinstance(module, models.Dropout):
                yield layers.Dropout(module.share, generators, self._mask(units))
            elif isinstance(module, nn.ReLU):
                needed = True
                yield layers.Relu()
            elif isinstance(module, nn.SiLU):
                yield layers.Silu(self._buffer(units))
            else:
                raise TypeError(f"layers must be those that Mlp makes, however one is {module}")

    def _buffer(self, units: int) -> layers.Buffer:
        config, like = self.nets[0].config, next(self.nets[0].parameters())
        wide = len(config.hidden) == 1 or config.batch_norm or len(self.nets) == 1
        return layers.Buffer(len(self.nets), self.largest, units, wide=wide, like=like)

    def _mask(self, units: int) -> Tensor:
        like = next(self.nets[0].parameters())
        return like.new_empty(len(self.nets), self.largest, units, dtype=torch.bool)

    def _linear(self, name: str) -> tuple[Tensor, Tensor]:
        weight_KHG = self.parameters[f"layers.{name}.weight"]
        bias_KH = self.parameters.get(f"layers.{name}.bias")
        # Where there is none a 0 that is not trained saves every layer a case.
        return weight_KHG, _with_grad(weight_KHG.new_zeros(weight_KHG.shape[:2])) if bias_KH is None else bias_KH

    def _norm(self, name: str, like: nn.BatchNorm1d) -> layers.Norm:
        running = [self._running[f"{name}.{what}"] for what in ("running_mean", "running_var", "num_batches_tracked")]
        return layers.Norm(like, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"], *running)


def _joined(nets: Sequence[Mlp], name: str) -> Tensor:
    """That parameter or buffer of all networks as one tensor `[K, ...]`, of which theirs become views."""
    owners = [net.get_submodule(name.rpartition(".")[0]) for net in nets]
    parts = [getattr(owner, name.rpartition(".")[2]) for owner in owners]
    joined = torch.stack([part.detach() for part in parts])
    for part, view in zip(parts, joined, strict=True):
        part.data = view
    return joined


def _with_grad(tensor: Tensor) -> Tensor:
    tensor.grad = torch.zeros_like(tensor)
    return tensor

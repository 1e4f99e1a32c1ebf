"""The layers of K networks side by side, forward and backward written out, in buffers that are made once.

`members` chains them in the order in which a batch passes them, which is also the order here: `CodesLinear`, then for
each hidden layer `Relu` or `Silu`, `Norm`, `Dropout` and `Linear`. Everything between them is `[K, B, H]`; how that
lies in memory is the `Buffer`'s matter. `backward` turns the loss's slope by what came out into the slope by what came
in, may overwrite what it is given, and writes the `grad` of its parameters (it never adds).
tests/eraflow/test_models_members.py holds each of them against autograd.

Shape letters: B batch, F features, K members, G and H units of a layer's input and output, J = K x H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from eraflow.models import draw_kept

aten: Any = torch.ops.aten

# Numbers that are worked on at once where one pass would read memory several times: 1 MB stays in a core's cache.
CHUNK = 1 << 18


class Layer(Protocol):
    def forward(self, x_KBH: Tensor) -> Tensor: ...

    def backward(self, slope_KBH: Tensor) -> Tensor: ...


class Buffer:
    """Room for the activations of `rows` rows: `wide`, all members' units of a row together, or member after member.

    Wide makes one product of the first layer of all members, 4 % faster for one hidden layer of 256 units; where
    hidden layers follow they are 5 % faster member after member (4 members, two cores, AVX-512).
    """

    def __init__(self, members: int, rows: int, units: int, *, wide: bool, like: Tensor) -> None:
        self.members, self.rows, self.units, self.wide = members, rows, units, wide
        self.flat = like.new_empty(members * rows * units, dtype=torch.float32)

    def first(self, rows: int) -> Tensor:
        """Its part for so many rows, `[K, B, H]`."""
        part = self.flat[: self.members * rows * self.units]
        if self.wide:
            return part.view(rows, self.members, self.units).transpose(0, 1)
        return part.view(self.members, rows, self.units)


class CodesLinear:
    """The first layer, on codes that all members share: `W · (scale · (code - offset)) + b`.

    Scale and offset are folded into the product, F x J numbers a step in place of B x F. Codes have no slope.
    """

    def __init__(self, weight_KHF: Tensor, bias_KH: Tensor, out: Buffer, scale: float, offset: float) -> None:
        self.weight_KHF, self.bias_KH, self.out, self.scale, self.offset = weight_KHF, bias_KH, out, scale, offset

    def forward(self, x_KBH: Tensor) -> Tensor:
        (self.code_BF,), bias_KH = x_KBH, self.bias_KH
        if self.offset:
            bias_KH = bias_KH - self.weight_KHF.sum(2).mul_(self.scale * self.offset)
        return _multiply(self.code_BF, self.weight_KHF, bias_KH, self.scale, self.out)

    def backward(self, slope_KBH: Tensor) -> Tensor:
        bias_grad_KH, grad_KHF = _grad(self.bias_KH), _grad(self.weight_KHF)
        torch.sum(slope_KBH, 1, out=bias_grad_KH)
        _multiply_slope(slope_KBH, self.code_BF, self.scale, grad_KHF, wide=self.out.wide)
        if self.offset:
            grad_KHF.sub_(bias_grad_KH[:, :, None] * (self.scale * self.offset))
        return slope_KBH


class NormedCodesLinear:
    """The first layer behind a batch norm: `W · (w · (code - mean)/std + s) + b`, all of it folded into one product.

    Nothing of size B x F is written, and the batch's statistics are taken once for all members, which see the same
    rows. With `scale` and `offset` the norm is that of `scale · (code - offset)`.
    """

    def __init__(
        self, weight_KHF: Tensor, bias_KH: Tensor, out: Buffer, scale: float, offset: float, norm: Norm
    ) -> None:
        self.weight_KHF, self.bias_KH, self.out, self.norm = weight_KHF, bias_KH, out, norm
        self.scale, self.offset = scale, offset
        self.folded_KHF = torch.empty_like(weight_KHF)

    def forward(self, x_KBH: Tensor) -> Tensor:
        (self.code_BF,), norm = x_KBH, self.norm
        self.mean_F, variance_F = moments(self.code_BF)
        norm.note(self.scale * (self.mean_F - self.offset), self.scale**2 * variance_F, len(self.code_BF))
        self.factor_F = self.scale * (self.scale**2 * variance_F + norm.eps).rsqrt()
        torch.mul(self.weight_KHF, (norm.weight_KH * self.factor_F)[:, None], out=self.folded_KHF)
        shift_KH = torch.bmm(self.weight_KHF, norm.bias_KH[:, :, None])[:, :, 0] - self.folded_KHF @ self.mean_F
        return _multiply(self.code_BF, self.folded_KHF, self.bias_KH + shift_KH, 1.0, self.out)

    def backward(self, slope_KBH: Tensor) -> Tensor:
        norm, bias_grad_KH, grad_KHF = self.norm, _grad(self.bias_KH), _grad(self.weight_KHF)
        torch.sum(slope_KBH, 1, out=bias_grad_KH)
        _multiply_slope(slope_KBH, self.code_BF, 1.0, grad_KHF, wide=self.out.wide)
        # What the product would have been with the normed features:
        grad_KHF.sub_(bias_grad_KH[:, :, None] * self.mean_F).mul_(self.factor_F)
        torch.sum(grad_KHF * self.weight_KHF, 1, out=_grad(norm.weight_KH))
        _grad(norm.bias_KH).copy_(torch.bmm(bias_grad_KH[:, None], self.weight_KHF)[:, 0])
        grad_KHF.mul_(norm.weight_KH[:, None]).add_(bias_grad_KH[:, :, None] * norm.bias_KH[:, None])
        return slope_KBH


class Relu:
    """In the place of what came in."""

    def forward(self, x_KBH: Tensor) -> Tensor:
        self.out_KBH = torch.relu_(x_KBH)
        return self.out_KBH

    def backward(self, slope_KBH: Tensor) -> Tensor:
        # Where dropout has since put a 0 the slope is 0 too.
        aten.threshold_backward.grad_input(slope_KBH, self.out_KBH, 0, grad_input=slope_KBH)
        return slope_KBH


class Silu:
    """`x · sigmoid(x)`; what came in is kept for the way back."""

    def __init__(self, out: Buffer) -> None:
        self.out = out

    def forward(self, x_KBH: Tensor) -> Tensor:
        self.x_KBH, out_KBH = x_KBH, self.out.first(x_KBH.shape[1])
        aten.silu.out(x_KBH, out=out_KBH)
        return out_KBH

    def backward(self, slope_KBH: Tensor) -> Tensor:
        aten.silu_backward.grad_input(slope_KBH, self.x_KBH, grad_input=slope_KBH)
        return slope_KBH


class Norm:
    """Batch norm of each unit; running means and variances are kept as `nn.BatchNorm1d` does. Takes wide buffers."""

    def __init__(
        self,
        like: nn.BatchNorm1d,
        weight_KH: Tensor,
        bias_KH: Tensor,
        mean_KH: Tensor,
        variance_KH: Tensor,
        seen_K: Tensor,
    ) -> None:
        self.weight_KH, self.bias_KH, self.momentum, self.eps = weight_KH, bias_KH, like.momentum or 0.0, like.eps
        self.mean_KH, self.variance_KH, self.seen_K = mean_KH, variance_KH, seen_K

    def forward(self, x_KBH: Tensor) -> Tensor:
        self.x_BJ = _as_wide(x_KBH)
        self.seen_K.add_(1)
        running = self.mean_KH.view(-1), self.variance_KH.view(-1)
        out_BJ, self.batch_mean_J, self.batch_rstd_J = torch.native_batch_norm(
            self.x_BJ, self.weight_KH.flatten(), self.bias_KH.flatten(), *running, True, self.momentum, self.eps
        )
        return _by_member(out_BJ, len(x_KBH))

    def backward(self, slope_KBH: Tensor) -> Tensor:
        found: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
            _as_wide(slope_KBH), self.x_BJ, self.weight_KH.flatten(), None, None, self.batch_mean_J,
            self.batch_rstd_J, True, self.eps, [True, True, True],
        )  # fmt: skip
        _grad(self.weight_KH).copy_(found[1].view_as(self.weight_KH))
        _grad(self.bias_KH).copy_(found[2].view_as(self.bias_KH))
        return _by_member(found[0], len(slope_KBH))

    def note(self, mean_F: Tensor, variance_F: Tensor, rows: int) -> None:
        """Let the running values follow those of a batch, which is the same for all members."""
        self.seen_K.add_(1)
        self.mean_KH.lerp_(mean_F.expand_as(self.mean_KH), self.momentum)
        self.variance_KH.lerp_((variance_F * (rows / (rows - 1))).expand_as(self.variance_KH), self.momentum)


class Dropout:
    """In the place of what came in; each member draws from its own generator what it would draw alone."""

    def __init__(self, share: float, generators: Sequence[torch.Generator], kept_KBH: Tensor) -> None:
        self.share, self.generators, self.kept_KBH = share, generators, kept_KBH
        _, largest, units = kept_KBH.shape
        # On a CPU in pieces that stay in the cache; a multiple of 4, so that they draw what the whole batch would.
        self.rows = max(4, CHUNK // units // 4 * 4) if kept_KBH.device.type == "cpu" else largest
        self.factor_BH = torch.empty(min(self.rows, largest), units, device=kept_KBH.device)

    def forward(self, x_KBH: Tensor) -> Tensor:
        return self._multiply(x_KBH, draw=True)

    def backward(self, slope_KBH: Tensor) -> Tensor:
        return self._multiply(slope_KBH, draw=False)

    def _multiply(self, x_KBH: Tensor, *, draw: bool) -> Tensor:
        for generator, kept_BH, x_BH in zip(self.generators, self.kept_KBH, x_KBH, strict=True):
            pieces = zip(torch.split(kept_BH[: len(x_BH)], self.rows), torch.split(x_BH, self.rows), strict=True)
            for kept_piece_BH, x_piece_BH in pieces:
                if draw:
                    self.scale = draw_kept(kept_piece_BH, self.share, generator)
                factor_BH = self.factor_BH[: len(kept_piece_BH)]
                x_piece_BH.mul_(factor_BH.copy_(kept_piece_BH).mul_(self.scale))
        return x_KBH


class Linear:
    """`W · x + b` of each member; the slope takes the place of what came in unless there is a buffer for it."""

    def __init__(self, weight_KHG: Tensor, bias_KH: Tensor, out: Buffer, slope: Buffer | None) -> None:
        self.weight_KHG, self.bias_KH, self.out, self.slope = weight_KHG, bias_KH, out, slope

    def forward(self, x_KBH: Tensor) -> Tensor:
        self.x_KBG, out_KBH = x_KBH, self.out.first(x_KBH.shape[1])
        return torch.baddbmm(self.bias_KH[:, None], x_KBH, self.weight_KHG.mT, out=out_KBH)

    def backward(self, slope_KBH: Tensor) -> Tensor:
        torch.sum(slope_KBH, 1, out=_grad(self.bias_KH))
        torch.bmm(slope_KBH.mT, self.x_KBG, out=_grad(self.weight_KHG))
        into_KBG = self.x_KBG if self.slope is None else self.slope.first(slope_KBH.shape[1])
        if slope_KBH.shape[2] == 1:  # one target: nothing to sum over
            return torch.mul(slope_KBH, self.weight_KHG, out=into_KBG)
        return torch.bmm(slope_KBH, self.weight_KHG, out=into_KBG)


def moments(code_BF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of each column, `[F]`; exact sums, because codes are small whole numbers.

    In pieces that stay in the cache: 10 times as fast as `torch.var_mean` along the rows (two cores, AVX-512).
    """
    rows, n_features = code_BF.shape
    total_F, square_F = code_BF.new_zeros(2, n_features)
    for piece_BF in torch.split(code_BF, max(1, CHUNK // n_features)):
        total_F += piece_BF.sum(0)
        square_F += piece_BF.square().sum(0)
    mean_F = total_F / rows
    return mean_F, square_F / rows - mean_F.square()


def _multiply(code_BF: Tensor, weight_KHF: Tensor, bias_KH: Tensor, scale: float, out: Buffer) -> Tensor:
    """`b + scale · W · code` of all members."""
    out_KBH = out.first(len(code_BF))
    if out.wide:
        torch.addmm(bias_KH.flatten(), code_BF, weight_KHF.flatten(0, 1).t(), alpha=scale, out=_as_wide(out_KBH))
    else:
        code_KBF = code_BF.expand(len(weight_KHF), -1, -1)
        torch.baddbmm(bias_KH[:, None], code_KBF, weight_KHF.mT, alpha=scale, out=out_KBH)
    return out_KBH


def _multiply_slope(slope_KBH: Tensor, code_BF: Tensor, scale: float, grad_KHF: Tensor, *, wide: bool) -> None:
    """`scale · slopeᵀ · code` of all members into `grad_KHF`."""
    if wide:
        grad_JF = grad_KHF.flatten(0, 1)
        torch.addmm(grad_JF, _as_wide(slope_KBH).t(), code_BF, beta=0, alpha=scale, out=grad_JF)
    else:
        code_KBF = code_BF.expand(len(grad_KHF), -1, -1)
        torch.baddbmm(grad_KHF, slope_KBH.mT, code_KBF, beta=0, alpha=scale, out=grad_KHF)


def _as_wide(x_KBH: Tensor) -> Tensor:
    """A view `[B, J]` of what lies wide."""
    members, rows, units = x_KBH.shape
    return x_KBH.transpose(0, 1).view(rows, members * units)


def _by_member(x_BJ: Tensor, members: int) -> Tensor:
    return x_BJ.view(len(x_BJ), members, -1).transpose(0, 1)


def _grad(parameter: Tensor) -> Tensor:
    found = parameter.grad
    if found is None:
        raise ValueError("a parameter must have room for its gradient, however it has none")
    return found

"""The layers of K networks side by side, forward and backward written out, in buffers that are made once.

`members` chains them in the order in which a batch passes them, which is also the order here: `CodesLinear`, then for
each hidden layer `Relu` or `Silu`, `Norm`, `Dropout` and `Linear`. Activations of all members stand beside each
other, member after member, in rows of J = K x H numbers. `backward` turns the loss's slope by what came out into the
slope by what came in, may overwrite what it is given, and writes the `grad` of its parameters (it never adds).
tests/eraflow/test_members.py holds each of them against autograd.

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
    def forward(self, x_BJ: Tensor) -> Tensor: ...

    def backward(self, slope_BJ: Tensor) -> Tensor: ...


class CodesLinear:
    """The first layer, on codes that all members share: `W · (scale · (code - offset)) + b`.

    Scale and offset are folded into the product, F x J numbers a step in place of B x F. Codes have no slope.
    """

    def __init__(self, weight_KHF: Tensor, bias_KH: Tensor, out_BJ: Tensor, scale: float, offset: float) -> None:
        self.weight_JF, self.weight_grad_JF = weight_KHF.flatten(0, 1), _grad(weight_KHF).flatten(0, 1)
        self.bias_J, self.bias_grad_J = bias_KH.flatten(), _grad(bias_KH).flatten()
        self.out_BJ, self.scale, self.offset = out_BJ, scale, offset

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.code_BF = x_BJ
        bias_J = self.bias_J
        if self.offset:
            bias_J = bias_J - self.weight_JF.sum(1).mul_(self.scale * self.offset)
        return torch.addmm(bias_J, x_BJ, self.weight_JF.t(), alpha=self.scale, out=self.out_BJ[: len(x_BJ)])

    def backward(self, slope_BJ: Tensor) -> Tensor:
        torch.sum(slope_BJ, 0, out=self.bias_grad_J)
        grad_JF = self.weight_grad_JF
        torch.addmm(grad_JF, slope_BJ.t(), self.code_BF, beta=0, alpha=self.scale, out=grad_JF)
        if self.offset:
            grad_JF.sub_(self.bias_grad_J[:, None] * (self.scale * self.offset))
        return slope_BJ


class NormedCodesLinear:
    """The first layer behind a batch norm: `W · (w · (code - mean)/std + s) + b`, all of it folded into one product.

    Nothing of size B x F is written, and the batch's statistics are taken once for all members, which see the same
    rows. With `scale` and `offset` the norm is that of `scale · (code - offset)`.
    """

    def __init__(
        self, weight_KHF: Tensor, bias_KH: Tensor, out_BJ: Tensor, scale: float, offset: float, norm: Norm
    ) -> None:
        self.weight_KHF, self.bias_KH, self.out_BJ, self.norm = weight_KHF, bias_KH, out_BJ, norm
        self.scale, self.offset = scale, offset
        self.folded_KHF = torch.empty_like(weight_KHF)

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.code_BF, norm = x_BJ, self.norm
        self.mean_F, variance_F = moments(x_BJ)
        norm.note(self.scale * (self.mean_F - self.offset), self.scale**2 * variance_F, len(x_BJ))
        self.factor_F = self.scale * (self.scale**2 * variance_F + norm.eps).rsqrt()
        torch.mul(self.weight_KHF, (norm.weight_KH * self.factor_F)[:, None], out=self.folded_KHF)
        shift_KH = torch.bmm(self.weight_KHF, norm.bias_KH[:, :, None])[:, :, 0] - self.folded_KHF @ self.mean_F
        folded_JF, bias_J = self.folded_KHF.flatten(0, 1), (self.bias_KH + shift_KH).flatten()
        return torch.addmm(bias_J, x_BJ, folded_JF.t(), out=self.out_BJ[: len(x_BJ)])

    def backward(self, slope_BJ: Tensor) -> Tensor:
        norm, grad_KHF = self.norm, _grad(self.weight_KHF)
        bias_grad_KH = torch.sum(slope_BJ, 0).view_as(self.bias_KH)
        torch.mm(slope_BJ.t(), self.code_BF, out=grad_KHF.flatten(0, 1))
        # What the product would have been with the normed features:
        grad_KHF.sub_(bias_grad_KH[:, :, None] * self.mean_F).mul_(self.factor_F)
        torch.sum(grad_KHF * self.weight_KHF, 1, out=_grad(norm.weight_KH))
        _grad(norm.bias_KH).copy_(torch.bmm(bias_grad_KH[:, None], self.weight_KHF)[:, 0])
        grad_KHF.mul_(norm.weight_KH[:, None]).add_(bias_grad_KH[:, :, None] * norm.bias_KH[:, None])
        _grad(self.bias_KH).copy_(bias_grad_KH)
        return slope_BJ


class Relu:
    """In the place of what came in."""

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.out_BJ = torch.relu_(x_BJ)
        return self.out_BJ

    def backward(self, slope_BJ: Tensor) -> Tensor:
        # Where dropout has since put a 0 the slope is 0 too.
        aten.threshold_backward.grad_input(slope_BJ, self.out_BJ, 0, grad_input=slope_BJ)
        return slope_BJ


class Silu:
    """`x · sigmoid(x)`; what came in is kept for the way back."""

    def __init__(self, out_BJ: Tensor) -> None:
        self.out_BJ = out_BJ

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.x_BJ, out_BJ = x_BJ, self.out_BJ[: len(x_BJ)]
        aten.silu.out(x_BJ, out=out_BJ)
        return out_BJ

    def backward(self, slope_BJ: Tensor) -> Tensor:
        aten.silu_backward.grad_input(slope_BJ, self.x_BJ, grad_input=slope_BJ)
        return slope_BJ


class Norm:
    """Batch norm of each unit; running means and variances are kept as `nn.BatchNorm1d` does."""

    def __init__(
        self, like: nn.BatchNorm1d, weight_KH: Tensor, bias_KH: Tensor, mean_KH: Tensor, var_KH: Tensor, seen_K: Tensor
    ) -> None:
        self.weight_KH, self.bias_KH, self.mean_KH, self.var_KH, self.seen_K = (
            weight_KH,
            bias_KH,
            mean_KH,
            var_KH,
            seen_K,
        )
        self.momentum, self.eps = like.momentum or 0.0, like.eps

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.x_BJ = x_BJ
        self.seen_K.add_(1)
        running = self.mean_KH.view(-1), self.var_KH.view(-1)
        out_BJ: Tensor
        out_BJ, self.batch_mean_J, self.batch_rstd_J = torch.native_batch_norm(
            x_BJ, self.weight_KH.flatten(), self.bias_KH.flatten(), *running, True, self.momentum, self.eps
        )
        return out_BJ

    def backward(self, slope_BJ: Tensor) -> Tensor:
        found: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
            slope_BJ, self.x_BJ, self.weight_KH.flatten(), None, None, self.batch_mean_J, self.batch_rstd_J,
            True, self.eps, [True, True, True],
        )  # fmt: skip
        _grad(self.weight_KH).copy_(found[1].view_as(self.weight_KH))
        _grad(self.bias_KH).copy_(found[2].view_as(self.bias_KH))
        return found[0]

    def note(self, mean_F: Tensor, variance_F: Tensor, rows: int) -> None:
        """Let the running values follow those of a batch, which is the same for all members."""
        self.seen_K.add_(1)
        self.mean_KH.lerp_(mean_F.expand_as(self.mean_KH), self.momentum)
        self.var_KH.lerp_((variance_F * (rows / (rows - 1))).expand_as(self.var_KH), self.momentum)


class Dropout:
    """In the place of what came in; each member draws from its own generator what it would draw alone."""

    def __init__(self, share: float, generators: Sequence[torch.Generator], kept_KBH: Tensor) -> None:
        self.share, self.generators, self.kept_KBH = share, generators, kept_KBH
        # A multiple of 4, so that pieces of a batch draw what the whole would.
        self.rows = max(4, CHUNK // kept_KBH.shape[2] // 4 * 4)
        self.factor_BH = torch.empty(min(self.rows, kept_KBH.shape[1]), kept_KBH.shape[2], device=kept_KBH.device)

    def forward(self, x_BJ: Tensor) -> Tensor:
        return self._multiply(x_BJ, draw=True)

    def backward(self, slope_BJ: Tensor) -> Tensor:
        return self._multiply(slope_BJ, draw=False)

    def _multiply(self, x_BJ: Tensor, *, draw: bool) -> Tensor:
        for generator, kept_BH, x_BH in zip(
            self.generators, self.kept_KBH, by_member(x_BJ, len(self.kept_KBH)), strict=True
        ):
            for start in range(0, len(x_BH), self.rows):
                here = slice(start, min(start + self.rows, len(x_BH)))
                if draw:
                    self.scale = draw_kept(kept_BH[here], self.share, generator)
                factor_BH = self.factor_BH[: here.stop - start]
                x_BH[here].mul_(factor_BH.copy_(kept_BH[here]).mul_(self.scale))
        return x_BJ


class Linear:
    """`W · x + b` of each member; the slope takes the place of what came in unless there is a buffer for it."""

    def __init__(self, weight_KHG: Tensor, bias_KH: Tensor, out_BJ: Tensor, slope_BJ: Tensor | None) -> None:
        self.weight_KHG, self.bias_KH, self.out_BJ, self.slope_BJ = weight_KHG, bias_KH, out_BJ, slope_BJ

    def forward(self, x_BJ: Tensor) -> Tensor:
        self.x_BJ, out_BJ, members = x_BJ, self.out_BJ[: len(x_BJ)], len(self.weight_KHG)
        x_KBG, out_KBH = by_member(x_BJ, members), by_member(out_BJ, members)
        torch.baddbmm(self.bias_KH[:, None], x_KBG, self.weight_KHG.mT, out=out_KBH)
        return out_BJ

    def backward(self, slope_BJ: Tensor) -> Tensor:
        members, x_KBG = len(self.weight_KHG), by_member(self.x_BJ, len(self.weight_KHG))
        slope_KBH = by_member(slope_BJ, members)
        torch.sum(slope_BJ, 0, out=_grad(self.bias_KH).view(-1))
        torch.bmm(slope_KBH.mT, x_KBG, out=_grad(self.weight_KHG))
        into_BJ = self.x_BJ if self.slope_BJ is None else self.slope_BJ[: len(slope_BJ)]
        into_KBG = by_member(into_BJ, members)
        if slope_KBH.shape[2] == 1:  # one target: nothing to sum over
            torch.mul(slope_KBH, self.weight_KHG, out=into_KBG)
        else:
            torch.bmm(slope_KBH, self.weight_KHG, out=into_KBG)
        return into_BJ


def by_member(x_BJ: Tensor, members: int) -> Tensor:
    """`[B, J]` seen as `[K, B, H]`."""
    return x_BJ.view(len(x_BJ), members, -1).transpose(0, 1)


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


def _grad(parameter: Tensor) -> Tensor:
    found = parameter.grad
    if found is None:
        raise ValueError("a parameter must have room for its gradient, however it has none")
    return found

"""A model's output matrix while it trains: rounded up to a size that tensor cores take, and run together with the loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad
from transformers import PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.families.graph import Head
from pipeline.training.losses import summed_loss

_CHUNK = 2**28
"""Logits that are there at a time where the matrix runs with the loss: enough rows to keep a device busy."""
_SCALE = 2.0**8
"""By which gradients are multiplied until the loss's own gradient is known: fp16 cannot hold small probabilities. A power
of two rounds nothing, and suits weights up to 100."""


class OutputMatrix:
    """The forward pass of the linear layer that makes logits; in evaluation it is the layer's own.

    Parameters stay as they are, so that checkpoints, optimizers and what is exported know nothing of it.
    """

    def __init__(self, layer: nn.Linear, divisible_by: int, scale: float, *, with_loss: bool) -> None:
        """Round the rows up to a multiple of `divisible_by`; `with_loss`: return the loss where the labels are known.

        `scale` is what the model multiplies the layer's output by.
        """
        self._layer, self._scale = layer, scale
        self._padding = -layer.out_features % divisible_by
        self._with_loss = with_loss
        self.labels: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [..., V], behind them -inf up to the rounded size; or the summed loss, of no dimension."""
        weight, bias = self._layer.weight, self._layer.bias
        if not self._layer.training:
            return linear(hidden, weight, bias)
        rows = hidden.flatten(0, -2)
        if self._with_loss and self.labels is not None:
            labels = self.labels.to(hidden.device).flatten()
            if self._scale == 1.0:
                return _LinearCrossEntropy.apply(rows, weight, bias, labels, self._padding)
            scaled_bias = None if bias is None else bias * self._scale
            # The model takes the loss for logits and multiplies it too.
            return _LinearCrossEntropy.apply(rows * self._scale, weight, scaled_bias, labels, self._padding) / self._scale
        # Of rows in one dimension every kernel adds the bias while it multiplies.
        return linear(rows, *_padded(weight, bias, self._padding)).unflatten(0, hidden.shape[:-1])


def check_head(head: Head, divisible_by: int, *, with_loss: bool) -> None:
    """Raise UserError where a model does more with its logits than an output matrix that runs so can know."""
    if head.capped and (with_loss or divisible_by > 1):
        key = "fused_linear_cross_entropy" if with_loss else "make_vocab_size_divisible_by"
        raise UserError(f"{key}: not supported for a model that caps its logits (final_logit_softcapping); leave the key out")


def prepare_head(model: PreTrainedModel, head: Head, divisible_by: int, *, with_loss: bool) -> None:
    """Have the output matrix of a model run so in training; raises UserError as `check_head` does."""
    check_head(head, divisible_by, with_loss=with_loss)
    layer = model.get_output_embeddings()
    layer.forward = OutputMatrix(layer, divisible_by, head.scale, with_loss=with_loss)


@contextmanager
def labelled(model: PreTrainedModel, labels: torch.Tensor) -> Iterator[None]:
    """Tell the output matrix which labels its rows have, where it runs with the loss."""
    head = model.get_output_embeddings().forward
    if not isinstance(head, OutputMatrix):
        yield
        return
    head.labels = labels
    try:
        yield
    finally:
        head.labels = None


def _padded(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return both with so many rows more, which make logits of -inf: no probability, and a gradient of 0 throughout."""
    if not rows:
        return weight, bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return pad(weight, (0, 0, 0, rows)), pad(bias, (0, rows), value=-torch.inf)


class _LinearCrossEntropy(torch.autograd.Function):
    """A linear layer and the summed loss of its logits, which are never whole.

    Gradients are computed in the forward pass, where a chunk's logits are at hand, and multiplied by the loss's own in the
    backward pass: no product is computed twice. The matrix is read in the forward pass alone, as ZeRO-3 holds it then.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, padding: int
    ) -> torch.Tensor:
        """Return the sum in fp32; `hidden` is [N, D], `labels` int64 [N]."""
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        matrix, offsets = _padded(weight, bias, padding)
        # Chunks are added up in fp32: in half precision later ones would vanish in the sum.
        wide = torch.promote_types(weight.dtype, torch.float32)
        hidden_gradient = torch.empty_like(hidden) if of_hidden else None
        weight_gradient = torch.zeros_like(matrix, dtype=wide) if of_weight else None
        bias_gradient = torch.zeros_like(offsets, dtype=wide) if of_bias and offsets is not None else None
        rows, losses = max(1, _CHUNK // len(matrix)), []
        for begin in range(0, max(1, len(hidden)), rows):
            some = hidden[begin : begin + rows]
            logits = linear(some, matrix, offsets).requires_grad_()
            with torch.enable_grad():
                loss = summed_loss(logits, labels[begin : begin + rows])
                (gradient,) = torch.autograd.grad(loss * _SCALE, logits)
            losses.append(loss.detach())
            if hidden_gradient is not None:
                torch.mm(gradient, matrix, out=hidden_gradient[begin : begin + rows])
            if weight_gradient is not None:
                _add_product(weight_gradient, gradient.T, some)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(0, dtype=wide)
            # Before the next chunk's are made.
            del logits, loss, gradient
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        ctx.rows, ctx.dtype = len(weight), weight.dtype
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of `hidden`, `weight` and `bias` that were asked for."""
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        # Of one dimension: a tensor of none would be rounded to the other's dtype first.
        factor = (gradient / _SCALE).view(1)

        def scaled(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            return torch.mul(tensor, factor, out=torch.empty_like(tensor, dtype=dtype))

        return (
            None if of_hidden is None else scaled(of_hidden, of_hidden.dtype),
            None if of_weight is None else scaled(of_weight[: ctx.rows], ctx.dtype),
            None if of_bias is None else scaled(of_bias[: ctx.rows], ctx.dtype),
            None,
            None,
        )


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left x right to a sum that is kept in fp32 beside factors in half precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.device.type == "cuda":
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))

"""Sequence parallelism: several ranks share a sequence, each has a slice of its positions, and attention has all of them.

DeepSpeed-Ulysses (Jacobs et al. 2023): before attention one exchange gives each rank some heads of all positions, and behind it
another gives each rank all heads of its own positions. To DeepSpeed's engine each rank stays a rank of its own: losses are sums
over tokens, divided by the tokens of the whole batch, so that it does not matter to gradients who has which of them.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.data.batches import Batch
from pipeline.data.objectives import IGNORED
from pipeline.families import sizes_of
from pipeline.training import distributed
from pipeline.training.attention import positions_within

_SCORES = ("softcap", "s_aux", "position_bias", "head_mask")
"""What classes hand an attention function that changes scores."""

_NAME = "ulysses"
"""As which attention functions know it."""


def check_heads_divide(config: PretrainedConfig, ranks: int) -> None:
    """Raise UserError where a model's heads do not divide over the ranks that share a sequence."""
    sizes = sizes_of(config)
    heads, groups = sizes.num_attention_heads, sizes.num_key_value_heads
    if heads % ranks:
        raise UserError(
            f"sequence_parallel_size: {ranks} does not divide the model's {heads} attention heads, which the ranks share; "
            "choose a divisor of it"
        )
    if groups % ranks and ranks % groups:
        raise UserError(
            f"sequence_parallel_size: {ranks} neither divides the model's {groups} key-value heads nor is a multiple of them; "
            "choose such a number"
        )


def check_length_divides(length: int, ranks: int, where: str) -> None:
    """Raise UserError, which begins with `where`, where a sequence does not divide over the ranks that share it."""
    if length % ranks:
        raise UserError(f"{where}sequence_length: {length} is no multiple of sequence_parallel_size, {ranks}; choose one")


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share this rank's sequences: consecutive ones, which are likely on one node."""

    size: int
    group: torch.distributed.ProcessGroup | None
    """None where no rank shares any."""

    @classmethod
    def joined(cls, size: int) -> "SequenceGroup":
        """Form the groups; a collective call of all ranks. `size` divides their number."""
        if size == 1:
            return cls(1, None)
        own, _ = torch.distributed.new_subgroups(size, timeout=distributed.TIMEOUT)
        return cls(size, own)

    @property
    def sequence_rank(self) -> int:
        """Which slice of a sequence this rank has."""
        return distributed.rank() % self.size

    @property
    def data_parallel_rank(self) -> int:
        """Which group this rank is in: ranks of a group read the same samples."""
        return distributed.rank() // self.size

    @property
    def data_parallel_size(self) -> int:
        """How many groups there are."""
        return distributed.world_size() // self.size

    def sliced(self, batch: Batch) -> Batch:
        """Return this rank's slice of a batch, with the positions of its tokens; what masks are made of stays whole."""
        if self.size == 1:
            return batch
        length = batch.input_ids.shape[1] // self.size
        mine = slice(self.sequence_rank * length, (self.sequence_rank + 1) * length)
        positions = torch.arange(batch.input_ids.shape[1]).expand_as(batch.input_ids)
        if batch.documents is not None:
            positions = positions_within(batch.documents)
        pairs = batch.pair_labels
        return replace(
            batch,
            input_ids=batch.input_ids[:, mine],
            labels=batch.labels[:, mine],
            token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[:, mine],
            # The pair is judged by its first token, which one rank has.
            pair_labels=pairs if pairs is None or self.sequence_rank == 0 else torch.full_like(pairs, IGNORED),
            positions=positions[:, mine],
        )

    def attend(self, config: PretrainedConfig, mask: torch.Tensor | None) -> None:
        """Let a model's layers attend over the slices of all ranks of the group; `mask` is `mask_of` the whole sequences.

        It holds until `release`, since layers whose activations are checkpointed run again in the backward pass.
        """
        global _attending
        own = config._attn_implementation if _attending is None else _attending.own
        config._attn_implementation_internal = _NAME
        _attending = _Attending(self, mask, own)

    @staticmethod
    def release(config: PretrainedConfig) -> None:
        """Let a model's layers attend over what they are given, as before."""
        global _attending
        if _attending is not None:
            config._attn_implementation_internal = _attending.own
            _attending = None


ALONE = SequenceGroup(1, None)
"""No rank shares any."""


@dataclass(frozen=True, slots=True)
class _Attending:
    """What attention is within: the classes hand an attention function nothing that they do not know."""

    group: SequenceGroup
    mask: torch.Tensor | None
    own: str
    """The attention that the model has otherwise."""
    narrowed: dict[tuple[int | None, bool], torch.Tensor | None] = field(default_factory=dict)
    """The mask by window and whether it is causal: made once for all layers."""


_attending: _Attending | None = None


def mask_of(documents: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which keys each query may see beside what is causal, bool [sequences, 1, S or 1, S]; None for all of them.

    `documents` and `attention_mask` are [sequences, S], of whole sequences.
    """
    if documents is not None:
        return documents[:, None, :, None] == documents[:, None, None, :]
    return None if attention_mask is None else attention_mask[:, None, None, :].bool()


@torch.compiler.disable
def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over whole sequences; query, key and value are [sequences, heads, S / ranks, d] of this rank's positions.

    Raises UserError for what changes scores and is not applied here.
    """
    for name in _SCORES:
        if others.get(name) is not None:
            raise UserError(
                f"sequence_parallel_size: {type(module).__name__} asks attention for {name}, which is not applied to sequences "
                "that ranks share; set it to 1"
            )
    attending = _attending
    if attending is None:
        raise RuntimeError("attention over sequences that ranks share runs between `attend` and `release` alone")
    within, mask = attending.group, attending.mask
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    heads, groups = query.shape[1], key.shape[1]
    if groups % within.size:
        # Fewer key-value heads than ranks: each goes to several.
        key, value = (tensor.repeat_interleave(within.size // groups, dim=1) for tensor in (key, value))
        groups = within.size
    sizes = [heads // within.size, groups // within.size, groups // within.size]
    # Heads go as one: channels of zeros beside the narrower ones (attention over latents) change no score.
    channels, scaling = value.shape[-1], query.shape[-1] ** -0.5 if scaling is None else scaling
    widest = max(query.shape[-1], channels)
    query, key, value = (pad(tensor, (0, widest - tensor.shape[-1])) for tensor in (query, key, value))
    by_rank = [tensor.unflatten(1, (within.size, size)) for tensor, size in zip((query, key, value), sizes, strict=True)]
    # [sequences, ranks, heads, S / ranks, d] -> [sequences, heads, S, d]
    gathered = _Exchange.apply(torch.cat(by_rank, dim=2).transpose(0, 1), within.group)
    query, key, value = gathered.permute(1, 2, 0, 3, 4).flatten(2, 3).split(sizes, dim=1)
    if mask is not None or sliding_window is not None:
        form = sliding_window, causal
        if form not in attending.narrowed:
            attending.narrowed[form] = _narrowed(mask, query.shape[2], *form, device=query.device)
        mask = attending.narrowed[form]
    mixed = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout if module.training else 0.0,
        is_causal=causal and mask is None,
        scale=scaling,
        enable_gqa=sizes[0] != sizes[1],
    )[..., :channels]
    # [sequences, heads, S, d] -> [sequences, S / ranks, all heads, d]
    back = _Exchange.apply(mixed.unflatten(2, (within.size, -1)).permute(2, 0, 1, 3, 4), within.group)
    return back.permute(1, 3, 0, 2, 4).flatten(2, 3).contiguous(), None


def _narrowed(
    mask: torch.Tensor | None, length: int, window: int | None, causal: bool, *, device: torch.device
) -> torch.Tensor | None:
    """Return a mask that is made causal, and narrowed to a window of keys."""
    queries, keys = torch.arange(length, device=device)[:, None], torch.arange(length, device=device)[None, :]
    seen = mask
    narrowings = [queries >= keys] if causal else []
    if window is not None:
        narrowings += [queries < keys + window] + ([] if causal else [keys < queries + window])
    for narrowing in narrowings:
        seen = narrowing[None, None] if seen is None else seen & narrowing
    return seen


class _Exchange(torch.autograd.Function):
    """Chunk i of the first dimension goes to rank i of the group, and what comes from rank i is chunk i."""

    @staticmethod
    def forward(ctx: Any, chunks: torch.Tensor, group: torch.distributed.ProcessGroup) -> torch.Tensor:
        """Return what the ranks have sent."""
        ctx.group = group
        return _exchanged(chunks, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the gradient to where the values came from."""
        return _exchanged(gradient, ctx.group), None


def _exchanged(chunks: torch.Tensor, group: torch.distributed.ProcessGroup) -> torch.Tensor:
    chunks = chunks.contiguous()
    received = torch.empty_like(chunks)
    torch.distributed.all_to_all_single(received, chunks, group=group)
    return received


AttentionInterface.register(_NAME, _attend)

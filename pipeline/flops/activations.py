"""Bytes that a forward pass keeps for the backward pass: what autograd saves, weights left out.

Counted by module from the sizes: a matrix product keeps its input where its weight learns, and nothing else but the weight;
norms, activations, softmax and the loss keep what their derivatives are made of.
"""

import torch
from transformers import PretrainedConfig

from pipeline.families import Family, Section, Sizes, sizes_of

_FLOAT, _INT64 = 4, 8

_KEPT_BY_ACTIVATION = {"relu": 0}
"""Tensors over the FFN's units that an activation keeps beside its output; one, its input, where it is a single kernel."""


def activation_bytes(
    family: Family,
    config: PretrainedConfig,
    sequence_length: int,
    tokens: int,
    *,
    scored: int,
    section: Section | None = None,
    dtype: torch.dtype = torch.float32,
    recomputed: bool = False,
    with_loss: bool = False,
    vocab_divisible_by: int = 1,
) -> int:
    """Bytes kept of a forward pass over `tokens` tokens in sequences of `sequence_length`, without dropout.

    `scored` positions reach the head. `section` says what runs and what of it learns; None is the whole model. `dtype` is
    what the model computes in, and the logits are kept in. `recomputed`: layers keep their input alone, and the one that
    is run again keeps all of its own. `with_loss`: the output matrix runs with the loss, and keeps gradients instead of logits.
    `vocab_divisible_by`: what its rows are rounded up to a multiple of.
    """
    sizes = sizes_of(config)
    section = section or Section.whole(sizes.num_hidden_layers)
    size = dtype.itemsize
    learning = _layer(family, sizes, config, sequence_length, size, learns=True)
    passed = _layer(family, sizes, config, sequence_length, size, learns=False)
    layers = [learning if layer in section.layers else passed for layer in range(section.lowest or 0, section.depth)]
    if recomputed:
        layers = [sizes.hidden_size * size] * len(layers) + [max(layers, default=0)]
    vocabulary = sizes.vocab_size + -sizes.vocab_size % vocab_divisible_by
    kept = tokens * sum(layers) + scored * _head(family, sizes, size, 0 if with_loss else vocabulary, learns=section.head)
    if with_loss:
        # The matrix's gradient, and the bias's of a masked model, in the sum of its chunks.
        kept += _FLOAT * vocabulary * (sizes.hidden_size + (family.objective == "mlm")) * section.head
    elif vocabulary > sizes.vocab_size:
        kept += size * vocabulary * sizes.hidden_size
    if section.embeddings:
        return kept + tokens * _embeddings(family, sizes, size)
    # The lowest norm need not hand a gradient down: an RMSNorm then forgets its input.
    return kept - (tokens * sizes.hidden_size * _FLOAT if family.norm == "rms_norm" and not recomputed else 0)


def _norm(family: Family, channels: int, size: int, *, learns: bool) -> int:
    """Of one norm and one token, its output left out."""
    if family.norm == "layer_norm":
        return channels * size + 2 * _FLOAT
    # The input in float32 and, for the gain, what it multiplies.
    return channels * (_FLOAT + size * learns) + _FLOAT


def _layer(family: Family, sizes: Sizes, config: PretrainedConfig, sequence_length: int, size: int, *, learns: bool) -> int:
    """Of one layer and one token, its output left out."""
    hidden, heads, inner = sizes.hidden_size, sizes.num_attention_heads, sizes.intermediate_size
    queries, keys = heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    decoder = family.norm == "rms_norm"
    # Inputs of the matrices that make queries, keys, values, and of the FFN's first and last.
    elements = (2 * hidden + inner) * learns
    activation = getattr(config, "hidden_act", None) or config.activation_function
    # A gated FFN multiplies the activation's output by a second matrix's.
    elements += inner * (_KEPT_BY_ACTIVATION.get(activation, 1) + 2 * decoder)
    total = 2 * _norm(family, hidden, size, learns=learns)
    if family.query_key_norm:
        total += _norm(family, queries, size, learns=learns) + _norm(family, keys, size, learns=learns)
    if config._attn_implementation == "eager":
        # Key-value heads are repeated for the query heads that share them; probabilities are cast from float32.
        elements += 3 * queries + queries * learns + heads * sequence_length
        total += heads * sequence_length * _FLOAT if decoder and size != _FLOAT else 0
    else:
        # The mixed values, which the output projection reads too, and the logarithm of each softmax's denominator.
        elements += 2 * queries + 2 * keys
        total += heads * _FLOAT
    return total + elements * size


def _embeddings(family: Family, sizes: Sizes, size: int) -> int:
    """Of one token: where it looks, and what an encoder's norm keeps."""
    return _INT64 + (0 if family.pre_norm else _norm(family, sizes.hidden_size, size, learns=True))


def _head(family: Family, sizes: Sizes, size: int, logits: int, *, learns: bool) -> int:
    """Of one scored position, the loss of its logits included; of none the gradient of what makes them is kept."""
    hidden = sizes.hidden_size
    kept = _norm(family, sizes.hidden_size, size, learns=learns) + (size * logits + _INT64 if logits else hidden * size)
    if family.objective == "mlm":
        # The transform's own input, and that of its activation, whose output the norm keeps.
        kept += hidden * size * (1 + learns) + _INT64
    return kept + (hidden * size if learns and logits else 0)

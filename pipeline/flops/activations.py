"""Bytes that a forward pass keeps for the backward pass: what autograd saves, weights left out.

Counted by module from the sizes: a matrix product keeps its input where its weight learns, and nothing else but the weight;
norms, activations, softmax and the loss keep what their derivatives are made of.
"""

import torch
from transformers import PretrainedConfig

from pipeline.families import Family, Section
from pipeline.families.graph import RESIDUAL, Attention, Mlp, Model, Norm, head_norms

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
    graph = family.graph(config)
    section = section or Section.whole(len(graph.stack.layers))
    size = dtype.itemsize
    learning = _layer(graph, config, sequence_length, size, learns=True)
    passed = _layer(graph, config, sequence_length, size, learns=False)
    layers = [learning if layer in section.layers else passed for layer in range(section.lowest or 0, section.depth)]
    if recomputed:
        layers = [graph.sizes[RESIDUAL] * size] * len(layers) + [max(layers, default=0)]
    hidden, rows = graph.sizes[RESIDUAL], graph.sizes["vocab"]
    vocabulary = rows + -rows % vocab_divisible_by
    kept = tokens * sum(layers) + scored * _head(graph, size, 0 if with_loss else vocabulary, learns=section.head)
    if with_loss:
        # The matrix's gradient, and the bias's of a masked model, in the sum of its chunks.
        kept += _FLOAT * vocabulary * (hidden + (family.objective == "mlm")) * section.head
    elif vocabulary > rows:
        kept += size * vocabulary * hidden
    if section.embeddings:
        return kept + tokens * _embeddings(graph, size)
    # The lowest norm need not hand a gradient down: an RMSNorm then forgets its input.
    forgets = graph.stream_norm == "rms" and not recomputed
    return kept - (tokens * graph.sizes[RESIDUAL] * _FLOAT if forgets else 0)


def _norm(norm: Norm, channels: int, size: int, *, learns: bool) -> int:
    """Of one norm and one token, its output left out."""
    if norm.kind == "layer":
        return channels * size + 2 * _FLOAT
    # The input in float32 and, for the gain, what it multiplies.
    return channels * (_FLOAT + size * learns) + _FLOAT


def _layer(graph: Model, config: PretrainedConfig, sequence_length: int, size: int, *, learns: bool) -> int:
    """Of one layer and one token, its output left out."""
    hidden, heads, inner = graph.sizes[RESIDUAL], graph.sizes["heads"], graph.sizes["ffn"]
    queries, keys = heads * graph.sizes["head_dim"], graph.sizes["kv_heads"] * graph.sizes["head_dim"]
    branches = graph.stack.layers[0].branches
    gated = any(isinstance(branch.body, Mlp) and branch.body.gated for branch in branches)
    # Inputs of the matrices that make queries, keys, values, and of the FFN's first and last.
    elements = (2 * hidden + inner) * learns
    activation = getattr(config, "hidden_act", None) or config.activation_function
    # A gated FFN multiplies the activation's output by a second matrix's.
    elements += inner * (_KEPT_BY_ACTIVATION.get(activation, 1) + 2 * gated)
    norms = [norm for branch in branches for norm in (branch.pre, branch.post, branch.ends) if norm is not None]
    total = sum(_norm(norm, hidden, size, learns=learns) for norm in norms)
    for branch in branches:
        if isinstance(branch.body, Attention):
            for norm, part, _ in head_norms(branch.body):
                total += _norm(norm, queries if part == "query" else keys, size, learns=learns)
    if config._attn_implementation == "eager":
        # Key-value heads are repeated for the query heads that share them; probabilities are cast from float32.
        elements += 3 * queries + queries * learns + heads * sequence_length
        total += heads * sequence_length * _FLOAT if graph.rotary and size != _FLOAT else 0
    else:
        # The mixed values, which the output projection reads too, and the logarithm of each softmax's denominator.
        elements += 2 * queries + 2 * keys
        total += heads * _FLOAT
    return total + elements * size


def _embeddings(graph: Model, size: int) -> int:
    """Of one token: where it looks, and what an encoder's norm keeps."""
    norm = graph.stack.embedding_norm
    return _INT64 + (0 if norm is None else _norm(norm, graph.sizes[RESIDUAL], size, learns=True))


def _head(graph: Model, size: int, logits: int, *, learns: bool) -> int:
    """Of one scored position, the loss of its logits included; of none the gradient of what makes them is kept."""
    hidden, head = graph.sizes[RESIDUAL], graph.head
    norm = graph.stack.final if head.norm is None else head.norm
    kept = _norm(norm, hidden, size, learns=learns) + (size * logits + _INT64 if logits else hidden * size)
    if head.transform is not None:
        # The transform's own input, and that of its activation, whose output the norm keeps.
        kept += hidden * size * (1 + learns) + _INT64
    return kept + (hidden * size if learns and logits else 0)

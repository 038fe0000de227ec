"""Bytes that a forward pass keeps for the backward pass: what autograd saves, weights left out.

Counted by module from the sizes: a matrix product keeps its input where its weight learns, and nothing else but the weight;
norms, activations, softmax and the loss keep what their derivatives are made of.
"""

import torch
from transformers import PretrainedConfig

from pipeline.families import ActiveLayers, Family
from pipeline.families.graph import Attention, Experts, Layer, Mlp, Model, head_norms
from pipeline.families.primitives import Norm
from pipeline.families.tensors import RESIDUAL

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
    active: ActiveLayers | None = None,
    dtype: torch.dtype = torch.float32,
    recomputed: bool = False,
    with_loss: bool = False,
    vocab_divisible_by: int = 1,
    router_losses: int = 0,
) -> int:
    """Bytes kept of a forward pass over `tokens` tokens in sequences of `sequence_length`, without dropout.

    `scored` positions reach the head. `active` says what runs and what of it learns; None is the whole model. `dtype` is
    what the model computes in, and the logits are kept in. `recomputed`: layers keep their input alone, and the one that
    is run again keeps all of its own. `with_loss`: the output matrix runs with the loss, and keeps gradients instead of logits.
    `vocab_divisible_by`: what its rows are rounded up to a multiple of. `router_losses`: how many losses there are of the
    routers of a mixture.
    """
    graph = family.graph(config)
    # A model with an encoder has two stacks, and is not counted.
    (stack,) = graph.stacks
    active = active or ActiveLayers.whole(len(stack.layers))
    size, hidden, rows = dtype.itemsize, graph.sizes[RESIDUAL], graph.sizes["vocab"]
    lowest = active.lowest
    run = range(lowest or 0, active.depth)
    layers = [
        tokens * _layer(graph, number, config, family, sequence_length, size, active)
        + _widened(graph, stack.layers[number], size) * _passes(active, number)
        for number in run
    ]
    if recomputed:
        layers = [tokens * hidden * size] * len(layers) + [max(layers, default=0)]
    # What losses keep of routers that learn is not run again.
    learning = [n for n in run if n in active.layers or (active.routers and n in active.mixtures)]
    experts = sum(len(body.each) for n in learning for body in stack.layers[n].experts)
    layers.append(tokens * experts * _FLOAT * router_losses)
    vocabulary = rows + -rows % vocab_divisible_by
    kept = sum(layers) + scored * _head(graph, size, 0 if with_loss else vocabulary, learns=active.head)
    if with_loss:
        # The matrix's gradient, and the bias's of a masked model, in the sum of its chunks.
        offsets = family.objective == "mlm" and active.head
        kept += _FLOAT * vocabulary * (hidden * (active.head or active.new_tokens) + offsets)
    elif vocabulary > rows:
        kept += size * vocabulary * hidden
    if active.new_tokens and not (active.head or with_loss):
        # What the output matrix reads.
        kept += scored * hidden * size
    if lowest is None:
        return kept + tokens * _embeddings(graph, size, learns=active.embeddings)
    # The lowest norm need not hand a gradient down.
    in_layers = lowest < active.depth
    norm = stack.layers[lowest].branches[0].pre if in_layers else stack.final
    if norm is None or (in_layers and (recomputed or lowest not in active.layers)):
        return kept
    return kept - tokens * (_norm(norm, hidden, size, learns=True) - _norm(norm, hidden, size, learns=True, passes=False))


def _slides(config: PretrainedConfig, layer: Layer, sequence_length: int) -> bool:
    """Whether a layer attends within a window that is shorter than the sequence."""
    window = getattr(config, "sliding_window", None)
    kind = layer.kind.get("layer_types", "full_attention" if window is None else "sliding_attention")
    return window is not None and kind == "sliding_attention" and window < sequence_length


def _norm(norm: Norm, channels: int, size: int, *, learns: bool, passes: bool = True) -> int:
    """Of one norm and one token, its output left out; `passes`: whether it hands a gradient down."""
    if _one_kernel(norm):
        return channels * size + 2 * _FLOAT
    # An RMSNorm's input in float32; a LayerNorm's, less its mean, twice. And what the gain multiplies.
    inputs = channels * _FLOAT * (2 if norm.kind == "layer" else 1) + _FLOAT
    gained = channels * (_FLOAT if norm.gain_in_float32 else size)
    return inputs * passes + gained * learns


def _one_kernel(norm: Norm) -> bool:
    """Whether it is torch's own, which keeps its input as it is."""
    return norm.kind == "layer" and not norm.gain_in_float32


def _passes(active: ActiveLayers, layer: int) -> bool:
    """Whether gradients go through all of a layer: of the lowest one parts of a mixture may learn, and nothing below them."""
    return active.lowest is None or layer > active.lowest or layer in active.layers


def _widened(graph: Model, layer: Layer, size: int) -> int:
    """Of one layer, by how many tokens it may be read: a router's matrix in float32."""
    routers = [body.router for body in layer.experts] if size < _FLOAT else []
    return sum(_FLOAT * router.out.size(graph.sizes) * router.into.size(graph.sizes) for router in routers)


def _layer(
    graph: Model, number: int, config: PretrainedConfig, family: Family, sequence_length: int, size: int, active: ActiveLayers
) -> int:
    """Of one layer and one token, its output left out."""
    hidden, activation, learns = graph.sizes[RESIDUAL], getattr(config, family.activation_key), number in active.layers
    if not _passes(active, number):
        (body,) = graph.stack.layers[number].experts
        return _experts(graph, body, config._experts_implementation, activation, size, active, number)
    eager = config._attn_implementation == "eager"
    # Fused attention makes numbers of a mask, again in each layer.
    total = sequence_length * size * (not eager and _slides(config, graph.stack.layers[number], sequence_length))
    for group in graph.stack.layers[number].groups:
        # Branches side by side read one stream, and may read one norm of it.
        read = {branch.pre for branch in group}
        norms = [norm for norm in (*read, *(norm for branch in group for norm in (branch.post, branch.ends))) if norm]
        total += sum(_norm(norm, hidden, size, learns=learns) for norm in norms)
        total -= hidden * size * (sum(norm is not None and _one_kernel(norm) for norm in read) - 1) if len(read) > 1 else 0
        # The input of the first matrices.
        total += hidden * size * len(read) * learns * (not any(isinstance(branch.body, Experts) for branch in group))
        for branch in group:
            if isinstance(branch.body, Attention):
                total += _attention(graph, branch.body, sequence_length, size, eager=eager, learns=learns)
            elif isinstance(branch.body, Experts):
                total += _experts(graph, branch.body, config._experts_implementation, activation, size, active, number)
            else:
                total += _network(graph, branch.body, activation, size, learns=learns)
    return total


def _network(graph: Model, body: Mlp, activation: str, size: int, *, learns: bool) -> int:
    """Of one token in a feed-forward network, what its first matrices read left out."""
    # A gated FFN multiplies the activation's output by a second matrix's; the last matrix reads what comes of it.
    kept = _KEPT_BY_ACTIVATION.get(activation, 1) + 2 * body.gated + learns
    return body.last.into.size(graph.sizes) * kept * size


def _experts(
    graph: Model, body: Experts, implementation: str, activation: str, size: int, active: ActiveLayers, number: int
) -> int:
    """Of one token in a mixture, what its matrices read among it."""
    whole, passes, parts = number in active.layers, _passes(active, number), number in active.mixtures
    selected = map(active.mixture_learns, ("router", "expert", "shared_expert"))
    router, experts, shared = (whole or (parts and learns) for learns in selected)
    chosen, hidden = body.per_token, graph.sizes[RESIDUAL]
    gated, flows, total = passes or router, passes or experts, 0
    # The stream: in float32 for the router, as it is for what is shared.
    as_it_is = (router and (size >= _FLOAT or body.shared_gate is not None)) or (shared and body.shared is not None)
    total += hidden * (_FLOAT * (router and size < _FLOAT) + size * as_it_is)
    if gated:
        # Scores, and of the experts that are chosen numbers, gates with their sum, and the outputs that those multiply.
        total += _FLOAT * len(body.each) + chosen * _INT64 + _FLOAT * (chosen + 1) * body.renormalized
        total += chosen * hidden * size
    if flows:
        # Gates, and of each expert a copy of its input.
        total += chosen * (_FLOAT + _network(graph, body.each[0], activation, size, learns=experts) + hidden * size * experts)
    if implementation == "eager":
        # Places, and what is added to the sum.
        total += chosen * (_INT64 * gated + hidden * size) * (gated or flows)
    else:
        # The tokens in the order by expert, that order, and the order back.
        total += chosen * _INT64 * (passes + gated + (gated or flows))
    if body.shared is not None and (passes or shared):
        total += _network(graph, body.shared, activation, size, learns=shared)
    if body.shared_gate is not None:
        total += size * (gated or shared) + hidden * size * gated
    return total


def _attention(graph: Model, body: Attention, sequence_length: int, size: int, *, eager: bool, learns: bool) -> int:
    """Of one token, what the matrices before it read left out."""
    heads, sizes = graph.sizes["heads"], graph.sizes
    queries, keys = heads * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    values = heads * sizes[body.value_port]
    total = sum(_norm(norm, queries if part == "query" else keys, size, learns=learns) for norm, part, _ in head_norms(body))
    for latent in body.latents:
        # What its norm keeps, and what the matrix of heads reads. In float32 the norm reads a view of all that was given.
        channels = sizes[latent.port]
        beside = (latent.linear.out.size(sizes) - channels) * size * (size == _FLOAT)
        total += _norm(latent.norm, channels, size, learns=learns) + beside + channels * size * learns
    if eager:
        # Key-value heads are repeated for the query heads that share them; probabilities are cast from float32.
        scores = heads * sequence_length
        elements = 2 * queries + values + values * learns + scores + scores * body.capped
        return total + elements * size + (scores * _FLOAT if body.rotary and size != _FLOAT else 0)
    # Queries and keys that are turned are new; what else is read is a view of all that its matrix gave.
    viewed = [linear for linear in body.inputs if body.rotary is None or any(part.name == "value" for part in linear.out.parts)]
    elements = sum(linear.out.size(sizes) for linear in viewed) + (0 if body.rotary is None else queries + keys)
    # The mixed values, laid out as the queries are: those that were joined need a copy for the output projection. And the
    # logarithm of each softmax's denominator.
    copied = body.rotary is not None and body.rotary.joined and learns
    return total + (elements + values * (1 + copied)) * size + heads * _FLOAT


def _embeddings(graph: Model, size: int, *, learns: bool) -> int:
    """Of one token: where it looks, and what an encoder's norm keeps."""
    norm = graph.stack.embedding_norm
    return _INT64 + (0 if norm is None else _norm(norm, graph.sizes[RESIDUAL], size, learns=learns))


def _head(graph: Model, size: int, logits: int, *, learns: bool) -> int:
    """Of one scored position, the loss of its logits included; of none the gradient of what makes them is kept."""
    hidden, head = graph.sizes[RESIDUAL], graph.head
    norms = [norm for norm in (graph.stack.final, head.norm) if norm is not None]
    kept = sum(_norm(norm, hidden, size, learns=learns) for norm in norms)
    kept += size * logits + _INT64 if logits else hidden * size
    if head.transform is not None:
        # The transform's own input, and that of its activation, whose output the norm keeps.
        kept += hidden * size * (1 + learns) + _INT64
    # A cap keeps what it gives beside what the loss keeps.
    return kept + (hidden * size if learns and logits else 0) + size * logits * head.capped

"""SmolLM3: Llama, some of whose layers know no positions."""

from transformers import SmolLM3Config, SmolLM3ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: SmolLM3Config) -> Model:
    """transformers' SmolLM3ForCausalLM."""
    return decoder_graph(config, lambda prefix: llama_layer(prefix, config), rms_norm("model.norm"))


SMOLLM3 = decoder(
    "smollm3",
    SmolLM3ForCausalLM,
    SmolLM3Config,
    graph,
    variants=({"attention_bias": True, "mlp_bias": True},),
)

"""SmolLM3: Llama, some of whose layers know no positions."""

from transformers import SmolLM3ForCausalLM

from pipeline.families.decoder import decoder

SMOLLM3 = decoder(SmolLM3ForCausalLM, variants=({"attention_bias": True, "mlp_bias": True},))

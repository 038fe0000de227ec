"""Features of DeepSpeed that do not go with growth, or that DeepSpeed no longer has: why, and what there is instead."""

from typing import Any

_REMOVED = "DeepSpeed has removed it"

ABSENT = {
    "amp": f"{_REMOVED}; `bf16` or `fp16` trains in half precision",
    "autotuning": "it starts the script again and again; `--dry_run` says what a run keeps in memory and costs",
    "checkpoint.load_universal": "a run goes on from its own checkpoints at any number of ranks and any ZeRO stage, without "
    "converting them; to begin from a model of another tool's, name the checkpoint that the universal one was made from as "
    "`source.path`",
    "compression_training": f"{_REMOVED}; quantize the exported model with a tool of its own",
    "curriculum_learning": f"{_REMOVED}; stages of the recipe have sequence lengths and blends of their own",
    "data_efficiency": "which text comes when is the recipe's, so that a run can be resumed; stages have sequence lengths and "
    "blends of their own",
    "datastates": "checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "eigenvalue": f"{_REMOVED}",
    "elasticity": f"{_REMOVED}; a run goes on with another number of ranks by itself",
    "expert_parallel": "no family here has experts",
    "graph_harvesting": f"{_REMOVED}; `compile` of the recipe compiles the layers",
    "hybrid_engine": "it generates text between steps, and nothing does that here",
    "nebula": f"{_REMOVED}; checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "pipeline": "models are Hugging Face's classes, which are no sequence of stages; ZeRO-3 divides weights among ranks",
    "progressive_layer_drop": f"{_REMOVED}; `submodel_layers` of a stage trains models of fewer layers",
    "quantize_training": f"{_REMOVED}; quantize the exported model with a tool of its own",
    "seq_parallel_communication_data_type": "gradients of ranks that share sequences are summed with all others; "
    "`communication_data_type` is for all of them",
    "sparse_attention": f"{_REMOVED}; `attn_implementation` of the recipe names the kernel",
    "sparse_gradients": f"{_REMOVED}",
    "tensor_parallel": "AutoTP cuts matrices by their names, and growth fills none of its pieces; ZeRO-3 divides weights among "
    "ranks, and `sequence_parallel_size` divides activations",
    "torch_autocast": "the growth is measured in the type that the whole model runs in; `bf16` runs it in bfloat16 beside "
    "float32 masters",
    "weight_quantization": "it is for inference; quantize the exported model with a tool of its own",
}
"""Sections and keys of DeepSpeed's JSON."""


def take_absent(config: dict[str, Any]) -> tuple[str, str] | None:
    """Take these keys out of a configuration where they ask for nothing; return the first that asks for more, and why not."""
    for key, reason in ABSENT.items():
        section, _, name = key.rpartition(".")
        holder = config.get(section, {}) if section else config
        value = holder.get(name) if isinstance(holder, dict) else None
        off = value in (None, False, "auto", {}) or (isinstance(value, dict) and value.get("enabled") is False)
        if not off and value != {"autotp_size": 0}:
            return key, reason
        if isinstance(holder, dict):
            holder.pop(name, None)
    return None

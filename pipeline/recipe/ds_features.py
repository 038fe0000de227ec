"""Features of DeepSpeed that do not go with growth, or that DeepSpeed no longer has: why, and what there is instead."""

from typing import Any

_REMOVED = "DeepSpeed has removed it"

ABSENT = {
    "amp": f"{_REMOVED}; `bf16` or `fp16` trains in half precision",
    "autotuning": "it starts the script again and again; `--dry_run` says what a run keeps in memory and costs",
    "bfloat16": "it is an older name of `bf16`; use that one",
    "checkpoint.checkpoint_serialization": "checkpoints are in torch's zip format, of which each tensor is read by itself",
    "checkpoint.load_universal": "a run goes on from its own checkpoints at any number of ranks and any ZeRO stage, without "
    "converting them; to begin from a model of another tool's, name the checkpoint that the universal one was made from as "
    "`source.path`",
    "checkpoint.writer": "checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "compression_training": f"{_REMOVED}; quantize the exported model with a tool of its own",
    "curriculum_learning": f"{_REMOVED}; stages of the recipe have sequence lengths and blends of their own",
    "data_efficiency": "which text comes when is the recipe's, so that a run can be resumed; stages have sequence lengths and "
    "blends of their own",
    "dataloader_drop_last": "batches are drawn by the recipe, and each is whole; DeepSpeed's data loader is not used",
    "datastates_ckpt": "checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "disable_allgather": "DeepSpeed reads the key and does nothing by it",
    "eigenvalue": f"{_REMOVED}",
    "elasticity": f"{_REMOVED}; a run goes on with another number of ranks by itself",
    "expert_parallel": "DeepSpeed puts modules of its own in the place of the experts, from whose checkpoints a run could not "
    "go on at another number of ranks, and DeepSpeed 0.19.8 cannot on transformers 5.23; ZeRO-3 divides experts among ranks",
    "gradient_allreduce_op": "losses are scaled for a mean over ranks; a sum would multiply the gradient by their number",
    "graph_harvesting": f"{_REMOVED}; `compile` of the recipe compiles the layers",
    "hybrid_engine": "it generates text between steps, and nothing does that here",
    "managed_gradient_accumulation": "the engine counts a step's micro-batches, and steps at the last one",
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
    "use_data_before_expert_parallelism": "it orders the ranks of `expert_parallel`, which is not supported",
    "vocabulary_size": "DeepSpeed only warns by it; `make_vocab_size_divisible_by` of the recipe pads the vocabulary",
    "weight_quantization": "it is for inference; quantize the exported model with a tool of its own",
}
"""Sections and keys of DeepSpeed's JSON."""

_AS_IT_IS: dict[str, Any] = {
    "checkpoint.checkpoint_serialization": True,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
    "tensor_parallel": {"autotp_size": 0},
}
"""Values that ask for what is done without the key, although they are not merely off."""


def take_absent(config: dict[str, Any]) -> tuple[str, str] | None:
    """Take these keys out of a configuration where they ask for nothing; return the first that asks for more, and why not."""
    for key, reason in ABSENT.items():
        section, _, name = key.rpartition(".")
        holder = config.get(section, {}) if section else config
        if not isinstance(holder, dict) or name not in holder:
            continue
        if not _asks_for_nothing(key, holder.pop(name)):
            return key, reason
    return None


def _asks_for_nothing(key: str, value: Any) -> bool:
    if value in (None, "auto") or (key in _AS_IT_IS and value == _AS_IT_IS[key]):
        return True
    # False is a value like any other where the key is true without being written.
    off = value is False or value == {} or (isinstance(value, dict) and value.get("enabled") is False)
    return off and _AS_IT_IS.get(key) is not True

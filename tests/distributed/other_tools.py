"""Checkpoints of other tools, made by the tools themselves: transformers' Trainer, accelerate, DeepSpeed alone."""

from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

VOCAB, LENGTH, STEPS, RATE = 97, 16, 3, 1e-3

# Sizes that two ranks do not divide.
GPT2 = {"vocab_size": VOCAB, "n_positions": LENGTH, "n_embd": 18, "n_layer": 2, "n_head": 2, "n_inner": 35}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 20,
    "intermediate_size": 33,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}

_ADAM = {"type": "AdamW", "params": {"lr": RATE, "weight_decay": 0.1, "torch_adam": True}}

LAYOUTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # The optimizer that sums in float32 and names its files bf16_...
    "zero1": (
        "gpt2",
        "transformer.wpe.weight",
        {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    ),
    # One group of DeepSpeed's own instead of the Trainer's two, with decay and without.
    "zero2": ("llama", "model.norm.weight", {"zero_optimization": {"stage": 2}, "optimizer": _ADAM}),
    # Several masters to a group, and no weights beside the checkpoint.
    "zero3": (
        "gpt2",
        "transformer.wpe.weight",
        {
            "zero_optimization": {
                "stage": 3,
                "sub_group_size": 2000,
                "stage3_gather_16bit_weights_on_model_save": False,
            },
            "bf16": {"enabled": True},
        },
    ),
}
"""Of each: the family, a tensor that is not trained, and DeepSpeed's configuration."""


class _Text(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self._ids = torch.randint(0, VOCAB, (16, LENGTH), generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids[number], "labels": self._ids[number]}


def small(kind: str) -> torch.nn.Module:
    """A tied GPT-2 or an untied Llama."""
    torch.manual_seed(5)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    return LlamaForCausalLM(LlamaConfig(**LLAMA, bos_token_id=0, eos_token_id=0))


def make(root: Path) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Train each layout with the Trainer, whose state is then saved by accelerate and by DeepSpeed too; a collective call.

    Returns each trained parameter's master and moments, as DeepSpeed itself gathers them.
    """
    return {layout: _trained(root / layout, *options) for layout, options in LAYOUTS.items()}


def _trained(folder: Path, kind: str, frozen: str, ds_config: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    common = dict.fromkeys(("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_clipping"), "auto")
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=RATE,
        weight_decay=0.1,
        lr_scheduler_type="linear",
        warmup_steps=1,
        save_steps=1,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16="bf16" in ds_config,
        deepspeed=ds_config | common | {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False},
    )
    model = small(kind)
    model.get_parameter(frozen).requires_grad_(False)
    trainer = Trainer(model=model, args=arguments, train_dataset=_Text())
    trainer.train()
    engine = trainer.deepspeed
    trainer.accelerator.save_state(str(folder / "accelerate"))
    engine.save_checkpoint(str(folder / "plain"))
    found = {name: _gathered(parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    engine.destroy()
    # Both keep the last training's settings for the whole process.
    AcceleratorState._reset_state(True)
    unset_hf_deepspeed_config()
    return found


def _gathered(parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
    kept = {key: safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")}
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return {
        key: value.float().cpu().reshape(shape).clone()
        for key, value in {"weight": safe_get_full_fp32_param(parameter), **kept}.items()
    }

"""GPT-2: pre-LN, learned positions, fused c_attn, Conv1D matrices stored [in, out]."""

import re

from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.families.base import (
    FFN,
    FFN_IN,
    HIDDEN,
    HIDDEN_IN,
    LOGITS,
    MIXED_IN,
    TASK_HEADS,
    Axis,
    AxisKind,
    Family,
    TensorSpec,
)

_QKV = Axis(AxisKind.HEADS, "out", ("query", "key", "value"))

_LAYER = "transformer.h.{layer}."

GPT2 = Family(
    name="gpt2",
    model_class=GPT2LMHeadModel,
    config_class=GPT2Config,
    objective="clm",
    norm="layer_norm",
    pre_norm=True,
    rotary=False,
    position_offset=0,
    layers="transformer.h",
    head_module="transformer.ln_f",
    tensors=(
        TensorSpec("transformer.wte.weight", (Axis(AxisKind.VOCAB, "index"), HIDDEN), "normal", "embeddings"),
        TensorSpec("transformer.wpe.weight", (Axis(AxisKind.POSITIONS, "index"), HIDDEN), "normal", "embeddings"),
        TensorSpec(_LAYER + "ln_1.weight", (HIDDEN,), "ones", "layer", norm="gain"),
        TensorSpec(_LAYER + "ln_1.bias", (HIDDEN,), "zeros", "layer", norm="bias"),
        TensorSpec(_LAYER + "attn.c_attn.weight", (HIDDEN_IN, _QKV), "normal", "layer"),
        TensorSpec(_LAYER + "attn.c_attn.bias", (_QKV,), "zeros", "layer"),
        TensorSpec(_LAYER + "attn.c_proj.weight", (MIXED_IN, HIDDEN), "normal_residual", "layer", writes_residual=True),
        TensorSpec(_LAYER + "attn.c_proj.bias", (HIDDEN,), "zeros", "layer", writes_residual=True),
        TensorSpec(_LAYER + "ln_2.weight", (HIDDEN,), "ones", "layer", norm="gain"),
        TensorSpec(_LAYER + "ln_2.bias", (HIDDEN,), "zeros", "layer", norm="bias"),
        TensorSpec(_LAYER + "mlp.c_fc.weight", (HIDDEN_IN, FFN), "normal", "layer"),
        TensorSpec(_LAYER + "mlp.c_fc.bias", (FFN,), "zeros", "layer"),
        TensorSpec(_LAYER + "mlp.c_proj.weight", (FFN_IN, HIDDEN), "normal_residual", "layer", writes_residual=True),
        TensorSpec(_LAYER + "mlp.c_proj.bias", (HIDDEN,), "zeros", "layer", writes_residual=True),
        TensorSpec("transformer.ln_f.weight", (HIDDEN,), "ones", "head", norm="gain", final_norm=True),
        TensorSpec("transformer.ln_f.bias", (HIDDEN,), "zeros", "head", norm="bias", final_norm=True),
    ),
    untied_head=(TensorSpec("lm_head.weight", (LOGITS, HIDDEN_IN), "normal", "head"),),
    tied_head="transformer.wte.weight",
    lm_head="lm_head",
    head_alias={"lm_head.weight": "transformer.wte.weight"},
    published=((re.compile(r"^(?=(h\.|wte\.|wpe\.|ln_f\.))"), "transformer."),),
    # The causal mask.
    buffers=re.compile(r"\.attn\.(bias|masked_bias)$"),
    other_heads=re.compile(TASK_HEADS),
    # The same function as the default gelu_new, in one kernel.
    scratch={"activation_function": "gelu_pytorch_tanh"},
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    kept=("activation_function", "layer_norm_epsilon"),
    refused={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    intermediate_key="n_inner",
)

"""GPT-2: pre-LN, learned positions, fused c_attn, Conv1D matrices stored [in, out]."""

import re

from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.families.base import Axis, AxisKind, Family, TensorSpec

_HIDDEN_IN = Axis(AxisKind.RESIDUAL, "in")
_HIDDEN = Axis(AxisKind.RESIDUAL, "out")
_HEADS_IN = Axis(AxisKind.HEADS, "in", ("value",))
_QKV = Axis(AxisKind.HEADS, "out", ("query", "key", "value"))
_FFN_IN = Axis(AxisKind.FFN, "in")
_FFN = Axis(AxisKind.FFN, "out")

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
    tensors=(
        TensorSpec("transformer.wte.weight", (Axis(AxisKind.VOCAB, "index"), _HIDDEN), "normal", "embeddings"),
        TensorSpec("transformer.wpe.weight", (Axis(AxisKind.POSITIONS, "index"), _HIDDEN), "normal", "embeddings"),
        TensorSpec(_LAYER + "ln_1.weight", (_HIDDEN,), "ones", "layer", norm="gain"),
        TensorSpec(_LAYER + "ln_1.bias", (_HIDDEN,), "zeros", "layer", norm="bias"),
        TensorSpec(_LAYER + "attn.c_attn.weight", (_HIDDEN_IN, _QKV), "normal", "layer"),
        TensorSpec(_LAYER + "attn.c_attn.bias", (_QKV,), "zeros", "layer"),
        TensorSpec(_LAYER + "attn.c_proj.weight", (_HEADS_IN, _HIDDEN), "normal_residual", "layer", writes_residual=True),
        TensorSpec(_LAYER + "attn.c_proj.bias", (_HIDDEN,), "zeros", "layer", writes_residual=True),
        TensorSpec(_LAYER + "ln_2.weight", (_HIDDEN,), "ones", "layer", norm="gain"),
        TensorSpec(_LAYER + "ln_2.bias", (_HIDDEN,), "zeros", "layer", norm="bias"),
        TensorSpec(_LAYER + "mlp.c_fc.weight", (_HIDDEN_IN, _FFN), "normal", "layer"),
        TensorSpec(_LAYER + "mlp.c_fc.bias", (_FFN,), "zeros", "layer"),
        TensorSpec(_LAYER + "mlp.c_proj.weight", (_FFN_IN, _HIDDEN), "normal_residual", "layer", writes_residual=True),
        TensorSpec(_LAYER + "mlp.c_proj.bias", (_HIDDEN,), "zeros", "layer", writes_residual=True),
        TensorSpec("transformer.ln_f.weight", (_HIDDEN,), "ones", "head", norm="gain", final_norm=True),
        TensorSpec("transformer.ln_f.bias", (_HIDDEN,), "zeros", "head", norm="bias", final_norm=True),
    ),
    untied_head=(TensorSpec("lm_head.weight", (Axis(AxisKind.VOCAB, "out"), _HIDDEN_IN), "normal", "head"),),
    tied_head="transformer.wte.weight",
    head_alias={"lm_head.weight": "transformer.wte.weight"},
    published=((re.compile(r"^(?=(h\.|wte\.|wpe\.|ln_f\.))"), "transformer."),),
    # The causal mask, which older versions saved with the weights.
    ignored=re.compile(r"\.attn\.(bias|masked_bias)$"),
    # The same function as the default gelu_new, in one kernel.
    scratch={"activation_function": "gelu_pytorch_tanh"},
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    refused={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
)

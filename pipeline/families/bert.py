"""BERT with its masked-language-model head."""

from transformers import BertConfig, BertForMaskedLM

from pipeline.families.encoder import encoder

BERT = encoder(
    "bert",
    BertForMaskedLM,
    BertConfig,
    head="cls.predictions.",
    transform="transform.dense",
    transform_norm="transform.LayerNorm",
)

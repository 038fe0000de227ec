"""BERT with its masked-language-model head, and with the head on sentence pairs beside it."""

from functools import partial

from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from pipeline.families.encoder import encoder

_encoder = partial(encoder, head="cls.predictions.", transform="transform.dense", transform_norm="transform.LayerNorm")

BERT = _encoder("bert", BertForMaskedLM, BertConfig)

BERT_PAIRS = _encoder("bert", BertForPreTraining, BertConfig, pair_head="cls.seq_relationship")

"""BERT with its masked-language-model head, and with the head on sentence pairs beside it."""

from functools import partial

from transformers import BertForMaskedLM, BertForPreTraining

from pipeline.families.encoder import encoder

_encoder = partial(encoder, head="cls.predictions.", transform="transform.dense", transform_norm="transform.LayerNorm")

BERT = _encoder(BertForMaskedLM)

BERT_PAIRS = _encoder(BertForPreTraining, pair_head="cls.seq_relationship")

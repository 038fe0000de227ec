"""RoBERTa: BERT's encoder, whose positions are counted from behind the padding token's id."""

from transformers import RobertaForMaskedLM

from pipeline.families.encoder import encoder

_PADDING = 1
"""The padding token's id. RobertaEmbeddings gives a token that is padding the position row of this number,
and counts the others' positions from the row behind it."""

ROBERTA = encoder(
    RobertaForMaskedLM,
    head="lm_head.",
    transform="dense",
    transform_norm="layer_norm",
    position_offset=_PADDING + 1,
    scratch={"pad_token_id": _PADDING},
    refused={"pad_token_id": (_PADDING,)},
)

"""Embeddings whose rows all learn, whatever a configuration calls padding."""

from torch import nn


def learn_every_row(model: nn.Module) -> None:
    """Have no embedding of a model leave out the gradient of a row.

    Hugging Face's classes give `pad_token_id` to torch.nn.Embedding as `padding_idx`, and that row then gets no gradient. Where
    a tokenizer pads with its end of text, that is a token of every text. The configuration keeps its key; real padding lies
    behind an attention mask and is not scored, so that no gradient reaches it.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None

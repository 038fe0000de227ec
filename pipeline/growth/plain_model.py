"""A state as a plain Hugging Face model, whole on this process."""

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.families import Family
from pipeline.growth.state import State, flat

_CHUNK = 1 << 22
"""Elements read at once."""


@torch.no_grad()
def plain_model(family: Family, config: PretrainedConfig, state: State, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model of this configuration with the state's weights in `dtype`, on the CPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = family.model_class(config)
    finally:
        torch.set_default_dtype(before)
    # no_init_weights leaves out the tying too.
    model.tie_weights()
    for name, parameter in model.named_parameters():
        values = parameter.view(-1)
        for start in range(0, len(values), _CHUNK):
            stop = min(start + _CHUNK, len(values))
            values[start:stop] = flat(state[name], start, stop).to(dtype)
    return model

"""A model directory as fine-tuning needs it: tokenizer, head and the checks of both."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from pipeline.common.errors import UserError, one_line
from pipeline.evaluation.encoding import longest_input, open_tokenizer
from pipeline.families import Family, learn_every_row
from pipeline.growth.huggingface import open_huggingface


@dataclass(frozen=True)
class Pretrained:
    """A model directory, checked."""

    directory: Path
    family: Family
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    """Pads to the right, and puts special tokens around and between texts."""

    @property
    def positions(self) -> int:
        """The longest input, in tokens."""
        return longest_input(self.family, self.config)

    @property
    def segments(self) -> bool:
        """Whether the two texts of a pair have different type ids."""
        return getattr(self.config, "type_vocab_size", 1) > 1

    def length(self, given: int | None, usual: int) -> int:
        """The tokens of an input: `given`, or `usual` as far as positions reach.

        Raises UserError where more positions are given than the model has.
        """
        if given is not None and given > self.positions:
            raise UserError(f"--max_length: {self.directory} has {self.positions} positions, not {given}; name at most so many")
        return given or min(usual, self.positions)

    def check_head(self, auto_class: Any) -> None:
        """Raise UserError where Hugging Face has no such head for the family."""
        if type(self.config) not in auto_class._model_mapping:
            kind = auto_class.__name__.removeprefix("AutoModelFor")
            raise UserError(f"{self.directory}: {self.family.name} has no class for {kind}; bert and roberta have")

    @property
    def _remedy(self) -> str:
        return f"write it as transformers does: python launch/grow.py --source {self.directory} --format hf --out DIR"

    def load(self, auto_class: Any, dropout: float | None, **settings: Any) -> PreTrainedModel:
        """Return the model in float32 under a fresh head; the generator of torch draws it.

        `check_head` is for before. Raises UserError where transformers does not find the model's own tensors, which it would
        draw at random (their names carry what training put around them, for instance), or finds a head of another training.
        """
        config = copy.deepcopy(self.config)
        for key, value in settings.items():
            setattr(config, key, value)
        if dropout is not None:
            self.family.set_dropout(config, dropout)
        try:
            model, info = auto_class.from_pretrained(
                self.directory,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                # Of a head with other labels, which is refused below.
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{self.directory}: transformers does not load it ({one_line(error)}); {self._remedy}") from None
        joined = {each.name for each in self.family.graph(config).joined}
        lost = [name for name in sorted(info["missing_keys"]) if self.family.knows(name) or name in joined]
        if lost:
            raise UserError(f"{self.directory}: transformers finds no {lost[0]!r} in it; {self._remedy}")
        inside = f"{model.base_model_prefix}."
        own = [name for name, _ in model.named_parameters() if not name.startswith(inside) and name not in info["missing_keys"]]
        if own:
            raise UserError(
                f"{self.directory}: comes with its own head ({own[0]}), and fine-tuning draws a fresh one; {self._remedy}"
            )
        learn_every_row(model)
        model.config.pad_token_id = self.tokenizer.pad_token_id
        model.config.use_cache = False
        return model


def open_pretrained(directory: Path) -> Pretrained:
    """Return the model in a Hugging Face directory with its tokenizer.

    Raises UserError where there is no model, or no tokenizer, or the two do not fit each other.
    """
    source = open_huggingface(directory)
    return as_pretrained(directory, source.family, source.config)


def as_pretrained(directory: Path, family: Family, config: PretrainedConfig) -> Pretrained:
    """Return a model of that configuration with the tokenizer in `directory`, which need not have weights yet.

    Raises UserError as `open_pretrained` does.
    """
    tokenizer = open_tokenizer(directory, config).hugging_face
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    pretrained = Pretrained(directory, family, config, tokenizer)
    _frame(pretrained)
    _pad(tokenizer, config)
    return pretrained


def _frame(pretrained: Pretrained) -> None:
    """Have a tokenizer that adds no special tokens add those of pre-training: `cls` opens a text, `sep` separates and ends.

    Causal models were shown no `cls`: for them the end of a document separates a pair, and nothing is put around it.
    """
    tokenizer = pretrained.tokenizer
    if tokenizer.num_special_tokens_to_add(pair=True):
        return
    cls, sep, second = tokenizer.cls_token, tokenizer.sep_token, int(pretrained.segments)
    if pretrained.family.objective == "clm":
        sep = tokenizer.eos_token or sep
        single, pair, names = "$A", f"$A {sep} $B:{second}", {sep}
    else:
        single, pair, names = f"{cls} $A {sep}", f"{cls} $A {sep} $B:{second} {sep}:{second}", {cls, sep}
    if None in names:
        raise UserError(
            f"{pretrained.directory}: the tokenizer has no cls, sep or eos token; name them in tokenizer_config.json"
        )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in sorted(names)]
    )


def _pad(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig) -> None:
    """Name a padding token: the model's, since some families count positions from it, else any, since it is masked."""
    if config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no pad, eos or sep token; name one in tokenizer_config.json"
        )

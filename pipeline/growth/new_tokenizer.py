"""A tokenizer in the place of the source's: the rows of its tokens, the vocabulary's size, and the ids that files name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from data_prep.tokenizers.loading import Tokenizer, find_tokenizer, load_tokenizer, tokenizer_digest
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.hub import find_directory
from pipeline.families import family_of, sizes_of
from pipeline.growth.state import Source
from pipeline.growth.token_rows import TokenRows, own_roles, rows_by_token, with_counterparts
from pipeline.recipe import TargetConfig

_KEY = "_token_id"
_LISTS = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "force_words_ids",
    "forced_decoder_ids",
    "sequence_bias",
)
"""Keys of generation_config.json, beside those of single tokens, that name ids."""


@dataclass(frozen=True, slots=True)
class NewTokenizer:
    """The tokenizer of a target, beside that of its source."""

    source: Tokenizer
    tokenizer: Tokenizer
    rows: TokenRows
    ours: Mapping[str, int]
    """The ids of the source's special tokens by their roles; several roles may have one token."""
    theirs: Mapping[str, int]
    """The same of the target's."""

    @property
    def origin(self) -> str:
        """Where it lies."""
        return str(self.tokenizer.files[0])

    def sized(self, target: TargetConfig, where: str) -> TargetConfig:
        """Return the sizes with the vocabulary's among them; raises UserError where one is named that is too small."""
        self.check_size(target.vocab_size, where)
        return target.model_copy(update={"vocab_size": target.vocab_size or self.tokenizer.vocab_size})

    def check_size(self, vocab_size: int | None, where: str) -> None:
        """Raise UserError where a vocabulary's size lacks ids of the tokenizer."""
        if vocab_size is not None and vocab_size < self.tokenizer.vocab_size:
            raise UserError(
                f"{where}vocab_size: {vocab_size} is smaller than the {self.tokenizer.vocab_size} ids of {self.origin}; leave "
                "it out, or name a multiple that holds them"
            )

    def set_token_ids(self, source: PretrainedConfig, config: PretrainedConfig) -> list[str]:
        """Set every `*_token_id` of a target's configuration to the tokenizer's own, and say which change.

        Raises UserError where the family counts positions from its padding token and the tokenizer pads with another id.
        """
        said = []
        for key in sorted(key for key in config.to_dict() if key.endswith(_KEY)):
            held = getattr(source, key, None)
            ids = self._translated(key.removesuffix(_KEY), held, source.vocab_size)
            setattr(config, key, ids)
            if ids != held:
                said.append(f"{key}: {held} -> {ids}, by {self.origin}")
        for key in ("decoder_start_token_id", "pad_token_id") if config.is_encoder_decoder else ():
            # A configuration need not have the key; what the source has not is not lost.
            held = getattr(source, key, None)
            if held is not None and getattr(config, key, None) is None:
                raise UserError(
                    f"{self.origin}: has no token for {key}, which is {held} in the source and which a "
                    f"{config.model_type} decodes from; add that token, or one for padding alone, to the tokenizer"
                )
        padding = family_of(source).padding_id
        if padding is not None and config.pad_token_id != padding:
            raise UserError(
                f"{self.origin}: pads with id {config.pad_token_id}, and {config.model_type} counts positions from its padding "
                f"token, id {padding}; give the tokenizer its padding token there"
            )
        return said

    def generation(self, path: Path, source: PretrainedConfig) -> dict[str, Any]:
        """Return what a generation_config.json says, with the tokenizer's own ids.

        Raises UserError for lists of ids that are not the same ones in both tokenizers.
        """
        content = read_json(path, "copy the model again")
        rows = self.rows.rows
        for key in _LISTS:
            for number in _numbers(content.get(key)):
                if not (number < len(rows) and int(rows[number]) == number):
                    raise UserError(
                        f"{path}: {key} names id {number} of the source's tokenizer, which is another token in {self.origin}; "
                        "remove the key from a copy of the model"
                    )
        keys = {key for key in content if key.endswith(_KEY)} | {f"{role}{_KEY}" for role in ("bos", "eos", "pad")}
        ids = {key: self._translated(key.removesuffix(_KEY), content.get(key), source.vocab_size) for key in sorted(keys)}
        return content | {key: value for key, value in ids.items() if key in content or value is not None}

    def record(self) -> dict[str, str]:
        """What a certificate says of the two."""
        return {"source": tokenizer_digest(self.source), "target": tokenizer_digest(self.tokenizer)}

    def _translated(self, role: str, held: Any, size: int) -> Any:
        """Return the ids for a role in the place of what a key holds: an id, a list of them, or null."""
        ids = [number for number in (held if isinstance(held, list) else [held]) if number is not None and 0 <= number < size]
        same = {row: number for number, row in reversed(list(enumerate(self.rows.rows.tolist())))}
        # Keys of no role (decoder_start_token_id) go by rows: a padding that is the end of texts has not that of padding alone.
        ours, theirs = with_counterparts(own_roles(self.ours)), with_counterparts(own_roles(self.theirs))
        same |= {ours[name]: theirs[name] for name in theirs if name in ours}
        # The key of a role names the token that the tokenizer has for it, whatever other roles that token has.
        ours, theirs = with_counterparts(self.ours), with_counterparts(self.theirs)
        if role in ours and role in theirs:
            same[ours[role]] = theirs[role]
        found = list(dict.fromkeys(same[number] for number in ids if number in same))
        if role in self.theirs and (not found or role not in ours):
            # Another token stood in for the role, or none.
            found = [self.theirs[role]]
        return found if isinstance(held, list) and found else next(iter(found), None)


def tokenizer_directory(named: str) -> Path:
    """Return where a target's tokenizer lies, downloaded if need be; raises UserError as `find_directory` does."""
    return find_directory(named, None, f"target.tokenizer: {named!r} is no directory here", weights=False)


def open_new_tokenizer(source: Source, named: str) -> NewTokenizer:
    """Return a tokenizer, of a directory or of a model on the hub, beside the source's own.

    Raises UserError where either is missing or does not load, and where they have no token in common.
    """
    directory = tokenizer_directory(named)
    own = find_tokenizer(source.beside, for_text=False)
    if own is None:
        raise UserError(
            f"{source.beside}: the model has no tokenizer, by which rows are matched to the new one's; put its own there"
        )
    tokenizer = load_tokenizer(directory, for_text=False)
    ours, theirs = own.meanings(), tokenizer.meanings()
    rows = rows_by_token(own, tokenizer, ours, theirs, sizes_of(source.config).vocab_size)
    if bool((rows.rows < 0).all()):
        raise UserError(f"{tokenizer.files[0]}: has no token in common with {own.files[0]}; name one that has")
    return NewTokenizer(own, tokenizer, rows, ours.roles, theirs.roles)


def _numbers(value: Any) -> Iterator[int]:
    """Yield the whole numbers in nested lists."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value

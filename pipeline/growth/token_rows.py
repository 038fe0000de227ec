"""Which of the source's rows each token of another tokenizer takes, and which its new tokens are the mean of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_prep.tokenizers.loading import Tokenizer
from data_prep.tokenizers.meanings import Meanings, Token
from pipeline.growth.index_map import INIT, MEAN, MEAN_OF_SOME, AxisIndexMap, MeanSources

_COUNTERPARTS = {"eos": ("sep",), "sep": ("eos",), "bos": ("cls", "eos", "sep"), "cls": ("bos", "eos", "sep")}
"""Which roles take the place of one that a tokenizer does not have, in order of preference.

These four mark where a text begins, where it ends, and where two texts meet. A tokenizer without a token for the beginning
uses the end of the text before (GPT-2's <|endoftext|>).
"""

_FEW = 0.1
"""Share of a vocabulary's tokens below which a grown model keeps little of what its source reads and writes."""


def over_both(certificate: Mapping[str, Any]) -> str:
    """Return over how many tokens a growth's two models are compared where it changes the tokenizer, else nothing."""
    if certificate.get("tokenizers") is None:
        return ""
    counts = certificate["tokens"]
    return f", over {counts['carried']:,} of {_size(counts):,} tokens, those that both tokenizers have"


def few_tokens_warning(counts: Mapping[str, int]) -> list[str]:
    """Return what there is to say where few tokens have a row of the source; `counts` is what `tokens_counted` returns."""
    if counts["carried"] >= _FEW * _size(counts):
        return []
    return [
        f"the source has a row for only {counts['carried']:,} of {_size(counts):,} tokens, and the grown model has to learn "
        "all others; check that this is the tokenizer that you want"
    ]


def _size(counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if name != "dropped")


@dataclass(frozen=True, slots=True)
class TokenRows:
    """What the rows of a tokenizer's tokens are made of."""

    rows: torch.Tensor
    """The source's row of each token that it has, -1 of each that is new; int64, by id."""
    pieces: Mapping[int, list[int]]
    """Of new tokens: the source's rows of the pieces that its tokenizer makes of them; without an entry where it knows none."""

    def index_map(self, size: int, vocabulary: str) -> AxisIndexMap:
        """Return the map of `size` rows, of which those beyond the tokenizer's are new too, filled as `vocabulary` says."""
        rows = torch.cat([self.rows, torch.full((size - len(self.rows),), -1)])
        counts = torch.bincount(rows[rows >= 0], minlength=1)
        # Two that share a row do not share its gradient.
        shared = (rows >= 0) & (counts[rows.clamp(min=0)] > 1)
        fresh = shared if bool(shared.any()) else None
        rows[rows < 0] = INIT if vocabulary == "random" else MEAN
        if vocabulary != "pieces" or not self.pieces:
            return AxisIndexMap(rows, fresh=fresh)
        rows[list(self.pieces)] = MEAN_OF_SOME
        lengths = torch.zeros(size, dtype=torch.int64)
        lengths[list(self.pieces)] = torch.tensor([len(made) for made in self.pieces.values()], dtype=torch.int64)
        sources = [row for number in sorted(self.pieces) for row in self.pieces[number]]
        return AxisIndexMap(
            rows, fresh=fresh, mean_sources=MeanSources(lengths.cumsum(0) - lengths, torch.tensor(sources, dtype=torch.int64))
        )


@dataclass(frozen=True, slots=True)
class CarriedTokens:
    """The tokens that two models share, by their ids in each."""

    source: torch.Tensor
    target: torch.Tensor


def of_tokens(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of some ids."""
    count = len(ids)
    if bool((ids == torch.arange(count)).all()):
        return logits[..., :count]
    return logits.index_select(-1, ids.to(logits.device))


def tokens_counted(tokens: AxisIndexMap, source: int) -> dict[str, int]:
    """Return how many rows of a vocabulary are carried from one of `source` rows, what others are, and how many are left."""
    carried = tokens.indices[tokens.indices >= 0]
    codes = {"pieces": MEAN_OF_SOME, "mean": MEAN, "random": INIT}
    found = {name: int((tokens.indices == code).sum()) for name, code in codes.items()}
    return {"carried": len(carried)} | found | {"dropped": source - len(carried.unique())}


def describe_tokens(tokens: AxisIndexMap, source: int, vocabulary: str) -> list[str]:
    """Return the same in words, for a plan that replaces the tokenizer and fills new tokens' rows as `vocabulary` says."""
    found = tokens_counted(tokens, source)
    unknown = ", since the source's tokenizer has no pieces for them or no token has the row" if vocabulary == "pieces" else ""
    made = {
        "pieces": "the mean of their pieces under the source's tokenizer",
        "mean": f"the mean of all rows{unknown}",
        "random": "the model's own initialization",
    }
    new = "; ".join(f"{found[name]:,} new ones are {words}" for name, words in made.items() if found[name])
    return [
        f"tokens: {found['carried']:,} of {len(tokens):,} have the row that stands for the same text in the source"
        + (f"; {new}" if new else "")
        + (f"; {found['dropped']:,} of the source's are not among them" if found["dropped"] else "")
    ]


def rows_by_token(old: Tokenizer, new: Tokenizer, ours: Meanings, theirs: Meanings, size: int) -> TokenRows:
    """Return the rows of `new`'s tokens in a model of `size` rows whose tokenizer is `old`; both with their meanings.

    A token has the row of the one that stands for the same text: by its spelling between tokenizers of one kind, else by the
    bytes that it stands for; a special token by its spelling, then by its role. Pieces that are unknown to `old` are left out
    of the mean.
    """
    known = _Known(ours, size)
    rows = [known.row(token, theirs, number) for number, token in enumerate(theirs.tokens)]
    fresh = {number: token for number, token in enumerate(theirs.tokens) if rows[number] < 0 and token is not None}
    made = _pieces(old, ours, [_text(new, number, token) for number, token in fresh.items()])
    unknown = ours.roles.get("unk", -1)
    kept = [[piece for piece in pieces if piece != unknown and piece < size] for pieces in made]
    return TokenRows(
        torch.tensor(rows, dtype=torch.int64), {number: pieces for number, pieces in zip(fresh, kept, strict=True) if pieces}
    )


def own_roles(roles: Mapping[str, int]) -> dict[str, int]:
    """Return the roles without those of pad, unk and mask whose token also begins or ends texts.

    GPT-2's unk is its end of a text, and so is the pad of many a Llama: such a token's row was trained as the end of a text.
    """
    bounds = {number for role, number in roles.items() if role in _COUNTERPARTS}
    return {role: number for role, number in roles.items() if role in _COUNTERPARTS or number not in bounds}


def with_counterparts(roles: Mapping[str, int]) -> dict[str, int]:
    """Return the roles, with what stands at a text's beginning and end (BERT's cls and sep) where its own name lacks."""
    known = {role: [roles[one] for one in (role, *others) if one in roles] for role, others in _COUNTERPARTS.items()}
    return dict(roles) | {role: numbers[0] for role, numbers in known.items() if numbers}


class _Known:
    """The source's tokens, by all that another tokenizer's may be found by."""

    def __init__(self, source: Meanings, size: int) -> None:
        """Tokens from `size` on have no row."""
        self._source = source
        self._spelled: dict[tuple[bool, str], int] = {}
        self._meant: dict[tuple[bool, bytes], int] = {}
        for number, token in enumerate(source.tokens[:size]):
            if token is not None:
                self._spelled[token.named, token.spelling] = number
                if token.meaning is not None:
                    self._meant.setdefault((token.fallback, token.meaning), number)
        self._roles = {role: row for role, row in with_counterparts(own_roles(source.roles)).items() if row < size}

    def row(self, token: Token | None, vocabulary: Meanings, number: int) -> int:
        """Return the row of a vocabulary's token, -1 where the source has none."""
        if token is None:
            return -1
        if (token.named or vocabulary.kind == self._source.kind) and (token.named, token.spelling) in self._spelled:
            return self._spelled[token.named, token.spelling]
        if token.meaning is not None:
            same, other = ((fallback, token.meaning) for fallback in (token.fallback, not token.fallback))
            return self._meant.get(same, self._meant.get(other, -1))
        roles = [role for role, one in own_roles(vocabulary.roles).items() if one == number]
        return next((self._roles[role] for role in roles if role in self._roles), -1)


def _text(tokenizer: Tokenizer, number: int, token: Token) -> bytes:
    """Return the text of a tokenizer's token; of one that stands for none, its spelling."""
    if token.meaning is not None:
        return token.meaning
    return (token.spelling if token.named else tokenizer.decode([number])).encode()


def _pieces(tokenizer: Tokenizer, meanings: Meanings, texts: Sequence[bytes]) -> list[list[int]]:
    """Return the ids that a tokenizer makes of the texts of another's tokens.

    Some tokenizers put a blank before a text: of a text with and without its own the encoding is taken that stands for just
    the text. A part of a letter, which is no text, is made of its bytes.
    """
    read = [text.decode(errors="replace") for text in texts]
    plain, bare = tokenizer.encode_batch(read), tokenizer.encode_batch([text.removeprefix(" ") for text in read])

    def meaning(ids: Sequence[int]) -> bytes | None:
        tokens = [meanings.tokens[number] for number in ids]
        known = [token.meaning for token in tokens if token is not None and token.meaning is not None]
        return b"".join(known) if len(known) == len(ids) else None

    bytes_ = {token.meaning: number for number, token in enumerate(meanings.tokens) if token is not None and token.meaning}
    found: list[list[int]] = []
    for text, shown, first, second in zip(texts, read, plain, bare, strict=True):
        if shown.encode() != text:
            letters = [text[at : at + 1] for at in range(len(text))]
            found.append([bytes_[letter] for letter in letters] if bytes_.keys() >= set(letters) else [])
        else:
            found.append(second if second and meaning(first) != text and meaning(second) in (text, b" " + text) else first)
    return found

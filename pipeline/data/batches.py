"""The batches of a step, and each rank's share of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from pipeline.common.errors import UserError
from pipeline.data.blend import Blend, own_windows, spread
from pipeline.data.examples import Columns, Examples
from pipeline.data.objectives import IGNORED, Key


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences and their labels, int64 [sequences, S] each but for the labels of pairs."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    documents: torch.Tensor | None = None
    """The document of each token, counted within its sequence, where attention stays within documents."""
    token_type_ids: torch.Tensor | None = None
    """Sentence pairs: 0 up to the first [SEP], 1 up to the second, 0 behind it."""
    attention_mask: torch.Tensor | None = None
    """Sentence pairs: 1 up to the second [SEP], 0 behind it; None where there is nothing behind any."""
    pair_labels: torch.Tensor | None = None
    """Sentence pairs: 0 where the second part belongs behind the first, 1 where not; int64 [sequences]."""
    positions: torch.Tensor | None = None
    """The position of each token, where ids and labels are a slice of the sequences' positions; documents and masks are of
    whole sequences then."""
    scored_positions: torch.Tensor | None = None
    """Where the scored positions are among all of them, counted over the sequences; int64 [scored], where they are known."""

    def located(self) -> "Batch":
        """Return the batch with `scored_positions`."""
        return replace(self, scored_positions=(self.labels.flatten() != IGNORED).nonzero().squeeze(1))

    @property
    def scored(self) -> int:
        """Positions that count in the loss of tokens."""
        return int((self.labels != IGNORED).sum())

    @property
    def scored_pairs(self) -> int:
        """Sequences that count in the loss of pairs."""
        return 0 if self.pair_labels is None else int((self.pair_labels != IGNORED).sum())

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return on `device` what is read of the batch, by name; what it does not have is left out."""
        fields = {name: getattr(self, name) for name in _INPUTS}
        return {name: tensor.to(device) for name, tensor in fields.items() if tensor is not None}

    def ignore(self, sequences: torch.Tensor) -> None:
        """Leave sequences out of all losses; `sequences` is bool [sequences]."""
        self.labels[sequences] = IGNORED
        if self.pair_labels is not None:
            self.pair_labels[sequences] = IGNORED


_INPUTS = ("input_ids", "documents", "token_type_ids", "attention_mask", "positions")
_FIELDS = tuple(field.name for field in fields(Batch))


class PackedBatches:
    """The batches of a step, which go to the device by one copy that the host does not wait for."""

    def __init__(self, batches: Sequence[Batch], *, pinned: bool) -> None:
        """Pack them into one buffer, page-locked where it is `pinned`: only from there the device copies by itself."""
        self.scored = sum(batch.scored for batch in batches)
        self._shapes = [[(name, tensor.shape) for name, tensor in _tensors(batch)] for batch in batches]
        parts = [tensor.flatten() for batch in batches for _, tensor in _tensors(batch)]
        self._buffer = torch.empty(sum(map(len, parts)), dtype=torch.int64, pin_memory=pinned)
        torch.cat(parts, out=self._buffer)

    def on(self, device: torch.device) -> list[Batch]:
        """Return the batches on a device: views of what was copied."""
        buffer, begin, batches = self._buffer.to(device, non_blocking=True), 0, []
        for shapes in self._shapes:
            tensors = {}
            for name, shape in shapes:
                tensors[name] = buffer[begin : begin + shape.numel()].view(shape)
                begin += shape.numel()
            batches.append(Batch(**tensors))
        return batches


class UnpackedBatches:
    """The batches of a step as they were read, for a host that computes itself."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.scored = sum(batch.scored for batch in batches)
        self._batches = list(batches)

    def on(self, device: torch.device) -> list[Batch]:
        """Return the batches."""
        return self._batches


def _tensors(batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
    for name in _FIELDS:
        if (tensor := getattr(batch, name)) is not None:
            yield name, tensor


@dataclass(frozen=True, slots=True)
class Corpus:
    """What one corpus gives of a split, and its share of the samples."""

    name: str
    weight: float
    examples: Examples


class Batches:
    """A split's examples, addressed by sample number.

    What a corpus gives, masks included, depends on its own name and on the seed, not on the other corpora: only when it comes
    depends on the blend.
    """

    def __init__(self, corpora: Sequence[Corpus], seed: int, padding_id: int | None = None) -> None:
        """Reading raises UserError for a text that holds `padding_id`, where one is given."""
        self._corpora = corpora
        self._padding_id = padding_id
        self._seed = seed
        self._blend = Blend({corpus.name: corpus.weight for corpus in corpora}, seed)
        self._heldout_order = spread([], [], 0)

    def __len__(self) -> int:
        """Return the examples of all corpora: those of an epoch."""
        return sum(len(corpus.examples) for corpus in self._corpora)

    def training(self, samples: np.ndarray) -> Batch:
        """Return the batch of these samples of the endless training order."""
        corpora, own = self._blend(samples)
        taken = np.empty_like(samples)
        for number, corpus in enumerate(self._corpora):
            here = corpora == number
            taken[here] = own_windows(len(corpus.examples), (self._seed, corpus.name), own[here])
        keys: list[Key] = [(self._seed, self._corpora[c].name, o) for c, o in zip(corpora.tolist(), own.tolist(), strict=True)]
        return self._batch(corpora, taken, keys)

    def heldout(self, indices: np.ndarray) -> Batch:
        """Return the batch of these of the corpora's evenly spread examples, masked the same way each time."""
        if (count := int(indices.max()) + 1) > (known := len(self._heldout_order[0])):
            sizes, weights = zip(*((len(corpus.examples), corpus.weight) for corpus in self._corpora), strict=True)
            self._heldout_order = spread(sizes, weights, max(count, 2 * known))
        corpora, numbers = (order[indices] for order in self._heldout_order)
        keys: list[Key] = [
            (self._seed, self._corpora[c].name, "heldout", n) for c, n in zip(corpora.tolist(), numbers.tolist(), strict=True)
        ]
        return self._batch(corpora, numbers, keys)

    def _batch(self, corpora: np.ndarray, numbers: np.ndarray, keys: list[Key]) -> Batch:
        """Return the batch of these examples, each of one corpus."""
        columns: Columns = {}
        for corpus in np.unique(corpora):
            here = np.flatnonzero(corpora == corpus)
            read = self._corpora[corpus].examples.read(numbers[here], [keys[row] for row in here])
            if self._padding_id is not None and (read["input_ids"] == self._padding_id).any():
                raise holds_padding(self._corpora[corpus].name, self._padding_id)
            for name, rows in read.items():
                columns.setdefault(name, np.empty((len(corpora), *rows.shape[1:]), dtype=rows.dtype))[here] = rows
        if "attention_mask" in columns and columns["attention_mask"].all():
            # Without a mask attention takes a faster kernel.
            del columns["attention_mask"]
        return Batch(**{name: torch.from_numpy(column) for name, column in columns.items()})


def holds_padding(corpus: str, padding_id: int) -> UserError:
    """The error of a text with the padding token in it, for a family that counts positions without it."""
    return UserError(
        f"the text of the corpus {corpus!r} holds the padding token, id {padding_id}, without which the model counts "
        "positions; prepare text that is not padded and does not spell the token"
    )


def rank_samples(first: int, batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Return this rank's micro-batches of the step that takes samples [first, first + batch_size)."""
    share = batch_size // world_size
    begin = first + rank * share
    return [np.arange(b, b + micro_batch_size) for b in range(begin, begin + share, micro_batch_size)]

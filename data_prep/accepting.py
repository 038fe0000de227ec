"""Stage `accept`: shards made elsewhere, looked through and taken as they are."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import write_array
from data_prep.errors import UserError
from data_prep.job import WORK, Item, Outputs
from data_prep.manifest import TOKENIZER, TRAIN
from data_prep.plan import Plan
from data_prep.shards import Shard, bin_path
from data_prep.tokenizer import load_tokenizer
from data_prep.tokenizing import HISTOGRAM

_CHUNK = 1 << 22


class Accept:
    """Count a shard's tokens, and refuse ids that the tokenizer does not have."""

    name = "accept"

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root = root
        self._shards = {f"{number:05d}": shard for number, shard in enumerate(plan.shards)}

    @cached_property
    def _vocab_size(self) -> int:
        return load_tokenizer(self._root / TOKENIZER).vocab_size

    def items(self) -> list[Item]:
        """The shards."""
        return [Item(name, bin_path(Path(given.prefix)).stat().st_size) for name, given in self._shards.items()]

    def work(self, item: Item, outputs: Outputs) -> dict[str, Any]:
        """Look through one shard; raises UserError where it is damaged or not of this tokenizer."""
        given = self._shards[item.name]
        shard = Shard(Path(given.prefix))
        histogram = np.zeros(self._vocab_size, dtype=np.int64)
        for begin in range(0, shard.size, _CHUNK):
            ids = shard.tokens[begin : begin + _CHUNK].astype(np.int64)
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise UserError(
                    f"{given.prefix}.bin: holds token id {ids.max() if ids.min() >= 0 else ids.min()}, and the tokenizer has "
                    f"{self._vocab_size}; name the tokenizer that the shard was made with as tokenizer.path"
                )
            if given.split == TRAIN:
                histogram += np.bincount(ids, minlength=self._vocab_size)
        write_array(outputs.path(f"{WORK}/{self.name}/{item.name}{HISTOGRAM}"), histogram)
        return {
            "corpus": given.corpus,
            "splits": {
                given.split: {
                    "prefix": given.prefix,
                    "documents": shard.documents,
                    "sequences": shard.sequences,
                    "tokens": shard.size,
                }
            },
            "documents_out": shard.documents,
            "tokens_out": shard.size,
        }

"""Stage `accept`: shards made elsewhere, looked through and taken as they are."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.jobs.job import WORK, Item, Outputs
from data_prep.manifest import SHARDS, TRAIN
from data_prep.plans.drafting import absolute
from data_prep.plans.plan import Plan
from data_prep.shards import Shard, bin_path, idx_path
from data_prep.stages.tokenize import HISTOGRAM
from data_prep.storage.arrays import write_array
from data_prep.storage.block_digests import write_block_digests
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest
from pipeline.common.progress import BYTES, Advance

_CHUNK = 1 << 22


class Accept:
    """Count a shard's tokens, and refuse ids that the tokenizer does not have."""

    name = "accept"
    unit = BYTES

    def __init__(self, plan: Plan, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._shards = {f"{number:05d}": shard for number, shard in enumerate(plan.shards)}
        self._digests = {absolute(Path(item.name)): item.digest for item in plan.inputs}

    def items(self) -> list[Item]:
        """The shards, each of which is read twice: to be hashed, and for its ids."""
        return [Item(name, 2 * bin_path(Path(given.prefix)).stat().st_size) for name, given in self._shards.items()]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Look through one shard; raises UserError where it is damaged or not of this tokenizer."""
        given = self._shards[item.name]
        shard = Shard(Path(given.prefix))
        for path in (bin_path(shard.prefix), idx_path(shard.prefix)):
            if file_digest(path, advance) != self._digests[path]:
                raise UserError(f"{path}: changed since the preparation was started; put it back, or name another output_dir")
        histogram = np.zeros(self._vocab_size, dtype=np.int64)
        for begin in range(0, shard.size, _CHUNK):
            ids = shard.tokens[begin : begin + _CHUNK].astype(np.int64)
            if ids.min() < 0 or ids.max() >= self._vocab_size:
                raise UserError(
                    f"{given.prefix}.bin: holds token id {ids.max() if ids.min() >= 0 else ids.min()}, and the tokenizer has "
                    f"{self._vocab_size}; name the tokenizer that the shard was made with as tokenizer.path"
                )
            advance(len(ids) * shard.tokens.dtype.itemsize)
            if given.split == TRAIN:
                histogram += np.bincount(ids, minlength=self._vocab_size)
        write_array(outputs.path(f"{WORK}/{self.name}/{item.name}{HISTOGRAM}"), histogram)
        # The shard lies where it may not be written to.
        blocks = f"{SHARDS}/{given.corpus}/{given.split}-given-{item.name}.blocks"
        write_block_digests(bin_path(shard.prefix), outputs.path(blocks))
        return {
            "corpus": given.corpus,
            "splits": {
                given.split: {
                    "prefix": given.prefix,
                    "documents": shard.documents,
                    "sequences": shard.sequences,
                    "tokens": shard.size,
                    "blocks": blocks,
                }
            },
            "documents_out": shard.documents,
            "tokens_out": shard.size,
        }

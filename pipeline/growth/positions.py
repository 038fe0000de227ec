"""A longer table of learned positions."""

import torch

from pipeline.growth.state import Rows


class StretchedPositions:
    """The source's positions stretched over a longer table, each new one between its two old neighbours."""

    def __init__(self, source: Rows, size: int, offset: int) -> None:
        self.shape = (size, source.shape[1])
        self.source = source
        self._offset = offset

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        old, new = self.source.shape[0] - self._offset, self.shape[0] - self._offset
        if old == 1:
            return self.source.rows(self._offset, self._offset + 1).expand(stop - start, -1)
        place = torch.arange(start, stop, dtype=torch.float64) - self._offset
        # The first and the last position stay first and last; the rows before position 0 stay where they are.
        place = torch.where(place < 0, place, place * ((old - 1) / (new - 1)))
        below = place.floor().clamp(max=old - 2).long()
        lowest = int(below.min())
        table = self.source.rows(lowest + self._offset, int(below.max()) + 2 + self._offset)
        share = (place - below).to(table.dtype)[:, None]
        return table[below - lowest] * (1 - share) + table[below - lowest + 1] * share

"""What of a run's attention a report shows."""

from dataclasses import dataclass

SENTENCE = "The dog sat by the door and the man sat by the fire."


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """What of a run's attention is compared."""

    sentence: str = SENTENCE
    layers: tuple[int, ...] | None = None
    """Of the target; where None the first, the middle and the last that the source has, and the first added one."""
    heads: tuple[int, ...] | None = None
    """Of the target; where None up to six, new ones with those that they copy first."""

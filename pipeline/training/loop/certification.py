"""What the loop does for the certificate of a growth; of a model whose growth is certified, or that was not grown, nothing."""


class Certification:
    """Nothing is left to be certified."""

    @property
    def due(self) -> bool:
        """Whether `begin` is to be called behind the model's first step."""
        return False

    def begin(self) -> None:
        """Measure what needs no longer wait; a collective call."""

    def finish(self) -> None:
        """Have the certificate written, before anything that outlasts the process depends on the model; a collective call."""

    def close(self) -> None:
        """Wait for what was started, however it ends."""

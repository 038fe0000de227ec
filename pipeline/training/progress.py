"""What a person sees while steps run: a bar on a terminal, else a line now and then."""

import sys
import time

from tqdm import tqdm

_LINE_SECONDS = 15.0


class Progress:
    """Progress over a run's steps, with the time that is left."""

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        """Begin at `done` of `total` steps; `shown` on one rank only."""
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            file=sys.stdout,
            disable=not (shown and sys.stdout.isatty()),
        )
        self._total = total
        self._first = done
        self._began = self._last_line = time.monotonic()

    def step(self, number: int, stage: str, loss: float, tokens_per_second: float) -> None:
        """Show that step `number` is done."""
        self._bar.set_description(stage, refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_second / 1e3:.1f}k tokens/s", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and (now - self._last_line > _LINE_SECONDS or number == self._total):
            self._last_line = now
            left = (now - self._began) / (number - self._first) * (self._total - number)
            minutes, seconds = divmod(round(left), 60)
            self.say(
                f"{stage}: step {number}/{self._total}, loss {loss:.3f}, {tokens_per_second / 1e3:.1f}k tokens/s, "
                f"{minutes}:{seconds:02d} left"
            )

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._shown:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Let go of the terminal's line."""
        self._bar.close()

"""Step `fix_text`: text that was decoded by the wrong encoding."""

from functools import cached_property
from typing import Any, ClassVar, Literal

from data_prep.steps.base import Step
from data_prep.text.document import Document

_CHANGE_ASCII = ("unescape_html", "remove_terminal_escapes", "remove_control_chars", "fix_line_breaks")


class FixText(Step):
    """Repair mojibake, as `sÃ³` for `só`, by ftfy (R. Speer, "ftfy", doi:10.5281/zenodo.2591652).

    The options are ftfy's, and so are their names. Only those that repair an encoding are on, where ftfy has all of them on:
    quotes stay curly, ligatures and wide characters stay what they are.
    """

    name: ClassVar[str] = "fix_text"

    fix_encoding: bool = True
    restore_byte_a0: bool = True
    replace_lossy_sequences: bool = True
    decode_inconsistent_utf8: bool = True
    fix_c1_controls: bool = True
    fix_surrogates: bool = True
    unescape_html: bool | Literal["auto"] = False
    remove_terminal_escapes: bool = False
    remove_control_chars: bool = False
    fix_line_breaks: bool = False
    fix_latin_ligatures: bool = False
    fix_character_width: bool = False
    uncurl_quotes: bool = False
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None

    @property
    def libraries(self) -> tuple[str, ...]:
        """The library that repairs."""
        return ("ftfy",)

    def __call__(self, document: Document) -> None:
        """Repair the text."""
        if document.text.isascii() and not self._changes_ascii:
            return
        import ftfy

        document.text = ftfy.fix_text(document.text, self._config)

    @cached_property
    def _changes_ascii(self) -> bool:
        """Whether an option is on that changes ASCII text; ftfy's other fixes look for characters beyond it."""
        return any(getattr(self, option) for option in _CHANGE_ASCII)

    @cached_property
    def _config(self) -> Any:
        from ftfy import TextFixerConfig

        # Without `explain`, ftfy leaves the options below `fix_encoding` aside.
        return TextFixerConfig(explain=True, **self.model_dump())

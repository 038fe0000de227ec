"""Step `fix_text`: text that was decoded by the wrong encoding."""

from functools import cached_property
from typing import Any, ClassVar, Literal

from data_prep.steps.base import Step
from data_prep.text.document import Document

_CHANGE_ASCII = ("unescape_html", "remove_terminal_escapes", "remove_control_chars", "fix_line_breaks")


class FixText(Step, name="fix_text"):
    """Repair mojibake, as `sÃ³` for `só`, by ftfy (R. Speer, "ftfy", doi:10.5281/zenodo.2591652).

    The options are ftfy's, and so are their names. Only those that repair an encoding are on, where ftfy has all of them on:
    quotes stay curly, ligatures and wide characters stay what they are.
    """

    libraries: ClassVar[tuple[str, ...]] = ("ftfy",)

    fix_encoding: bool = True
    """Decode again what was decoded by a wrong encoding."""
    restore_byte_a0: bool = True
    """Take a space for the byte A0 where that makes mojibake readable."""
    replace_lossy_sequences: bool = True
    """Put � for the characters of which only a part of the bytes is left."""
    decode_inconsistent_utf8: bool = True
    """Decode sequences of UTF-8 in text that is otherwise well decoded."""
    fix_c1_controls: bool = True
    """Read C1 control characters as the characters of Windows-1252."""
    fix_surrogates: bool = True
    """Join pairs of UTF-16 surrogates; put � for single ones."""
    unescape_html: bool | Literal["auto"] = False
    """Replace HTML's entities by their characters; `auto`: where the text holds no tag."""
    remove_terminal_escapes: bool = False
    """Remove the escape sequences of terminals' colours."""
    remove_control_chars: bool = False
    """Remove control characters that have no use in text."""
    fix_line_breaks: bool = False
    """Make all line breaks line feeds."""
    fix_latin_ligatures: bool = False
    """Write ligatures of Latin letters as these letters."""
    fix_character_width: bool = False
    """Write full-width and half-width characters in the common width."""
    uncurl_quotes: bool = False
    """Write curly quotation marks as straight ones."""
    normalization: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None
    """The normal form of Unicode that text is brought into at last; null: none."""

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

        # Without `explain`, ftfy ignores the options below `fix_encoding`.
        return TextFixerConfig(explain=True, **self.model_dump())

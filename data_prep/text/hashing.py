"""The hash by which texts are compared."""

import hashlib

_LOWER = bytes(range(256)).lower()
_ASCII = bytes(range(128))
_SPACE = bytes(code for code in _ASCII if chr(code).isspace())
_WIDE_SPACE = frozenset(chr(code) for code in range(128, 0x3001) if chr(code).isspace())


def text_hash(text: str) -> bytes:
    """Return the 128-bit hash by which texts are equal that differ in case and white space alone.

    It is of `text.lower()` without white space, in UTF-8.
    """
    content = text.encode()
    if not text.isascii():
        # Bytes are changed much faster than characters; they will not do where one that is not ASCII has to change or to go.
        wide = content.translate(None, _ASCII).decode()
        spaces = _WIDE_SPACE.intersection(wide)
        if spaces or wide.lower() != wide:
            text = text.lower()  # before spaces go: a sigma is another letter at the end of a word
            for space in spaces:
                text = text.replace(space, "")
            content = text.encode()
    return hashlib.blake2b(content.translate(_LOWER, _SPACE), digest_size=16).digest()

"""Secrets in URLs: refused where a user gives them, removed where a library's message has them."""

import re
from urllib.parse import parse_qsl, urlsplit

from pipeline.common.errors import UserError

_SECRET = re.compile(
    r"(?:access|account|api|app|auth|aws|bearer|client|id|private|refresh|sas|secret|session|shared|subscription|user)?"
    r"(?:auth|authorization|bearer|code|credential|hmac|jwt|key|pass|passphrase|passwd|password|pwd|secret|sig|signature|token)"
    r"s?"
)
"""A whole word of a parameter's name: `key`, `apikey`, but not `monkey`."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name in camel case: AWS, Access, Key and Id in AWSAccessKeyId."""
_PARAMETERS = re.compile(r"[?#;][^\s'\"<>]*=[^\s'\"<>]*")
_USER = re.compile(r"(?<=://)[^\s/'\"<>@]+@")


def refuse_secrets(url: str) -> None:
    """Raise UserError for a URL with a password, a web server's user or a signature in it, which the plan would hold."""
    for link in url.split("::"):
        try:
            parts = urlsplit(link)
        except ValueError as error:
            raise UserError(f"{without_secrets(link)}: no URL ({error}); check its spelling") from None
        parameters = parse_qsl(f"{parts.query}&{parts.fragment}".replace(";", "&"))
        signed = [key for key, _ in parameters if _is_secret(key)]
        if parts.password is not None:
            what = "a password"
        elif parts.username is not None and parts.scheme in ("http", "https"):
            what = "a user"
        elif signed:
            what = f"`{signed[0]}`"
        else:
            continue
        raise UserError(
            f"{parts.scheme}://{parts.hostname}{parts.path}: has {what} in its URL, which would stand in plan.json and "
            "manifest.json; give credentials by fsspec's configuration (~/.config/fsspec/conf.json, FSSPEC_*) or the store's "
            "own (AWS_*, HF_TOKEN)"
        )


def without_secrets(message: str) -> str:
    """Return a message whose URLs have no user, no query and no fragment."""
    return _USER.sub("", _PARAMETERS.sub("", message))


def _is_secret(key: str) -> bool:
    parts = re.findall(r"[A-Za-z]+", key)
    words = [word for part in parts for word in _WORD.findall(part)]
    return any(_SECRET.fullmatch(word.lower()) for word in [*parts, *words])

"""Step `mask_pii`: e-mail addresses, IP addresses and phone numbers."""

import ipaddress
import re
from itertools import cycle
from typing import Annotated

from pydantic import Field

from data_prep.steps.base import Step
from data_prep.text.document import Document
from pipeline.common.errors import UserError

Replacements = Annotated[list[str], Field(min_length=1)]

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_RUN_WITH_AT = re.compile(r"(?<!\S)[^\s@]*+@\S*")
"""An e-mail address is looked for in these alone: `_EMAIL` would take time by the square of a long word's length."""
_EMAIL = re.compile(
    rf"\b{_ATOM}(?:\.{_ATOM})*@(?:(?:{_HOST}\.)+{_HOST}|\[(?:{_BYTE}\.){{3}}(?:{_BYTE}|[A-Za-z0-9-]*[A-Za-z0-9]:)\])"
)
_IP = re.compile(rf"(?:{_BYTE}\.){{3}}{_BYTE}")
_DIGITS = re.compile(r"\d(?:\D{0,4}\d){6}")
"""Fewer digits are no phone number; this saves looking."""
_DECIMAL = re.compile(r"(?:0|[1-9]\d*)[.,]\d+")
_PART_OF_MORE_BEFORE = re.compile(r"\d[.,:/_-]?\Z")
_PART_OF_MORE_BEHIND = re.compile(r"[.,:/_-]?\d")
"""libphonenumber also takes a part of a longer number: of a decimal, a version, a time stamp."""


class MaskPII(Step, name="mask_pii"):
    """Replace e-mail addresses, public IP addresses and, by choice, phone numbers.

    The first two are found as datatrove finds them (PIIFormatter): a version or section number of four parts from 0 to 255
    is an IPv4 address to it, and IPv6 is not looked for. Replacements are taken in turn, from the first one in each
    document. Phone numbers are found by Google's libphonenumber (the package `phonenumbers`): those that are valid by its
    metadata, and grouped as their country groups them or not at all.
    """

    emails: bool = True
    """Whether e-mail addresses are replaced."""
    ips: bool = True
    """Whether IP addresses are replaced."""
    phones: bool = False
    """Whether phone numbers are replaced."""
    public_ips_only: bool = True
    """Whether addresses of private, local and reserved networks stay."""
    phone_region: Annotated[str, Field(pattern="^[A-Z]{2}$")] | None = None
    """The country (ISO 3166, as US) whose numbers are found without a country code too; without one, +1 and so on is needed."""
    email_replacement: Replacements = ["email@example.com", "firstname.lastname@example.org"]
    """What stands in the place of e-mail addresses, in turn."""
    ip_replacement: Replacements = [
        "22.214.171.124",
        "126.96.36.199",
        "188.8.131.52",
        "184.108.40.206",
        "220.127.116.11",
        "18.104.22.168",
    ]
    """What stands in the place of IP addresses, in turn."""
    phone_replacement: Replacements = ["+1 555 0100"]
    """What stands in the place of phone numbers, in turn."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """The library that finds phone numbers: its metadata follows the world's numbering plans."""
        return ("phonenumbers",) if self.phones else ()

    def check(self) -> None:
        """Raise UserError where phone numbers are asked for and cannot be found."""
        if not self.phones:
            return
        try:
            import phonenumbers
        except ImportError:
            raise UserError(
                "step mask_pii: phones: needs phonenumbers, which is not installed; pip install phonenumbers"
            ) from None
        if self.phone_region is not None and self.phone_region not in phonenumbers.SUPPORTED_REGIONS:
            raise UserError(
                f"step mask_pii: phone_region: libphonenumber knows no country {self.phone_region!r}; give two letters, as US"
            )

    def __call__(self, document: Document) -> None:
        """Replace what is found."""
        text = document.text
        if self.emails and "@" in text:
            email = cycle(self.email_replacement)
            text = _RUN_WITH_AT.sub(lambda run: _EMAIL.sub(lambda _: next(email), run.group()), text)
        if self.ips:
            address = cycle(self.ip_replacement)
            text = _IP.sub(lambda found: next(address) if self._goes(found.group()) else found.group(), text)
        if self.phones and _DIGITS.search(text):
            text = self._without_phones(text)
        document.text = text

    def _goes(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address).is_global or not self.public_ips_only
        except ValueError:  # a leading zero
            return False

    def _without_phones(self, text: str) -> str:
        from phonenumbers import Leniency, PhoneNumberMatcher

        number = cycle(self.phone_replacement)
        parts: list[str] = []
        end = 0
        for match in PhoneNumberMatcher(text, self.phone_region, leniency=Leniency.STRICT_GROUPING, max_tries=len(text)):
            before = _PART_OF_MORE_BEFORE.search(text, max(0, match.start - 2), match.start)
            behind = _PART_OF_MORE_BEHIND.match(text, match.end)
            if not (before or behind or _DECIMAL.fullmatch(match.raw_string)):
                parts += (text[end : match.start], next(number))
                end = match.end
        return "".join([*parts, text[end:]])

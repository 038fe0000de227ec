"""What is masked and what is not; e-mail and IP addresses are held against datatrove in test_against_datatrove.py."""

import pytest

from data_prep.steps.mask_pii import MaskPII
from data_prep.text.document import Document
from pipeline.common.errors import UserError


def _masked(text: str, **options) -> str:
    document = Document(text, "")
    assert MaskPII(**options)(document) is None
    return document.text


def test_replacements_go_in_turn_and_begin_anew_in_each_document():
    text = "a@b.org, (c.d+e@f-g.co.uk) x@y.z!"
    masked = "email@example.com, (firstname.lastname@example.org) email@example.com!"
    assert [_masked(text), _masked(text)] == [masked, masked]
    assert _masked("to a@b.org and 8.8.8.8", email_replacement=["<email>"], ip_replacement=["<ip>"]) == "to <email> and <ip>"


def test_each_kind_is_a_choice():
    assert _masked("a@b.org 8.8.8.8", emails=False) == "a@b.org 22.214.171.124"
    assert _masked("a@b.org 8.8.8.8", ips=False) == "email@example.com 8.8.8.8"


@pytest.mark.parametrize("text", ["@home a@ @b.org a@b", "10.0.0.1 192.168.1.1 127.0.0.1", "1.2.3 v3.11.4 3.14159", "08.8.8.8"])
def test_what_is_no_address_or_no_public_one_stays(text):
    assert _masked(text) == text


def test_local_addresses_go_by_choice():
    assert _masked("10.0.0.1", public_ips_only=False, ip_replacement=["<ip>"]) == "<ip>"


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("call +49 30 123456 or +1 (212) 555-0123 now", None),
        ("call (212) 555-0123, 212-555-0123 or 2125550123 now", "US"),
        ("ruf 030 123456 an", "DE"),
    ],
)
def test_phone_numbers(text, region):
    pytest.importorskip("phonenumbers")
    masked = _masked(text, phones=True, phone_region=region, phone_replacement=["<phone>"])
    assert not any(character.isdigit() for character in masked)
    assert masked.count("<phone>") == text.count("555") + text.count("123456")


@pytest.mark.parametrize("region", [None, "US", "GB", "DE"])
@pytest.mark.parametrize(
    "text",
    [
        "on 2020-11-28, 28.11.2020, 11/28/2020 or 28 November 2020 at 12:30:45",
        "2020-11-28T12:30:45Z, 20201128123045",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 0378-5955",
        "version 2.10.14.3021, 1.0.0-20201128123045, 10.0.19041.1237",
        "3.14159265358979, 0.2125550123, -12.5550123e10, 1,234,567,890",
        "pages 1234-5678, 1990-2005, chapters 1 2 3 4 5 6 7 8 9 10",
        "4111 1111 1111 1111, 0xDEADBEEF12345678",
    ],
)
def test_dates_isbns_versions_and_decimals_are_no_phone_numbers(text, region):
    pytest.importorskip("phonenumbers")
    assert _masked(text, ips=False, phones=True, phone_region=region) == text


def test_phone_numbers_without_the_library_are_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phonenumbers", None)
    with pytest.raises(UserError, match="pip install phonenumbers"):
        MaskPII(phones=True).check()
    MaskPII().check()


def test_an_unknown_country_is_refused():
    pytest.importorskip("phonenumbers")
    with pytest.raises(UserError, match="'XX'"):
        MaskPII(phones=True, phone_region="XX").check()


@pytest.mark.parametrize("part", ["a-", "a.", "a@", "1.", "1-"])
def test_a_long_run_takes_no_time_by_its_square(part):
    """It would take minutes, of which the time limit lets few pass."""
    _masked(part * (100_000 // len(part)))

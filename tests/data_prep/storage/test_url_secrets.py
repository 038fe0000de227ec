import pytest

from data_prep.storage.stores import patiently
from data_prep.storage.url_secrets import refuse_secrets
from pipeline.common.errors import UserError

SECRETS = [
    "https://ghp_hidden@host/a",
    "https://user:hidden@host/a",
    "sftp://user:hidden@host/a",
    *(f"https://host/a?page=1&{key}=hidden" for key in ("key", "auth", "sig", "code", "pwd", "apikey", "APIkey", "x-api-key")),
    "https://host/a?access_key=hidden&AWSAccessKeyId=hidden",
    "https://host/a?page=1;authToken=hidden",
    "https://host/a#access_token=hidden",
    "https://host/a#/page?token=hidden",
    "zip://a.txt::https://host/a.zip?X-Goog-Credential=hidden",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_url_with_a_secret_is_refused_without_saying_it(url):
    with pytest.raises(UserError, match=r"in its URL, which would stand in plan\.json") as refused:
        refuse_secrets(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a?design=1&monkey=2&signal=3&passage=4&author=5&codec=6",
        "https://host/a?tokenizer=gpt2#keynote=1",
        "https://host/@user/a?page=1",
        "sftp://user@host/a",
        "abfs://container@account/a",
        "s3://bucket/part?_key.txt",
    ],
)
def test_a_url_with_words_that_begin_or_end_like_a_secret_s_is_taken(url):
    refuse_secrets(url)


@pytest.mark.parametrize(
    "message",
    [
        "500, message='Busy', url='https://user:hidden@host/a?X-Amz-Signature=hidden&X-Amz-Date=1'",
        "500, message='Busy', url=URL('https://host/a#token=hidden')",
        "Max retries exceeded with url: /a?X-Amz-Signature=hidden (Caused by a timeout)",
        "https://host/" + "a" * 150 + "?X-Amz-Signature=hidden",
    ],
)
def test_a_library_s_message_is_passed_on_without_its_urls_secrets(message, monkeypatch):
    monkeypatch.setattr("data_prep.storage.stores._PAUSES", ())

    def ask() -> None:
        raise ConnectionError(message)

    with pytest.raises(UserError, match=r"cannot be read, tried 1 times \(ConnectionError: ") as refused:
        patiently("https://host/a", ask)
    assert "hidden" not in str(refused.value)
    assert "/a" in str(refused.value)

"""Downloads from the Hugging Face hub, and why one failed. Imported when needed: huggingface_hub takes 0.3 s to import."""

from pathlib import Path

from huggingface_hub import constants, get_session, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name

from pipeline.common.errors import UserError, one_line

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def download(name: str, revision: str | None, absent: str, patterns: list[str]) -> Path:
    """Return the snapshot of a model, as `find_directory` says, with the files that match; raises UserError."""
    cached = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots", revision or "")
    try:
        if REGEX_COMMIT_HASH.fullmatch(cached.name) and not cached.is_dir():
            # The library lists a commit's files with retries, 23 s of them where no hub can be reached: this is one try.
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            # A fault of this machine's disk, whose own message says more.
            raise
        raise UserError(f"{absent}; on the Hugging Face hub, {_reason(error, name, revision)}") from None


def _reason(error: Exception, name: str, revision: str | None) -> str:
    """Why the hub did not give a model, and what to do about it."""
    place, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    called = name if revision is None else f"{name} at revision {revision!r}"
    again = f"download it where the hub can be reached (hf download {name})"
    if isinstance(error, IncompleteSnapshotError):
        return f"{called} is not to be reached now, and only a part of it is in {cache}: {again}"
    # Where the cache has nothing either, that is raised, and why the hub gave nothing is its cause.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, GatedRepoError):
        return f"{name} is gated: accept its terms at {place}/{name}, then {_LOGIN}"
    if isinstance(cause, RevisionNotFoundError):
        return f"{name} has no revision {revision!r}: {place}/{name}/commits lists them"
    if isinstance(cause, RepositoryNotFoundError):
        return f"there is no {name}, or it is private: check its spelling, or {_LOGIN}"
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in (401, 403):
            return f"{name} is not given to this account ({status}): ask its owner for permission, or {_LOGIN}"
        return f"{place} answers {status} for {name}: try again later"
    if constants.HF_HUB_OFFLINE:
        return f"nothing is looked for, since HF_HUB_OFFLINE is set, and {called} is not in {cache}: unset it, or {again}"
    reason = f"{type(cause).__name__}: {one_line(cause)}"
    return f"nothing can be looked for, since {place} cannot be reached ({reason}), and {called} is not in {cache}: {again}"

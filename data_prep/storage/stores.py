"""Files on this machine and, by fsspec, at any store: s3://, gs://, hf://, https:// and the like.

Credentials and endpoints are fsspec's own: its configuration files and variables (FSSPEC_S3_ENDPOINT_URL), and the store's
(AWS_*, HF_TOKEN). None of them is written anywhere.
"""

import glob
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from data_prep.storage.url_secrets import refuse_secrets, without_secrets
from pipeline.common.errors import UserError
from pipeline.common.files import WatchedFile, file_digest
from pipeline.common.progress import Advance

Value = TypeVar("Value")

_PAUSES = (1.0, 4.0, 16.0)
"""Seconds before what failed is tried again."""
_BLOCK = 8 << 20
"""Bytes of a store's file that are asked for at a time, and held."""
_WEB = ("http", "https")


class UnreachableError(UserError):
    """A store that fails for the moment: what is done stays."""


def is_url(name: str) -> bool:
    """Return whether a name is a URL, and not a path."""
    return "://" in name


@dataclass(frozen=True)
class Remote:
    """A file or folder at a store; of pathlib's words those that are used of files."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The name's last ending."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """The name's endings."""
        return self._path.suffixes

    def resolve(self) -> "Remote":
        """Return it as it is: a store has no links."""
        return self

    @property
    def _path(self) -> PurePosixPath:
        first = self.url.partition("::")[0]
        return PurePosixPath(urlsplit(first).path if self.is_web else first)

    @property
    def is_web(self) -> bool:
        """Whether a web server has it: such lists nothing, and may give no part of a file."""
        return self.url.partition("://")[0] in _WEB

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """fsspec's file system, and the path there; raises UserError where there is none for such URLs."""
        refuse_secrets(self.url)
        import fsspec  # slow to import, and seldom needed

        try:
            return fsspec.core.url_to_fs(self.url, **(_web_options() if self.is_web else {}))
        except ImportError as error:
            package = re.search(r"[Ii]nstall `?([\w-]+)`?", str(error))
            name = package.group(1) if package else error.name
            raise UserError(f"{self.url}: needs the Python package {name}; run pip install {name}") from None
        except ValueError as error:
            raise UserError(f"{self.url}: unknown kind of store ({error}); use a URL that fsspec knows") from None

    def info(self) -> dict[str, Any]:
        """Return what the store says of it now; raises UserError where it is not there, not given or not to be reached."""
        return self._ask(lambda store, path: store.info(path))

    @property
    def size(self) -> int:
        """Bytes; raises UserError where the store does not say."""
        return _size(self.url, self.info())

    def draft(self) -> tuple[int, str | None, str]:
        """Return (bytes, what identifies the content or None, by what a change is noticed).

        The second is the store's ETag, the commit's blob at the Hugging Face hub, or when a web server says that the file was
        modified. A store that gives none of these has its content hashed.
        """
        info = self.info()
        return _size(self.url, info), _identity(info), _fingerprint(info)

    def check(self, fingerprint: str | None) -> None:
        """Raise UserError where the file is no longer that of `draft`."""
        if fingerprint is not None and _fingerprint(self.info()) != fingerprint:
            raise UserError(f"{self.url}: has changed since the plan was made; put it back, or remove output_dir to restart")

    @cached_property
    def gives_ranges(self) -> bool:
        """Whether a part of the file can be read without what stands before it."""
        if not self.is_web or self.size < 2:
            return True
        with _RemoteFile(self, lambda _: None) as file:
            file.seek(1)
            file.read(1)
            return not file.streams

    def below(self) -> list["Remote"]:
        """Return the files of a folder, in the order of their paths; hidden ones too."""
        file_system, path = self.opened
        found = patiently(self.url, lambda: file_system.find(path))
        return sorted((self._sibling(name) for name in found if not name.endswith("/")), key=lambda file: file.parts)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}")

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self._ask(lambda store, path: store.exists(path))

    def fingerprints(self) -> dict[str, str]:
        """Return by what a change of each file of this folder is noticed, by its name below the folder."""
        found = self._ask(lambda store, path: store.find(path, detail=True))
        begin = len(self.parts)
        return {"/".join(self._sibling(name).parts[begin:]): _fingerprint(info) for name, info in found.items()}

    def content(self) -> bytes:
        """Return all of the file; it is to be small."""
        with _RemoteFile(self, lambda _: None, self.size) as file:
            return file.readall()

    def write(self, content: bytes) -> None:
        """Make it a file of this content."""
        self._ask(lambda store, path: store.pipe_file(path, content), "written")

    def upload(self, file: Path) -> None:
        """Make it a copy of a local file."""

        def put(store: Any, path: str) -> None:
            store.put_file(str(file), path)
            store.invalidate_cache()
            if (size := store.info(path)["size"]) != file.stat().st_size:
                raise ConnectionError(f"{size} bytes are there of {file.stat().st_size}")

        self._ask(put, "written")

    def remove(self) -> None:
        """Remove the file."""
        self._ask(lambda store, path: store.rm_file(path), "removed")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of its path."""
        return self._path.parts

    def named(self) -> list["Remote"]:
        """Return the files and folders that it names: itself, or as a glob those that match; none where nothing is there."""
        if self.is_web:
            try:
                self.info()
            except UnreachableError:
                raise
            except UserError as error:
                hint = "; a web server does not list its files, so name them one by one" if "*" in self.url else ""
                raise UserError(f"{error}{hint}") from None
            return [self]
        file_system, path = self.opened
        if patiently(self.url, lambda: file_system.exists(path)) or not glob.has_magic(path):
            self.info()
            return [self]
        found = patiently(self.url, lambda: file_system.glob(path))
        return sorted((self._sibling(name) for name in found), key=lambda file: file.parts)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return not self.is_web and self.info()["type"] == "directory"

    def _ask(self, ask: Callable[[Any, str], Value], done: str = "read") -> Value:
        """Ask the store as it is now, and not fsspec's memory of it, as `patiently` does."""
        file_system, path = self.opened

        def asked() -> Value:
            file_system.invalidate_cache()
            return ask(file_system, path)

        return patiently(self.url, asked, done)

    def _sibling(self, path: str) -> "Remote":
        _, chained, outer = self.url.partition("::")
        return Remote(self.opened[0].unstrip_protocol(path) + chained + outer)


def _web_options() -> dict[str, Any]:
    """How web servers are asked: without an end to how long a file may take, and for its bytes as they are."""
    import aiohttp
    import fsspec

    set_by_user = fsspec.config.conf.get("http", {}).get("client_kwargs", {})
    asked = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60), **set_by_user}
    return {"client_kwargs": asked | {"headers": {"Accept-Encoding": "identity", **set_by_user.get("headers", {})}}}


Source = Path | Remote


def source_of(name: str) -> Source:
    """Return the file of a name: a URL, or a path."""
    return Remote(name) if is_url(name) else Path(name)


def paths_of(pattern: str) -> list[Path]:
    """Return what a path or glob names here, sorted; a file whose name looks like a pattern is meant by that name."""
    return [Path(name) for name in ([pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True)))]


def named(pattern: str) -> list[Source]:
    """Return the files and folders that a path, URL or glob names."""
    return [*Remote(pattern).named()] if is_url(pattern) else [*paths_of(pattern)]


def size_of(source: Source) -> int:
    """Return a file's bytes."""
    return source.size if isinstance(source, Remote) else source.stat().st_size


def raw_file(source: Source, advance: Advance, ahead: int = 0) -> io.RawIOBase:
    """Open a file; `advance` is called with the bytes that are read of it.

    Of a store's, what lies before `ahead` is asked for in large blocks.
    """
    return _RemoteFile(source, advance, ahead) if isinstance(source, Remote) else WatchedFile(source, advance)


def read_fully(file: Any, count: int) -> bytes:
    """Return the next `count` bytes of an unbuffered file, fewer only at its end."""
    content = bytearray()
    while len(content) < count and (chunk := file.read(count - len(content))):
        content += chunk
    return bytes(content)


def content_digest(source: Source, advance: Advance = lambda _: None) -> str:
    """BLAKE2b-128 of a file's bytes, in hex."""
    if isinstance(source, Path):
        return file_digest(source, advance)
    with raw_file(source, advance, source.size) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def patiently(url: str, ask: Callable[[], Value], done: str = "read") -> Value:
    """Return what `ask` returns, tried again where the connection fails.

    Raises UserError, which names `url` and says that it cannot be `done`.
    """
    for pause in (*_PAUSES, None):
        try:
            return ask()
        except UserError:
            raise
        except Exception as error:  # the libraries of the stores have their own errors
            reason = _final(error)
            if reason is not None:
                raise UserError(f"{url}: {reason}") from None
            if pause is None:
                raise UnreachableError(
                    f"{url}: cannot be {done}, tried {len(_PAUSES) + 1} times ({_spelled(error)}); start the same command "
                    "again when the store can be reached, it goes on from what is done"
                ) from None
            time.sleep(pause)
    raise AssertionError


def _final(error: Exception) -> str | None:
    """What is wrong, where it will not do to try again; None of a failure that may pass."""
    chain = list(_causes(error))
    status = next(filter(None, map(_status, chain)), None)
    kinds = {type(each).__name__ for each in chain}
    if kinds & {"NoCredentialsError", "PartialCredentialsError"}:
        return "no credentials for this store; set them as its library reads them (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    if status in (401, 403) or isinstance(error, PermissionError):
        reason = f"status {status}" if status else _spelled(error)
        return f"the store does not give it ({reason}); check the credentials and what they permit"
    if "FileExpired" in kinds:
        return "has changed while it was read; put it back, or remove output_dir to start again"
    # fsspec says of a web server that cannot be reached that it has no such file, and why is the cause.
    absent = isinstance(error, FileNotFoundError) and isinstance(error.__cause__, LookupError | None)
    if status in (404, 410) or (status is None and absent):
        return "no such file, bucket or repository at the store, or not for these credentials; check its spelling, and them"
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return f"the server answers {status}; check the URL"
    if isinstance(error, MemoryError | NotImplementedError | ImportError):
        return _spelled(error)
    return None


def _status(error: BaseException) -> int | None:
    """What a server answered, as aiohttp, the Hugging Face hub's library and botocore give it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", getattr(response, "status_code", None))
    return status if isinstance(status, int) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _spelled(error: Exception) -> str:
    *_, last = _causes(error)
    return without_secrets(" ".join(f"{type(last).__name__}: {last}".split()))[:200]


def _size(url: str, info: dict[str, Any]) -> int:
    if info.get("size") is None:
        raise UserError(f"{url}: the store gives no length, so that a file that breaks off would not be noticed; download it")
    return int(info["size"])


def _identity(info: dict[str, Any]) -> str | None:
    """What the store itself says by which a content is known."""
    for key, kind in (("ETag", "etag"), ("etag", "etag"), ("blob_id", "blob"), ("Last-Modified", "modified")):
        if info.get(key):
            return f"{kind}:{info[key]}"
    return None


def _fingerprint(info: dict[str, Any]) -> str:
    changed = _identity(info) or next(
        (f"changed:{info[key]}" for key in ("mtime", "created", "LastModified") if key in info), ""
    )
    return f"{info.get('size')} {changed}".strip()


class _RemoteFile(io.RawIOBase):
    """A store's file, read by ranges; from its beginning, where the server gives no ranges."""

    def __init__(self, remote: Remote, advance: Advance, ahead: int = 0) -> None:
        super().__init__()
        self._remote = remote
        self._advance = advance
        self._ahead = ahead
        info = remote.info()
        self._size, self._fingerprint = _size(remote.url, info), _fingerprint(info)
        self._place = 0
        self._block, self._begin = memoryview(b""), 0
        self._file: Any = None
        self.streams = False
        """Whether all of it is asked for, for want of ranges."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        if not self._begin <= self._place < self._begin + len(self._block):
            end = max(self._place + wanted, min(self._place + _BLOCK, self._ahead, self._size))
            self._block = memoryview(b"")  # not two at a time
            self._block = memoryview(patiently(self._remote.url, lambda: self._fetch(self._place, end)))
            self._begin = self._place
        start = self._place - self._begin
        count = min(wanted, len(self._block) - start)
        memoryview(buffer).cast("B")[:count] = self._block[start : start + count]
        self._place += count
        self._advance(count)
        return count

    def close(self) -> None:
        self._let_go()
        super().close()

    def _fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, all of them."""
        try:
            return self._read(start, end)
        except BaseException:
            self._let_go()
            raise

    def _read(self, start: int, end: int) -> bytes:
        if self._file is not None and self.streams and self._file.tell() > start:
            self._let_go()
        if self._file is None:
            # What is opened again is to be what it was.
            self._remote.check(self._fingerprint)
            file_system, path = self._remote.opened
            # What is asked for is asked for once: no cache of fsspec's, which reads ahead.
            self._file = file_system.open(path, "rb", **({"block_size": 0} if self.streams else {"cache_type": "none"}))
        if self.streams:
            while self._file.tell() < start:
                self._exactly(min(start - self._file.tell(), _BLOCK))
        else:
            self._file.seek(start)
        try:
            return self._exactly(end - start)
        except ValueError as error:
            if self.streams or "range requests" not in str(error):
                raise
        self._let_go()
        self.streams = True
        return self._read(start, end)

    def _exactly(self, count: int) -> bytes:
        content = read_fully(self._file, count)
        if len(content) != count:
            raise ConnectionError(f"{len(content)} bytes came where {count} were asked for")
        return content

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

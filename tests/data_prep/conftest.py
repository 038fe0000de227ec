import logging

import fsspec
import pytest

from tests.stores import S3_SECRET, s3_server


@pytest.fixture(scope="session")
def bucket():
    """S3 on this machine with an empty bucket of that name, as fsspec's file system."""
    pytest.importorskip("moto", reason="moto, the S3 of these tests, is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for key, value in (
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "one"),
            ("AWS_SECRET_ACCESS_KEY", S3_SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(key, value)
        file_system = fsspec.filesystem("s3")
        file_system.mkdir("bucket")
        yield file_system
        file_system.clear_instance_cache()

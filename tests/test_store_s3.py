"""A store on S3, against a real server process on loopback."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs

from pipeline.extract.extract import extract_features
from pipeline.store import FeatureStore
from pipeline.store.verify import find_corruption
from pipeline.store_command.hdf5 import export_hdf5
from tests.test_extraction import REQUEST, arrays_of, write_data

# botocore and aiohttp leave connections to the garbage collector; that is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as order_test:
        order_test.bind(("127.0.0.1", 0))
        port = order_test.getsockname()[1]
    # fsspec takes the place of the server from its own environment variables.
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    # fsspec keeps connections by their settings, also to the server of the test before.
    s3fs.S3FileSystem.clear_instance_cache()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        _wait_for(port)
        import boto3

        boto3.client("s3").create_bucket(Bucket="features")
        yield "s3://features"
        server.kill()


def _wait_for(port: int) -> None:
    end_seconds = time.monotonic() + 60
    while time.monotonic() < end_seconds:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("moto's server did not start")


def test_a_store_on_s3_is_filled_read_verified_and_exported(bucket: str, tmp_path: Path) -> None:
    manifest = write_data(tmp_path, train=3, val=1)
    request = dataclasses.replace(REQUEST, num_segments=1)
    extract_features(manifest, f"{bucket}/a/s.zarr", request)
    assert extract_features(manifest, f"{bucket}/a/s.zarr", request).num_computed == 0
    more = dataclasses.replace(request, views=2)
    assert extract_features(manifest, f"{bucket}/a/s.zarr", more).num_computed == 3
    extract_features(manifest, str(tmp_path / "s.zarr"), more)
    remote, local = FeatureStore.open(f"{bucket}/a/s.zarr"), FeatureStore.open(tmp_path / "s.zarr")
    digests = arrays_of(tmp_path / "s.zarr")
    assert {key for key in remote.objects.sizes() if key.startswith("views/")} == set(digests)
    for key in digests:
        assert remote.objects.get(key) == local.objects.get(key)
    rows = [clip.row for clip in local.clips()][::-1]
    np.testing.assert_array_equal(remote.read_spatial_batch("test", rows), local.read_spatial_batch("test", rows))
    np.testing.assert_array_equal(remote.read_pooled("test", rows), local.read_pooled("test", rows))
    assert find_corruption(remote) == []
    assert export_hdf5(remote, tmp_path / "s.h5") == 4
    extract_features(manifest, f"{bucket}/a/s.zarr", dataclasses.replace(request, views=0, rebuild=True))
    assert FeatureStore.open(f"{bucket}/a/s.zarr").views == ("test",)

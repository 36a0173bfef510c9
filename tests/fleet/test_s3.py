"""A fleet whose output is a bucket on an S3 server that runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.fleets import learned_alone, make_words, run_fleet, write_plan

pytest.importorskip("s3fs", reason="`make setup` installs it")
pytest.importorskip("moto", reason="`make setup` installs it")
BUCKET = "words"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """Start a server with an empty bucket, and return the environment of its clients."""
    import boto3
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    access = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}
    client(f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
    yield {**access, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    started.stop()
    boto3.DEFAULT_SESSION = None


def client(url: str) -> Any:
    """Return a client of the server."""
    import boto3

    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "key", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **keys)


def test_words_are_learned_into_a_bucket(server, tmp_path):
    folder = make_words(tmp_path / "words", "alpha", "beta")
    plan = write_plan(tmp_path / "plan.toml", folder)
    url, scratch = f"s3://{BUCKET}/of/a/fleet", f"--scratch={tmp_path}/scratch"
    code, printed = run_fleet(plan, url, scratch, "--save_seconds=0", **server)
    assert code in (0, 3), printed
    assert printed.rstrip().endswith(f"{url}/index.html")
    s3 = client(server["AWS_ENDPOINT_URL"])

    def content(name: str) -> bytes:
        return s3.get_object(Bucket=BUCKET, Key=f"of/a/fleet/{name}")["Body"].read()

    for name in ("alpha", "beta"):
        assert content(f"{name}/{name}.safetensors") == learned_alone(tmp_path / "alone", folder, name)
        assert content(f"{name}/{name}-run/finished.safetensors")
    names = {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert not [name for name in names if name.endswith(("state.safetensors", ".part"))]
    assert b"alpha/alpha.safetensors" in content("index.html")
    assert not list((tmp_path / "scratch").glob("*/*"))

    code, printed = run_fleet(plan, url, scratch, **server)
    assert code in (0, 3), printed
    log = [json.loads(line) for line in content("fleet.jsonl").decode().splitlines()]
    assert [line.get("was_finished", False) for line in log if line["event"] == "word"] == [False, False, True, True]


def test_a_bucket_that_is_not_there_is_reported_before_anything_is_trained(server, tmp_path):
    plan = write_plan(tmp_path / "plan.toml", make_words(tmp_path / "words", "alpha"))
    code, printed = run_fleet(plan, "s3://missing/words", **server)
    assert code == 2, printed
    assert "--output_dir s3://missing/words cannot be used" in printed
    assert "Traceback" not in printed

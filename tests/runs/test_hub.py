"""Tests of uploads to a stand-in for the hub on this machine: what arrives, and what happens when it fails."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support import ROOT


class StandIn(BaseHTTPRequestHandler):
    """A stand-in for the part of the hub's API that uploads small files."""

    made: list
    files: dict
    broken = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self.answer({"url": "http://127.0.0.1/me/words"})
        elif "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(body)["files"]]
            self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path and not self.broken:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"commitUrl": "http://127.0.0.1/c", "commitOid": "0" * 40, "hookOutput": ""})
        else:
            self.answer({"error": "no"}, 403)

    def do_GET(self):
        self.answer({})

    def answer(self, value, code: int = 200):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    """Yield the address of the stand-in and its handler class, which holds what arrived."""
    handler = type("Handler", (StandIn,), {"made": [], "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def run(address: str, images, out, *flags: str):
    """Run a short training with uploads to `address`, and return the completed process."""
    command = [sys.executable, "train_textual_inversion.py", f"--train_data_dir={images}", "--token_string=mychar4"]
    command += ["--max_train_steps=4", "--eval_samples=8", "--cpu", f"--output_dir={out}", *flags]
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_every_saved_file_is_uploaded(hub, tmp_path, images):
    address, got = hub
    flags = ["--huggingface_repo_id=me/words", "--huggingface_path_in_repo=words/one", "--save_every_n_steps=2"]
    flags += ["--save_state", "--save_state_to_huggingface", "--async_upload", "--huggingface_repo_visibility=public"]
    done = run(address, images, tmp_path / "out", *flags)
    assert done.returncode in (0, 3), done.stderr
    names = {
        "mychar4-step00000002.safetensors", "mychar4-step00000002-state/state.safetensors",
        "mychar4-step00000004.safetensors", "mychar4-step00000004-state/state.safetensors",
        "mychar4.safetensors", "mychar4-state/state.safetensors",
    }  # fmt: skip
    assert set(got.files) == {f"words/one/{name}" for name in names}
    for name in names:
        assert got.files[f"words/one/{name}"] == (tmp_path / "out" / name).read_bytes()
    assert got.made[0]["name"] == "words"
    assert not got.made[0].get("private")
    got.files.clear()
    again = run(address, images, tmp_path / "out", *flags)
    assert again.returncode == 0, again.stderr
    assert (len(got.made), got.files) == (1, {})  # a finished run uploads nothing again


def test_a_failed_upload_is_reported_and_the_file_stays(hub, tmp_path, images):
    address, got = hub
    got.broken = True
    done = run(address, images, tmp_path / "out", "--huggingface_repo_id=me/words")
    assert done.returncode in (0, 3), done.stderr
    assert "mychar4.safetensors was not uploaded" in done.stderr
    assert (tmp_path / "out" / "mychar4.safetensors").exists()


def test_an_unreachable_hub_ends_the_run_before_training(tmp_path, images):
    done = run("http://127.0.0.1:9", images, tmp_path / "out", "--huggingface_repo_id=me/words")
    assert done.returncode == 2
    assert "the repository cannot be used" in done.stderr
    assert "Traceback" not in done.stderr

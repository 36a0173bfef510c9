"""Verify that the page reads and deletes nothing outside of its folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neonym import UserError
from neonym.web.home import Home


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def test_only_its_own_and_named_folders_are_allowed(home, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").touch()
    (home.root / "datasets" / "way-out").symlink_to(other)
    assert home.allows(home.root / "outputs" / "word.safetensors")
    for path in ("outputs/../../other/a.png", "datasets/way-out/a.png"):
        assert not home.allows(home.root / path)
    assert not home.allows(other / "a.png")
    assert not home.allows(tmp_path)
    assert not home.allows(home.root / "outputs" / "nul\0.png")
    home.add_folder("datasets", str(other))
    assert home.allows(other / "a.png")
    assert Home(home.root).allows(other / "a.png")  # it is remembered


def test_a_folder_that_is_none_is_refused(home, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(UserError, match="is not a folder"):
            home.add_folder("datasets", str(path))
    for path in (Path.home(), Path.home().parent, "/"):
        with pytest.raises(UserError, match="holds all of your files"):
            home.add_folder("outputs", str(path))


def test_a_home_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be the home folder"):
        Home(tmp_path / "file" / "home")


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such permissions")
def test_the_token_is_never_in_a_file_that_others_can_read(home, monkeypatch):
    modes: list[int] = []
    write = Path.write_text

    def watched(self, *arguments, **options):
        modes.append(self.stat().st_mode & 0o777)
        return write(self, *arguments, **options)

    monkeypatch.setattr(Path, "chmod", lambda self, mode: None)  # which comes too late
    monkeypatch.setattr(Path, "write_text", watched)
    home.token()
    assert modes == [0o600]


def test_a_home_has_one_server(home):
    with home.claimed():
        assert home.root.is_dir()
        script = f"from neonym.web.home import Home; from pathlib import Path\nwith Home(Path({str(home.root)!r})).claimed(): pass"
        import subprocess
        import sys

        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "is the home folder of another page that is open" in second.stderr


def test_damaged_files_of_its_own_are_as_if_they_were_missing(home):
    for text in ("{not JSON", "[]", '{"outputs": 5}', '{"outputs": [5, null]}'):
        (home.root / "places.json").write_text(text)
        assert home.named("outputs") == [home.folder("outputs")]

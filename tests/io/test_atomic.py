"""Verify who can read a file while it is written."""

from __future__ import annotations

import os

import pytest

from neonym.io.atomic import atomic_write


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such permissions")
@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o666)])
def test_a_private_file_is_its_owners_alone_from_the_beginning(tmp_path, private, mode):
    before = os.umask(0)
    try:
        with atomic_write(tmp_path / "token", private=private) as part:
            assert part.stat().st_mode & 0o777 == mode
            part.write_text("secret")
        assert (tmp_path / "token").stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)

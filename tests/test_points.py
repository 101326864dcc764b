"""Result files that grow point by point: go on where they are of the same run, and are refused where they are not."""

from __future__ import annotations

import json

import pytest

from benchmarks.points import sha256, stored_points


def test_points_go_on_only_for_the_same_networks(tmp_path):
    (tmp_path / "ann.pt").write_bytes(b"weights")
    identity = {"ann": sha256(tmp_path / "ann.pt"), "epochs": 6}
    found = stored_points(tmp_path / "r.json", identity, "rows")
    assert found == {**identity, "rows": []}
    (tmp_path / "r.json").write_text(json.dumps({**identity, "rows": [1]}))
    assert stored_points(tmp_path / "r.json", identity, "rows")["rows"] == [1]
    (tmp_path / "ann.pt").write_bytes(b"others")
    with pytest.raises(SystemExit, match=r"r\.json was measured with other ann, epochs; give another place with --out"):
        stored_points(tmp_path / "r.json", {"ann": sha256(tmp_path / "ann.pt"), "epochs": 2}, "rows")

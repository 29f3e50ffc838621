"""Both tiers: with oneDNN, where it is there, and without."""

from __future__ import annotations

import pytest

from caffe2flax.cpu import onednn
from tests.cpu.common import ONEDNN, without_onednn


@pytest.fixture(params=["onednn", "public"])
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "public":
        monkeypatch.setattr(onednn, "available", without_onednn)
    elif not ONEDNN:
        pytest.skip("oneDNN is not to be had here")
    return name

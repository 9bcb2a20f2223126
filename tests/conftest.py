"""Fixtures: the embedded model once a run, and a home folder of its own for every test."""

from __future__ import annotations

import io

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nothing a test does reaches the user's own folders."""
    folder = tmp_path / "home"
    monkeypatch.setenv("RWKVEDIT_HOME", str(folder))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder


@pytest.fixture(scope="session")
def embedded():
    from rwkvedit.models.catalog import load_model

    return load_model("embedded", "cpu")


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M as pulled into the user's own folder; tests that need it skip without it."""
    from rwkvedit.models import fetch
    from rwkvedit.transformer import open_session

    if fetch.installed("smollm2") is None:
        pytest.skip("SmolLM2 is not here: rwkvedit models pull smollm2")
    return open_session("smollm2", "cpu")


@pytest.fixture
def session(embedded):
    from rwkvedit.session import Session

    return Session(embedded, max_tokens=24)


@pytest.fixture
def shell(session):
    from rwkvedit.repl.shell import Shell

    return Shell(session)


@pytest.fixture
def screen():
    """A Renderer on two string buffers."""
    from rwkvedit.repl.render import Renderer

    return Renderer(io.StringIO(), io.StringIO())

"""MLflow's pages: on this machine only, on whatever was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.track.ui import serve, ui_command


def test_a_local_database_is_served_on_loopback(work: Path) -> None:
    command = ui_command("sqlite:///mlflow.db", port=5055)
    assert command[1:4] == ["-m", "mlflow", "ui"]
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{work}/mlflow.db"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])  # noqa: S104 - refused
def test_nothing_else_is_served_to_others(host: str) -> None:
    with pytest.raises(ValueError, match="this machine only"):
        ui_command("sqlite:///mlflow.db", host=host)


def test_a_server_serves_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui_command("https://tracking.example.org") == []
    assert serve("https://tracking.example.org") == 0
    assert capsys.readouterr().out == "https://tracking.example.org\n"

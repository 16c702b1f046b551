"""Open MLflow's own pages on what was recorded.

In: a tracking address. Out: the command that serves it on this machine alone, or the address
itself when a server already does. Starts no process but that one and imports no MLflow.
"""

from __future__ import annotations

import os
import subprocess
import sys

from llmforge.track.address import absolute_uri, is_server

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ui_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """Command that serves the pages; empty when `uri` is a server, which serves them itself.

    Raises:
        ValueError: `host` is not this machine. MLflow has no password; whoever reaches its port
            can read and delete every run.
    """
    if is_server(uri):
        return []
    if host not in LOOPBACK:
        raise ValueError(f"MLflow's pages are served on this machine only, not on {host}")
    store = ["--backend-store-uri", absolute_uri(uri)]
    place = ["--host", host, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "ui", *store, *place]


def serve(uri: str, host: str = "127.0.0.1", port: int = 5000) -> int:
    """Serve until interrupted, or print the server's address; returns an exit code."""
    command = ui_command(uri, host, port)
    if not command:
        print(uri)
        return 0
    print(f"http://{host}:{port}  (Ctrl-C ends it)", flush=True)
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            return 0

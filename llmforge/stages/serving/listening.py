"""The address of a server: taken before a model is loaded, so that a taken one is told at once.

In: host and port. Out: a bound socket that does not listen yet: until the model is there, clients
are turned away and need not wait. Refusals are diagnostics (LF931), a host that others can reach
is a warning (LF932).
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity


def bind(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: name or number; IPv6 without brackets.
        port: 0 takes a free one.

    Raises:
        ConfigRefused: LF931, somebody else listens there, or it is no address of this machine.
    """
    if not 0 <= port < 1 << 16:
        raise _refused(f"there is no port {port}: they go from 0 to 65,535", "--port 0")
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise _refused(f"`{host}` is no address: {error.strerror}", "--host 127.0.0.1") from error
    taken = socket.socket(family, kind, number)
    # a server that ended a moment ago leaves connections that would hold the port for a minute
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
    except OSError as error:
        taken.close()
        if error.errno == errno.EADDRINUSE:
            raise _refused(f"port {port} of {host} is taken", "--port 0") from error
        if error.errno == errno.EACCES:
            raise _refused(f"port {port} is kept for the system", "--port 8000") from error
        raise _refused(f"{host} cannot be listened at: {error.strerror}",
                       "--host 127.0.0.1") from error  # fmt: skip
    return taken


def url_of(taken: socket.socket, host: str) -> str:
    """Where clients find the endpoint."""
    port = taken.getsockname()[1]
    shown = host or "127.0.0.1"
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/v1"


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def warning(host: str) -> Diagnostic | None:
    """What to say of a host that others can reach; None for the loopback."""
    if is_loopback(host):
        return None
    return Diagnostic(
        "LF932",
        f"whoever reaches {host} may ask this model: the server asks for no key",
        severity=Severity.WARNING,
        hint="--host 127.0.0.1",
    )


def _refused(message: str, hint: str) -> ConfigRefused:
    return ConfigRefused([Diagnostic("LF931", message, hint=hint)])

"""LF702, LF703: where runs are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit, urlunsplit

from llmforge.compiler.context import Context
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.run import MlflowTracking

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def _address(uri: str) -> SplitResult:
    """The parts of a URI; nothing but a path where it is none."""
    try:
        return urlsplit(uri)
    except ValueError:
        return SplitResult("", "", uri, "", "")


@rule("LF702", "tracking URI that MLflow cannot use")
def tracking_uri_unusable(context: Context) -> Iterator[Diagnostic]:
    """Current MLflow keeps runs in a database or on a server; its file store is closed.

    A folder such as `./mlruns` was the default of older versions. `sqlite:///mlflow.db` is as
    local.
    """
    tracking = context.spec.tracking
    if not isinstance(tracking, MlflowTracking):
        return
    address = _address(tracking.uri)
    if address.password:
        return  # LF703 says so without repeating it
    if address.scheme.partition("+")[0] not in (*_DATABASES, "http", "https"):
        yield Diagnostic(
            "LF702",
            f"`{tracking.uri}` is not a database or server URI",
            key="tracking.uri",
            hint="tracking.uri=sqlite:///mlflow.db",
        )


@rule("LF703", "password in the tracking URI")
def password_in_uri(context: Context) -> Iterator[Diagnostic]:
    """A URI with a password would be written into the plan, the run folder and the log.

    For a server, name the environment variable of a token: `tracking.token=env:NAME`. A database
    driver finds the password in a place of its own, such as `PGPASSWORD` or `~/.pgpass`.
    """
    tracking = context.spec.tracking
    if not isinstance(tracking, MlflowTracking):
        return
    address = _address(tracking.uri)
    if not address.password:
        return
    server = address.scheme in ("http", "https")
    place = address.netloc.rpartition("@")[2]
    user = "" if server else f"{address.username}@"
    uri = urlunsplit(address._replace(netloc=f"{user}{place}"))
    token = " tracking.token=env:MLFLOW_TRACKING_TOKEN" if server else ""
    # no key, hence no origins: the excerpt would repeat the password
    yield Diagnostic(
        "LF703",
        "the tracking URI holds a password",
        notes=() if server else ("database drivers read it from their own place (`~/.pgpass`)",),
        hint=f"{override('tracking.uri', uri)}{token}",
    )

"""How to reach a Prometheus, and how to speak of it without giving a secret away.

Decides which credentials a request carries, read from their files at every call so that a rotated token is picked up,
and what may be said about an address or an answer in logs and errors. Never opens a socket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from forecaster.errors import SourceRefused

BODY_HEAD_CHARS = 160
REDACTED_BYTES = 64 * 1024
"""How much is searched for secrets before the head is cut off: a secret cut in half would not be recognised."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Connection:
    """Address and credentials of a Prometheus, Thanos or Mimir. Secrets are paths to files, never values."""

    url: str
    deadline_s: float = 8.0
    """Total time for one call, from name resolution to the last byte of the body."""
    bearer_token_file: str | None = None
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    tenant: str | None = None
    """Sent as X-Scope-OrgID."""
    http_method: Literal["POST", "GET"] = "POST"
    """GET where a proxy lets nothing else pass (OpenShift's monitoring asks for other rights on POST); batches over
    many workloads then need a proxy that takes long URLs."""
    max_answer_bytes: int = 32 * 2**20
    """Longest answer read, after decompression; the stream is cut at this size."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"prometheus.url must be http(s)://host[:port], got {redact_url(self.url)!r}")
        if self.deadline_s <= 0:
            raise ValueError(f"prometheus.deadline_s must be above 0, got {self.deadline_s}")
        if self.max_answer_bytes <= 0:
            raise ValueError(f"prometheus.max_answer_bytes must be above 0, got {self.max_answer_bytes}")
        if self.bearer_token_file and self.username:
            raise ValueError("prometheus: give bearer_token_file or username, not both")
        if self.key_file and not self.cert_file:
            raise ValueError("prometheus.key_file needs prometheus.cert_file")
        if self.tenant is not None and not self.tenant.isprintable():
            raise ValueError("prometheus.tenant holds characters that a header cannot carry")

    def __repr__(self) -> str:
        return f"Connection(url={redact_url(self.url)!r})"

    @property
    def base_url(self) -> str:
        """The address without credentials, query or trailing slash."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Credentials:
    """What one request carries; short-lived, and silent when printed."""

    headers: tuple[tuple[str, str], ...] = ()
    auth: tuple[str, str] | None = None
    secrets: tuple[str, ...] = ()
    """Every secret value, to be cut out of whatever is logged."""

    def __repr__(self) -> str:
        return "Credentials(…)"


def load_credentials(connection: Connection) -> Credentials:
    """Read the credential files. `SourceRefused` names a file that cannot be read."""
    headers: list[tuple[str, str]] = []
    if connection.tenant:
        headers.append(("X-Scope-OrgID", connection.tenant))
    if connection.bearer_token_file:
        token = _secret(connection.bearer_token_file, "bearer_token_file")
        return Credentials(headers=(*headers, ("Authorization", f"Bearer {token}")), secrets=(token,))
    password = _secret(connection.password_file, "password_file") if connection.password_file else ""
    parts = urlsplit(connection.url)
    username = connection.username or unquote(parts.username or "")
    if not username:
        return Credentials(headers=tuple(headers))
    password = password or unquote(parts.password or "")
    return Credentials(headers=tuple(headers), auth=(username, password), secrets=(password,) if password else ())


def _secret(path: str, setting: str) -> str:
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceRefused(f"prometheus.{setting} {path} cannot be read: {type(error).__name__}") from None
    if not secret or not secret.isprintable():
        raise SourceRefused(f"prometheus.{setting} {path} is empty or holds characters that a header cannot carry")
    return secret


def redact_url(url: str) -> str:
    """The address with user, password and query left out."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<not a URL>"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host if host == parts.netloc else f"***@{host}", parts.path, "", ""))


_SECRETS = re.compile(
    r"(?i)("
    r"(?:token|password|passwd|secret|api[_-]?key|authorization)[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+)?"
    r"|bearer\s+|basic\s+"
    r")[^\s\"'&,<>]+"
)
_USERINFO = re.compile(r"(?i)(https?://)[^\s/@]+@")
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?(?:</\1\s*>|$)|<[^>]*(?:>|$)")
"""A login page keeps its tokens in attributes and scripts; what says which page it is stands between the tags."""


def without_secrets(text: str, secrets: tuple[str, ...] = ()) -> str:
    """What a server said, without `secrets`, without what looks like one, and of a web page only the text."""
    for secret in secrets:
        text = text.replace(secret, "***")
    if text.lstrip().startswith("<"):
        text = _MARKUP.sub(" ", text)
    return _USERINFO.sub(r"\1***@", _SECRETS.sub(r"\1***", text))


def body_head(body: bytes, secrets: tuple[str, ...] = ()) -> str:
    """The first characters of a body, printable and without anything that looks like a secret."""
    text = without_secrets(body[:REDACTED_BYTES].decode("utf-8", errors="replace"), secrets)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:BODY_HEAD_CHARS]

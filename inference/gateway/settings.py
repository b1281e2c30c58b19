"""What a gateway's settings file may say. Each rule's parameters and their bounds stand in the rule's own file.

Reading and checking only: nothing is started, no backend is asked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import yaml
from pydantic import TypeAdapter, ValidationError

from inference.errors import DocumentError
from inference.gateway.answers import CacheRule
from inference.gateway.backends import MODEL_NAME
from inference.gateway.bounds import check_bounds
from inference.gateway.classify import DEFAULT, ClassRule, Complexity, ComplexityRule
from inference.gateway.degradation import DegradationRule
from inference.gateway.health import HealthRule
from inference.gateway.problems import STRICT, chosen, told
from inference.gateway.queueing import QueueRule
from inference.gateway.routing import RoutingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where clients connect."""

    host: str = "127.0.0.1"
    """Address to bind; 0.0.0.0 in a container."""
    port: int = 8080

    def __post_init__(self) -> None:
        check_bounds(self, port=(1, 65_535))
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise ValueError(f"host = {self.host!r} is no IP address; write 127.0.0.1 or 0.0.0.0") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """A headless Service: every address that its name has is one replica of the model."""

    name: str
    """Such as "qwen3-vl-8b.llm.svc.cluster.local"."""
    model: str
    """What clients ask for."""
    port: int = 8000
    pool: str = "default"
    serves: str | None = None
    """The name that the replicas themselves give their model, where it is another: one of its variants."""

    def __post_init__(self) -> None:
        check_bounds(self, port=(1, 65_535))
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", self.name):
            raise ValueError(f"name = {self.name!r} is no host name")
        for name in (self.model, self.serves):
            if name is not None and not MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no model name; use letters, digits and . / : @ _ -")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesSource:
    """Where the shares of a model's variants are asked for: the daemon that switches between them."""

    url: str
    """Such as "http://headstart.headstart.svc:8090/api/v1/shares"; of several addresses the one that leads is heard."""
    token_file: Path | None = None
    """File that holds the daemon's token, where it wants one."""
    ask_every_s: float = 1.0
    timeout_s: float = 2.0
    """No answer by then, and the last shares stay."""

    def __post_init__(self) -> None:
        check_bounds(self, ask_every_s=(0.05, 600), timeout_s=(0.05, 60))
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname or address.username or address.password:
            raise ValueError("url is no address; write one such as http://headstart.headstart.svc:8090/api/v1/shares")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the replicas are found: a file, names, or both."""

    file: Path | None = None
    """A `kind: Backends` document that is read again when it changes; its writer must replace it whole."""
    dns: tuple[Dns, ...] = ()
    reread_every_s: float = 1.0
    """How often the file is looked at."""
    resolve_every_s: float = 5.0
    """How often names are resolved."""
    shares: SharesSource | None = None
    """Who says how the traffic is shared between a model's variants; without one their weights say it."""

    def __post_init__(self) -> None:
        if self.file is None and not self.dns:
            raise ValueError("backends names no source; give it a file or dns")
        check_bounds(self, reread_every_s=(0.05, 600), resolve_every_s=(0.5, 600))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRule:
    """One model that clients may name, with what stands in for it."""

    name: str
    fallback: str | None = None
    """A smaller variant that answers normal requests from degradation level 2 on, where it has a replica."""
    by_complexity: Mapping[Complexity, str] = field(default_factory=dict)
    """Which model answers simple, moderate and complex tasks; itself where nothing is said."""

    def __post_init__(self) -> None:
        for name in (self.name, self.fallback, *self.by_complexity.values()):
            if name is not None and not MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no model name; use letters, digits and . / : @ _ -")
        if self.fallback == self.name:
            raise ValueError("fallback is the model itself; name a smaller one or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What was promised. Each value becomes an edge of a histogram, so that attainment is counted and not guessed."""

    e2e_s: tuple[float, ...] = (1.2,)
    """From the request's last byte in to the answer's last byte out."""
    ttft_s: tuple[float, ...] = (0.5,)
    """To the first byte out of a streamed answer. The largest of each is what degradation calls late."""

    def __post_init__(self) -> None:
        for name in ("e2e_s", "ttft_s"):
            values = getattr(self, name)
            if not values or any(not 0.001 <= value <= 3600 for value in values):
                raise ValueError(f"{name} = {list(values)} is no list of seconds between 0.001 and 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may cost."""

    max_body_bytes: int = 33_554_432
    """Longer bodies are refused with 413, at the first byte too many."""
    body_timeout_s: float = 30.0
    """The whole body must have come by then."""
    write_timeout_s: float = 30.0
    """A client that takes nothing for so long is cut off, and its replica is free again."""
    max_answer_bytes: int = 67_108_864
    """Longest answer."""

    def __post_init__(self) -> None:
        check_bounds(self, max_body_bytes=(1024, 1_073_741_824), body_timeout_s=(0.1, 3600))
        check_bounds(self, write_timeout_s=(0.1, 3600), max_answer_bytes=(1024, 17_179_869_184))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """How replicas are talked to."""

    connect_timeout_s: float = 2.0
    silence_timeout_s: float = 120.0
    """A replica that sends nothing for so long has failed, before its first byte and between two of them."""
    retries: int = 1
    """Further replicas that are tried before the first byte, after one that was sent the request and failed. One that
    did not accept the connection costs no try."""
    api_key_file: Path | None = None
    """File that holds the key that replicas want. Clients' keys are never sent on."""

    def __post_init__(self) -> None:
        check_bounds(self, connect_timeout_s=(0.05, 60), silence_timeout_s=(0.1, 3600), retries=(0, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One gateway."""

    backends: Sources
    listen: Listen = field(default_factory=Listen)
    copies: int = 1
    """Copies of this gateway that share the traffic evenly: slots and tenants' limits are divided by it."""
    models: tuple[ModelRule, ...] = ()
    """Models known while none of their replicas is up: 503 with Retry-After instead of 404."""
    classes: tuple[ClassRule, ...] = ()
    complexity: ComplexityRule = field(default_factory=ComplexityRule)
    tenants_file: Path | None = None
    """A `kind: Tenants` document, read again when it changes; without one everybody may ask."""
    slo: Slo = field(default_factory=Slo)
    limits: Limits = field(default_factory=Limits)
    upstream: Upstream = field(default_factory=Upstream)
    health: HealthRule = field(default_factory=HealthRule)
    routing: RoutingRule = field(default_factory=RoutingRule)
    queue: QueueRule = field(default_factory=QueueRule)
    degradation: DegradationRule = field(default_factory=DegradationRule)
    cache: CacheRule = field(default_factory=CacheRule)
    access_log: bool = True
    """One JSON line a request on stdout; `reason` says why one was refused."""

    def __post_init__(self) -> None:
        check_bounds(self, copies=(1, 1000))
        for what, names in (("model", self.models), ("class", self.classes)):
            seen = [each.name for each in names]
            for name in seen:
                if seen.count(name) > 1:
                    raise ValueError(f"{what} {name} is there twice; rename or remove one")
        if any(each.name == DEFAULT.name for each in self.classes):
            raise ValueError(f"class {DEFAULT.name} is what no rule knows; name yours otherwise")


_SETTINGS: TypeAdapter[tuple[Settings]] = TypeAdapter(tuple[Settings], config=STRICT)
# A tuple of one: a dataclass by itself takes no config, and then an unknown key would go unnoticed.
_HEAD = ("apiVersion", "kind")


def parse_settings(text: str, *, source: str, folder: Path = Path()) -> Settings:
    """The settings of a `kind: Gateway` document; paths in it are relative to `folder`.

    Raises `DocumentError` with line and column of the first mistake.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DocumentError(source=source, problem=f"is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or document.get("kind") != "Gateway":
        raise DocumentError(source=source, problem="is no gateway's settings; start it with kind: Gateway")
    if document.get("apiVersion") != "headstart/v1":
        raise DocumentError(source=source, problem="has an apiVersion other than headstart/v1, the only one there is")
    settings = {key: value for key, value in document.items() if key not in _HEAD}
    try:
        (parsed,) = _SETTINGS.validate_python((_with_folder(settings, folder),))
    except ValidationError as error:
        mistake = chosen(error)
        place = _place(root, mistake["loc"][1:])
        problem = told(mistake, known=tuple(_names(Settings)), skip=1)
        raise DocumentError(source=f"{source}:{place}", problem=problem) from error
    return parsed


def read_settings(path: Path) -> Settings:
    """The settings in a file; errors as in `parse_settings`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(source=str(path), problem=f"cannot be read: {error}") from error
    return parse_settings(text, source=str(path), folder=path.parent)


def redis_url(rule: CacheRule) -> str | None:
    """The Redis URL, read on use so that its password can be rotated; raises `DocumentError` without quoting it."""
    if rule.redis_url_file is None:
        return None
    url = secret(rule.redis_url_file)
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        raise DocumentError(source=str(rule.redis_url_file), problem="holds no redis://, rediss:// or unix:// address")
    return url


def secret(path: Path) -> str:
    """The one line of a secret's file; raises `DocumentError` where it cannot be read or is empty."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(source=str(path), problem=f"cannot be read: {type(error).__name__}") from error
    if not text:
        raise DocumentError(source=str(path), problem="is empty")
    return text


_PATHS = (
    ("backends", "file"),
    ("backends", "shares", "token_file"),
    ("tenants_file",),
    ("cache", "redis_url_file"),
    ("upstream", "api_key_file"),
)


def _with_folder(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with its paths made relative to the settings' own folder."""
    for path in _PATHS:
        *sections, name = path
        section: Any = settings
        for key in sections:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(name), str):
            section[name] = str(folder / section[name])
    return settings


def _place(root: yaml.Node | None, path: Sequence[str | int]) -> str:
    """Line and column of the deepest part of `path` that is in the document; both count from 1."""
    node = root
    for part in path:
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = node.value[part]
        if inner is None:
            break
        node = inner
    mark = node.start_mark if node is not None else None
    return f"{mark.line + 1}:{mark.column + 1}" if mark is not None else "1:1"


def _names(kind: Any) -> Iterator[str]:
    """Every key that the settings know, those of nested sections too."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield each.name
        for inner in (hints[each.name], *get_args(hints[each.name])):
            if is_dataclass(inner):
                yield from _names(inner)

"""The nginx before several copies of the gateway: its configuration, rendered.

`least_conn` spreads requests; each copy divides slots and limits by the number of copies. A pure function: it never
starts nginx and reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from inference.errors import InvalidValue
from inference.gateway.settings import Settings

_ADDRESS = re.compile(r"([a-z0-9]([a-z0-9.-]{0,252})|\[[0-9a-f:]+\]):[0-9]{1,5}")

_TEMPLATE = """\
# Rendered by `python -m inference nginx`; several copies of the gateway behind one address.
upstream headstart_gateway {{
    least_conn;
{servers}
    keepalive 64;
}}

server {{
    listen {listen};
    # The gateway answers 413 itself, at the same size and in the API's own form; this is the second line.
    client_max_body_size {max_body};
    client_body_timeout {body_timeout_s:g}s;
    send_timeout {write_timeout_s:g}s;

    location = /healthz {{
        proxy_pass http://headstart_gateway;
    }}

    # Only the API: /metrics and /backends are for the inside.
    location /v1/ {{
        proxy_pass http://headstart_gateway;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        # A token must leave when it comes, and a large picture need not lie on the disk first.
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_connect_timeout 2s;
        proxy_read_timeout {read_timeout_s:g}s;
        # A copy that is gone is passed over. One that has a request keeps it: the gateway retries where that is safe.
        proxy_next_upstream error timeout;
        proxy_next_upstream_tries 3;
    }}

    location / {{
        return 404;
    }}
}}
"""


def render_nginx(settings: Settings, *, copies: Sequence[str], listen: str = "80") -> str:
    """A file for nginx's conf.d. `copies` are host:port of each copy, `listen` what nginx's directive takes.

    Three failures within 30 s take a copy out for as long. Raises `InvalidValue` for an address that is none.
    """
    if not copies:
        raise _refuse("copies", tuple(copies), "is empty", "name at least one host:port")
    for copy in copies:
        if not _ADDRESS.fullmatch(copy):
            raise _refuse("copies", copy, "is no host:port", "write one such as 10.0.0.7:8080")
    if not re.fullmatch(r"(([0-9.]+|\[[0-9a-f:]+\]):)?[0-9]{1,5}", listen):
        raise _refuse("listen", listen, "is no port or address:port", "use 80")
    servers = "\n".join(f"    server {copy} max_fails=3 fail_timeout=30s;" for copy in copies)
    limits = settings.limits
    return _TEMPLATE.format(
        servers=servers,
        listen=listen,
        max_body=limits.max_body_bytes,
        body_timeout_s=limits.body_timeout_s,
        write_timeout_s=limits.write_timeout_s,
        # Waiting here, and then for a replica that is silent: the gateway's own answers must come first.
        read_timeout_s=settings.queue.deadline_s + settings.upstream.silence_timeout_s + 10,
    )


def _refuse(field: str, value: object, problem: str, fix: str) -> InvalidValue:
    return InvalidValue(subject="nginx", field=field, value=value, problem=problem, fix=fix)

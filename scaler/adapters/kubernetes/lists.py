"""Whole lists from the Kubernetes API, a page at a time.

It never lists without a page limit, and begins once more where a continuation was compacted away meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

from scaler.adapters.kubernetes.errors import Expired, Unavailable
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json
from scaler.adapters.kubernetes.targets import Budget

PAGE_LIMIT = 500
"""Items a page: 2-5 MB of pods."""


def items_of(api: ApiConnection, call: Call, budget: Budget) -> list[Json]:
    """Every item of a list; any failure is a `KubernetesError`."""
    try:
        return _pages(api, call, budget)
    except Expired:
        return _pages(api, call, budget)


def _pages(api: ApiConnection, call: Call, budget: Budget) -> list[Json]:
    items: list[Json] = []
    token = ""
    while True:
        paging = (("limit", str(PAGE_LIMIT)), *((("continue", token),) if token else ()))
        page = api.call(replace(call, query=(*call.query, *paging)), timeout_s=budget.left_s())
        found, token = _items_and_token(call, page)
        items.extend(found)
        if not token:
            return items


def _items_and_token(call: Call, page: Json) -> tuple[list[Json], str]:
    """A page of a list and where the next one begins, "" for nowhere; `Unavailable` for what is no list of objects.

    A page without `items` is no empty list: an empty one would read as "that workload does not exist".
    """
    items, metadata = page.get("items") or [], page.get("metadata") or {}
    objects = "items" in page and isinstance(items, list) and all(isinstance(each, dict) for each in items)
    if not objects or not isinstance(metadata, dict):
        raise Unavailable(f"{call.path} answered something that is no list of objects", status=200, path=call.path)
    return items, str(metadata.get("continue") or "")

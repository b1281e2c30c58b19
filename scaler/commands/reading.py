"""Where commands get their documents: the daemon's API, or its data file beside the running daemon.

Both answer the same documents. It decides which address is asked and how long; what a person orders passes through to
the API as it is, and no file is written here.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from scaler.errors import CommandError, DataError

if TYPE_CHECKING:
    from scaler.adapters.journal import SqliteJournal
    from scaler.adapters.journal_blocks import JournalEntry
    from scaler.adapters.states import Status
    from scaler.ports import DecisionRecord

Document = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8090"
TIMEOUT_S = 10.0
MAX_BODY_BYTES = 64 * 2**20
"""2,000 workloads are 2 MB."""


class Source(Protocol):
    """What reading commands ask."""

    def workloads(self) -> Document:
        """Every workload's row, `kind: WorkloadList`."""
        ...

    def decision(self, workload: str, at: datetime | None) -> Document:
        """The last decision, or the one in force at a moment, `kind: Decision`."""
        ...

    def forecast(self, workload: str) -> Document:
        """The forecast in force, `kind: Forecast`."""
        ...


def source_of(url: str | None, data_dir: Path | None, token_file: Path | None) -> Source:
    """The data folder if one is named, else the daemon at `url`. Raises `CommandError` if both are."""
    if data_dir is not None:
        if url is not None:
            raise CommandError("--url and --data-dir exclude each other; keep one")
        return DataFolder(data_dir)
    return Daemon(url or DEFAULT_URL, token_file)


# ── The daemon's API ──────────────────────────────────────────────────────────────────────────────────────────


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer, not an invitation: the token goes to the address that was named and no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Daemon:
    """A running daemon, asked over HTTP."""

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"--url must be an http or https address such as {DEFAULT_URL}")
        if parts.username is not None or parts.password is not None:
            raise CommandError("--url must not contain a user or password; use --token-file")
        self._url = url.rstrip("/")
        self._token_file = token_file

    def workloads(self) -> Document:
        """See `Source.workloads`."""
        return self._get("/api/v1/workloads")

    def decision(self, workload: str, at: datetime | None) -> Document:
        """See `Source.decision`."""
        when = "" if at is None else f"?at={quote(at.isoformat())}"
        return self._get(f"{path_of(workload)}/explain{when}")

    def forecast(self, workload: str) -> Document:
        """See `Source.forecast`."""
        return self._get(f"{path_of(workload)}/forecast")

    def order(self, method: str, path: str, body: Document) -> Document:
        """Have the daemon follow a person's order; answers what is in force then. Raises `DataError`."""
        return self._ask(path, method=method, body=body)

    def _get(self, path: str) -> Document:
        return self._ask(path)

    def _ask(self, path: str, *, method: str = "GET", body: Document | None = None) -> Document:
        headers = {"Accept": "application/json", **self._token()}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                text = answer.read(MAX_BODY_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise DataError(self._refused(error.code, error.read(10_000))) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise DataError(
                f"no daemon answers at {self._url} ({reason}); is `headstart run` there? "
                "Name its address with --url, or its data folder with --data-dir"
            ) from None
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DataError(f"{self._url}{path} did not answer JSON; is this address a headstart daemon?")
        return document

    def _refused(self, status: int, body: bytes) -> str:
        try:
            said = json.loads(body)
        except ValueError:
            said = None
        reason, detail = (said.get("error"), said.get("detail")) if isinstance(said, dict) else (None, None)
        words = f"{detail} ({reason})" if detail else reason
        text = f"{self._url} answered {status}" + (f": {words}" if words else "")
        return f"{text}; name the token's file with --token-file" if status == 401 else text

    def _token(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token_file.read_text(encoding='utf-8').strip()}"}
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"the token cannot be read from {self._token_file}: {type(error).__name__}") from None


def path_of(workload: str) -> str:
    """The workload's path in the API. Raises `CommandError` for what is no namespace/name."""
    namespace, name = split_name(workload)
    return f"/api/v1/workloads/{quote(namespace, safe='')}/{quote(name, safe='')}"


def split_name(workload: str) -> tuple[str, str]:
    """Namespace and name of "namespace/name". Raises `CommandError`."""
    namespace, slash, name = workload.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise CommandError(f"a workload is named namespace/name, such as llm/chat; got {workload!r}")
    return namespace, name


# ── The data folder ───────────────────────────────────────────────────────────────────────────────────────────


class DataFolder:
    """The daemon's data file, read beside the running daemon or without one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def workloads(self) -> Document:
        """See `Source.workloads`; as of the newest tick on record."""
        from scaler.adapters.board import View
        from scaler.adapters.documents import workloads_document
        from scaler.adapters.states import statuses
        from scaler.loop import TickReport
        from scaler.policy.decide import decide_within

        latest = self._latest()
        records = tuple(record_of(entry) for entry in latest.values())
        outcomes = {name: entry.outcome for name, entry in latest.items() if entry.outcome is not None}
        states = {
            name: decide_within(e.snapshot, e.state, e.policy, e.grant, now=e.at)[1] for name, e in latest.items()
        }
        at = max(record.at for record in records)
        report = TickReport(at=at, records=records, signals={}, outcomes=outcomes, states=states)
        found: dict[str, Status] = statuses(report, {})
        return workloads_document(View(report=report, statuses=found))

    def decision(self, workload: str, at: datetime | None) -> Document:
        """See `Source.decision`."""
        from scaler.adapters.documents import decision_document

        entry = self._entry(workload, at)
        return decision_document(record_of(entry), entry.outcome)

    def forecast(self, workload: str) -> Document:
        """See `Source.forecast`."""
        from scaler.adapters.accounts import stored_accounts
        from scaler.adapters.documents import forecast_document
        from scaler.adapters.usage import stored_usage

        entry, now = self._entry(workload, None), _now()
        file = self._journal().path
        accounts, usage = stored_accounts(file, workload, now=now), stored_usage(file)
        return forecast_document(
            workload, entry.snapshot.forecasts, now=now, record=record_of(entry), accounts=accounts, usage=usage
        )

    def _entry(self, workload: str, at: datetime | None) -> JournalEntry:
        split_name(workload)
        if at is None:
            latest = self._latest()
            if workload not in latest:
                raise DataError(_unknown(workload, tuple(latest)))
            return latest[workload]
        entry = self._journal().at(workload, at)
        if entry is None:
            raise DataError(
                f"the journal in {self._folder} holds no decision on {workload} in the hour before {at:%FT%TZ}"
            )
        return entry

    def _latest(self) -> dict[str, JournalEntry]:
        latest = self._journal().latest(now=_now())
        if not latest:
            raise DataError(f"the journal in {self._folder} is empty: no tick has finished yet")
        return {entry.workload: entry for entry in latest}

    def _journal(self) -> SqliteJournal:
        return open_journal(self._folder)


def open_journal(place: Path) -> SqliteJournal:
    """The journal in a data folder, or in the data file itself, for reading. Raises `DataError`."""
    from scaler.adapters.journal import SqliteJournal
    from scaler.adapters.store import FILE_NAME

    file = place / FILE_NAME if place.is_dir() else place
    if not file.is_file():
        raise DataError(f"there is no data file {file}; name the daemon's data folder (data_dir in its settings)")
    return SqliteJournal.open(file, now=_now(), read_only=True)


def record_of(entry: JournalEntry) -> DecisionRecord:
    """A journal entry as the record that it was written from; a decision kept as a digest is made again."""
    from scaler.policy.decide import decide_within
    from scaler.ports import DecisionRecord

    decision = entry.decision
    if decision is None:
        decision, _ = decide_within(entry.snapshot, entry.state, entry.policy, entry.grant, now=entry.at)
    return DecisionRecord(
        at=entry.at,
        policy=entry.policy,
        snapshot=entry.snapshot,
        state=entry.state,
        grant=entry.grant,
        decision=decision,
    )


def record_from(document: Document) -> DecisionRecord:
    """A `kind: Decision` document as the record that it was made from. Raises `DataError`."""
    from pydantic import TypeAdapter, ValidationError

    from scaler.ports import DecisionRecord

    try:
        return TypeAdapter(DecisionRecord).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"this is not a decision of this version ({where}: {first['msg']}); -o json prints it as it is"
        ) from None


def _unknown(workload: str, known: tuple[str, ...]) -> str:
    import difflib

    close = difflib.get_close_matches(workload, known, n=1)
    meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(known[:20])}"
    return f"no workload {workload!r}; {meant}"


def _now() -> datetime:
    from datetime import UTC

    return datetime.now(UTC)

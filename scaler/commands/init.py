"""`init`: looks at a cluster and at Prometheus and writes a first settings file, which observes and scales nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaler.commands.printing import put, say
from scaler.config import KubernetesConfig, PrometheusConfig, data_folder, parse_config, read_profile, shipped_profiles
from scaler.errors import CommandError

if TYPE_CHECKING:
    from scaler.onboarding.candidates import Candidate, LeftOut
    from scaler.onboarding.metrics import Engine, Tie


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where to look; `prometheus` and a kubeconfig may each be left out."""

    prometheus: str | None
    kubeconfig: Path | None
    context: str | None
    namespaces: tuple[str, ...]


def init(where: Where, out: Path | None, *, force: bool) -> None:
    """Write the file to `out`, or to stdout. `CommandError` where nothing could be asked or nothing was found."""
    from scaler.onboarding.proposal import order_of, propose
    from scaler.onboarding.settings_text import Surroundings, settings_text

    if out is not None and out.exists() and not force:
        raise CommandError(f"{out} is there already; --force writes over it, -o names another file")
    _check_url(where.prometheus)
    look = _Look(where)
    candidates, left_out = look.candidates()
    if not candidates:
        raise CommandError(look.nothing_found())
    ties = look.ties(candidates)
    shipped = {name: read_profile(data_folder() / "profiles" / f"{name}.yaml").gpus for name in shipped_profiles()}
    proposals = order_of([propose(each, ties[each.workload], shipped) for each in candidates])
    surroundings = Surroundings(prometheus=where.prometheus, kubeconfig=where.kubeconfig, context=where.context)
    text = settings_text(proposals, left_out, surroundings)
    parse_config(text, out or Path("headstart.yaml"))  # what cannot be used is not written
    for trouble in look.troubles:
        say(f"not understood: {trouble}")
    for each in left_out:
        say(f"not taken: {each.workload}: {each.reason}")
    for proposal in proposals:
        if proposal.problem:
            say(f"{proposal.candidate.workload}: {proposal.problem}")
        if proposal.profile.is_placeholder:
            say(f"{proposal.candidate.workload}: no shipped profile fits; max_rps is {proposal.profile.reason}")
    if out is None:
        put(text)
        return
    _write(out, text, force=force)
    say(f"{out}: {len(proposals)} workload{'s' if len(proposals) > 1 else ''}, all in observe mode; next:")
    say(f"  headstart schema > {out.parent / 'headstart.schema.json'}   # for your editor")
    say(f"  headstart doctor --config {out}")
    say(f"  headstart tick --dry-run --config {out}")


def _check_url(url: str | None) -> None:
    """Refuse what a settings file would refuse, before anybody is asked."""
    try:
        if url is not None:
            PrometheusConfig(url=url)
    except ValueError as error:
        raise CommandError(f"--prometheus: {error}") from None


def _write(out: Path, text: str, *, force: bool) -> None:
    try:
        with out.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise CommandError(f"{out} is there already; --force writes over it, -o names another file") from None
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error


class _Look:
    """One look at both servers; what one of them refuses is told, and the other one is asked all the same."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._engines: tuple[Engine, ...] = ()
        self._cluster_answered = self._scraped = False
        self.troubles: list[str] = []

    def candidates(self) -> tuple[list[Candidate], list[LeftOut]]:
        """Everything that serves, from the cluster where it answers, else from the series in Prometheus."""
        from scaler.onboarding.metrics import candidates_from

        found, left_out = self._in_cluster()
        self._scrape()
        wanted = self._where.namespaces
        scraped = [each for each in candidates_from(self._engines) if not wanted or each.namespace in wanted]
        if not self._cluster_answered:
            return scraped, left_out
        known = {each.workload for each in found} | {name for each in found for name in each.model_names}
        for each in scraped:
            # Named otherwise than any object here, and no model of theirs: told, not scaled.
            if known.isdisjoint({each.workload, *each.model_names}):
                models = ", ".join(each.model_names)
                self.troubles.append(f"series of {each.workload} ({models}) belong to no object found in the cluster")
        return found, left_out

    def _in_cluster(self) -> tuple[list[Candidate], list[LeftOut]]:
        from scaler.adapters.connections import access_by
        from scaler.adapters.kubernetes import ApiConnection
        from scaler.adapters.kubernetes.errors import CredentialsError, Forbidden, KubernetesError
        from scaler.onboarding.cluster import survey

        where = self._where
        settings = KubernetesConfig(kubeconfig=where.kubeconfig, context=where.context)
        try:
            api = ApiConnection(access_by(settings))
        except CredentialsError as error:
            if where.kubeconfig is not None or where.context is not None or "KUBERNETES_SERVICE_HOST" in os.environ:
                raise CommandError(str(error)) from error
            self.troubles.append("no cluster: neither a service account nor a kubeconfig here (--kubeconfig FILE)")
            return [], []
        try:
            surveyed = survey(api, where.namespaces, now=datetime.now(UTC))
        except KubernetesError as error:
            narrower = "; --namespace N asks for less" if isinstance(error, Forbidden) and not where.namespaces else ""
            self.troubles.append(f"the cluster could not be asked: {error}{narrower}")
            return [], []
        finally:
            api.close()
        self._cluster_answered = True
        self.troubles += surveyed.troubles
        return list(surveyed.candidates), list(surveyed.left_out)

    def _scrape(self) -> None:
        from forecaster.errors import SourceError
        from forecaster.sources.connection import Connection
        from scaler.onboarding.metrics import engines

        if self._where.prometheus is None:
            return
        try:
            self._engines = engines(Connection(url=self._where.prometheus))
        except SourceError as error:
            self.troubles.append(f"Prometheus could not be asked: {error}")
        else:
            self._scraped = True
            if not self._engines:
                self.troubles.append("Prometheus answers, and scrapes no vLLM (no series vllm:num_requests_running)")

    def ties(self, candidates: Sequence[Candidate]) -> dict[str, Tie]:
        """How each workload's series are found."""
        from forecaster.errors import SourceError
        from forecaster.sources.connection import Connection
        from scaler.onboarding.metrics import Tie, tied

        if self._scraped and self._where.prometheus is not None:
            connection = Connection(url=self._where.prometheus)
            try:
                return dict(tied(connection, candidates, self._engines, now=datetime.now(UTC)))
            except SourceError as error:
                self.troubles.append(f"how series are found could not be asked: {error}")
        return {each.workload: Tie() for each in candidates}

    def nothing_found(self) -> str:
        """Why there is nothing to write."""
        asked = {"the cluster": self._cluster_answered, "Prometheus": self._scraped}
        answered = [name for name, did in asked.items() if did]
        heard = "; ".join(self.troubles)
        if not answered:
            return f"nobody to ask: {heard}" + ("" if self._where.prometheus else "; and no --prometheus URL")
        seen = f"no vLLM found by {' and '.join(answered)}"
        return f"{seen}: {heard}" if heard else f"{seen}; is it a Deployment whose image or command names vllm?"

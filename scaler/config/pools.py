"""What must hold between the pools of one service: spill-over that ends somewhere, and no class that counts twice.

It compares entries and answers problems at their places, as `scaler.config.between` does. What it cannot know it does
not judge: workloads that are discovered by annotations, and gateways whose settings lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scaler.config.between import entries_of, groups_of
from scaler.config.check import did_you_mean, issue_at, shown
from scaler.config.document import Node
from scaler.errors import ConfigIssue

_CLASS_LABEL = "request_class"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """What of one entry matters beside the others'."""

    index: int
    entry: Node
    name: str
    spills_to: Node | None

    @property
    def next_name(self) -> str | None:
        value = None if self.spills_to is None else self.spills_to.value
        return value if isinstance(value, str) else None

    def selector(self, key: str) -> Any:
        selector = self.entry.child("selector")
        child = selector.child(key) if selector is not None and isinstance(selector.value, dict) else None
        return None if child is None else child.plain()

    @property
    def classes(self) -> tuple[str, ...]:
        """The request classes that it reads, where they can be known."""
        named = self.selector("classes")
        if isinstance(named, list) and named:
            return tuple(each for each in named if isinstance(each, str))
        one = self._labels.get(self._class_label)
        return (one,) if isinstance(one, str) else ()

    @property
    def service(self) -> tuple[Any, ...] | None:
        """What its demand is counted by beside the class; None where nothing but its own series tells it."""
        named = self._labels or self.selector("labels")
        labels = {name: value for name, value in (named or {}).items() if name != self._class_label}
        if not labels:
            return None
        return (self.selector("demand_metric"), *sorted((name, str(value)) for name, value in labels.items()))

    @property
    def profiled(self) -> frozenset[str]:
        """The classes of its capacity profile."""
        profile = self.entry.child("profile")
        classes = profile.child("classes") if profile is not None and isinstance(profile.value, dict) else None
        found = classes.value if classes is not None and isinstance(classes.value, tuple) else ()
        names = (each.child("name") for each in found if isinstance(each.value, dict))
        return frozenset(each.value for each in names if each is not None and isinstance(each.value, str))

    @property
    def _labels(self) -> Mapping[str, Any]:
        labels = self.selector("demand_labels")
        return labels if isinstance(labels, dict) else {}

    @property
    def _class_label(self) -> str:
        label = self.selector("class_label")
        return label if isinstance(label, str) else _CLASS_LABEL


def pool_issues(root: Node) -> list[ConfigIssue]:
    """Every problem of spill-over and of classes, in the order of the file."""
    pools = {pool.name: pool for pool in _pools(root)}
    discover = root.child("discover")
    discovered = discover is not None and bool(discover.get("namespaces"))
    groups = groups_of(root)
    issues = [issue for pool in pools.values() for issue in _target_issues(pool, pools, discovered=discovered)]
    issues += [issue for pool in pools.values() for issue in _variant_issues(pool, groups)]
    if not issues:
        issues += [issue for pool in pools.values() for issue in _unprofiled(pool, pools)]
    return [*issues, *_counted_twice(list(pools.values()), groups), *_same_backends(root, pools)]


def _pools(root: Node) -> Iterator[_Pool]:
    for index, entry in enumerate(entries_of(root)):
        name = entry.child("workload")
        if name is not None and isinstance(name.value, str):
            yield _Pool(index=index, entry=entry, name=name.value, spills_to=entry.child("spills_to"))


def _target_issues(pool: _Pool, pools: Mapping[str, _Pool], *, discovered: bool) -> Iterator[ConfigIssue]:
    """A receiver that does not exist, and a chain that comes back."""
    if pool.spills_to is None or pool.next_name is None:
        return
    setting = f"workloads[{pool.index}].spills_to"
    if pool.next_name not in pools:
        if not discovered:
            hint = did_you_mean(pool.next_name, pools) or "it must stand under workloads"
            text = f"names {shown(pool.next_name)}, which is no workload; {hint}"
            yield issue_at(pool.spills_to.place, setting, text)
        return
    chain = [each.name for each in _chain(pool, pools)]
    last = pools[chain[-1]].next_name
    # A pool that names itself is refused by the setting; of a longer ring its first entry is told.
    if last == pool.name and len(chain) > 1 and all(pools[each].index >= pool.index for each in chain):
        ring = " → ".join([*chain, pool.name])
        text = f"leads back to where it begins: {ring}; leave it out at the pool that is to be the last"
        yield issue_at(pool.spills_to.place, setting, text)


def _variant_issues(pool: _Pool, groups: Mapping[str, str]) -> Iterator[ConfigIssue]:
    """Variants hand over to each other within their own GPUs: what one lacks is another's, not the next pool's."""
    at_fault = next((name for name in (pool.name, pool.next_name) if name in groups), None)
    if pool.spills_to is not None and at_fault is not None:
        text = f"{at_fault} is a variant of {groups[at_fault]}, and nothing spills from or to one; leave spills_to out"
        yield issue_at(pool.spills_to.place, f"workloads[{pool.index}].spills_to", text)


def _chain(pool: _Pool, pools: Mapping[str, _Pool]) -> list[_Pool]:
    """The pool and those behind it, each once."""
    chain, seen = [pool], {pool.name}
    while (name := chain[-1].next_name) in pools and name not in seen and name is not None:
        chain.append(pools[name])
        seen.add(name)
    return chain


def _unprofiled(pool: _Pool, pools: Mapping[str, _Pool]) -> Iterator[ConfigIssue]:
    """Classes that may come to a pool whose profile does not say what they cost there."""
    for receiver in _chain(pool, pools)[1:]:
        missing = [name for name in pool.classes if name not in receiver.profiled]
        if missing and pool.spills_to is not None:
            words = "class" if len(missing) == 1 else "classes"
            text = (
                f"sends {words} {', '.join(missing)} to {receiver.name}, whose profile does not have it; "
                f"measure it there (headstart profile) or add it to that profile's classes"
            )
            yield issue_at(pool.spills_to.place, f"workloads[{pool.index}].spills_to", text)


def _counted_twice(pools: Sequence[_Pool], groups: Mapping[str, str]) -> Iterator[ConfigIssue]:
    """One class of one service that two workloads read would be forecast, and carried, twice.

    Variants of one model all read the whole of its demand: the group sees to it that it is carried once.
    """
    of_service: dict[tuple[Any, ...], list[_Pool]] = {}
    for pool in pools:
        if pool.service is not None:
            of_service.setdefault(pool.service, []).append(pool)
    for members in of_service.values():
        if not any(pool.classes for pool in members):
            continue  # plain workloads: series that two selectors claim are told as ambiguous when they are read
        for at, pool in enumerate(members):
            for earlier in members[:at]:
                if pool.name not in groups or groups[pool.name] != groups.get(earlier.name):
                    yield from _overlap(pool, earlier)


def _overlap(pool: _Pool, earlier: _Pool) -> Iterator[ConfigIssue]:
    place = pool.entry.child("selector") or pool.entry
    setting = f"workloads[{pool.index}].selector"
    if not pool.classes or not earlier.classes:
        whole, other = (pool, earlier) if not pool.classes else (earlier, pool)
        text = f"reads every class of a service of which {other.name} reads {', '.join(other.classes) or 'every one'}"
        if whole is earlier:
            text = f"reads {', '.join(pool.classes)} of a service of which {earlier.name} reads every class"
        yield issue_at(place.place, setting, f"{text}: they would count twice; name each pool's own in classes")
        return
    both = [name for name in pool.classes if name in earlier.classes]
    if both:
        text = f"reads {', '.join(both)}, which {earlier.name} reads of the same service: it would count twice"
        yield issue_at(place.place, setting, f"{text}; leave it to one of them, and let spills_to do the rest")


def _same_backends(root: Node, pools: Mapping[str, _Pool]) -> Iterator[ConfigIssue]:
    """On this machine the settings say what the gateway sees of a pool: another pool of the same model, or no spill."""
    local = root.child("local")
    servers = local.child("servers") if local is not None and isinstance(local.value, dict) else None
    seen: dict[str, tuple[str | None, str]] = {}
    for server in servers.value if servers is not None and isinstance(servers.value, tuple) else ():
        name, model, variant, pool = (server.get(key) for key in ("workload", "model", "variant", "pool"))
        if isinstance(name, str):
            seen[name] = (model or variant or name.partition("/")[2], pool or "default")
    for pool in pools.values():
        ours, theirs = seen.get(pool.name), seen.get(pool.next_name or "")
        if ours is None or theirs is None or pool.spills_to is None:
            continue
        setting = f"workloads[{pool.index}].spills_to"
        if ours[0] != theirs[0]:
            text = f"leads to servers of model {theirs[0]} from those of {ours[0]}: the gateway sends nothing there"
            yield issue_at(pool.spills_to.place, setting, f"{text}; give both the same local.servers[].model")
        elif ours[1] == theirs[1]:
            text = f"leads to servers of the same gateway pool {ours[1]!r}: there nothing spills over"
            yield issue_at(pool.spills_to.place, setting, f"{text}; give each its own local.servers[].pool")

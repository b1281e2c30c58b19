"""`python -m inference`: variants, how one is started, its manifests; measuring a server; the gateway.

It never talks to a cluster; of its commands only `sweep` and `gateway` talk to a server. Exit 0 ok, 1 nowhere to print,
2 usage, a bad file or a server that cannot be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from inference.errors import InferenceError
from inference.launch import serve_arguments
from inference.manifests import Placement, deployment, disruption_budget, pod_monitor, render, service
from inference.prepull import image_prepuller
from inference.variants import Variant, read_catalogue, shipped_catalogue, variant_named


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; `arguments` default to the process's own."""
    options = _parser().parse_args(arguments)
    if options.command == "sweep":
        return _sweep(options)
    try:
        if options.command == "gateway":
            from inference.gateway import command  # the manifests of a variant need no web server

            return command.run(options.config)
        if options.command == "nginx":
            from inference.gateway.nginx import render_nginx
            from inference.gateway.settings import read_settings

            settings = read_settings(options.config)
            return _put(render_nginx(settings, copies=options.copies, listen=options.listen))
        variants = read_catalogue(options.catalogue) if options.catalogue else shipped_catalogue()
        answer = _answer(options, variants)
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return _put(answer)


def _sweep(options: argparse.Namespace) -> int:
    """Measure a server, level by level; what is measured is kept whatever ends it."""
    from inference.profiling.plan import DEFAULT_CLASSES, SweepPlan, read_class
    from inference.profiling.sweep import sweep

    try:
        plan = SweepPlan(
            classes=tuple(read_class(each) for each in options.request_class) or DEFAULT_CLASSES,
            level_s=options.level_s,
            budget_s=options.budget_s,
            seed=options.seed,
        )
        outcome = asyncio.run(
            sweep(
                options.url,
                plan,
                options.raw,
                model=options.model,
                api_key=os.environ.get("VLLM_API_KEY"),
                force=options.force,
                progress=_tell_on_terminals,
            )
        )
    except InferenceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; the levels that are over are in {options.raw}, the same command goes on\n")
        return 130
    sys.stderr.write(f"{options.raw}: {outcome.levels} levels; {outcome.why}\n")
    return 0


def _tell_on_terminals(share: float, text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{100 * share:3.0f} %  {text}\n")


def _put(text: str) -> int:
    """Print it; the exit code. A reader that has left, as `head` does, is no error."""
    if sys.stdout is None:  # how Python shows a standard stream that was closed before it started
        sys.stderr.write("error: stdout is closed, so nothing could be printed\n")
        return 1
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must go nowhere, or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _answer(options: argparse.Namespace, variants: tuple[Variant, ...]) -> str:
    if options.command == "list":
        return "".join(f"{each.name}\t{each.gpus} × {each.gpu_memory_gib:g} GiB\t{each.model}\n" for each in variants)
    if options.command == "prepull":
        return render(image_prepuller(variants, placement=_placement(options)))
    variant = variant_named(options.variant, variants)
    if options.command == "arguments":
        return shlex.join(("vllm", "serve", *serve_arguments(variant, port=options.port))) + "\n"
    placement = _placement(options)
    objects = [
        deployment(variant, placement=placement, replicas=options.replicas),
        service(variant, placement=placement),
        disruption_budget(variant, placement=placement),
    ]
    if options.pod_monitor:
        objects.append(pod_monitor(variant, placement=placement))
    return render(*objects)


def _placement(options: argparse.Namespace) -> Placement:
    return Placement(namespace=options.namespace, node_selector=dict(options.node_label))


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is no label; write KEY=VALUE")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference", description="How each served variant is started.")
    parser.add_argument("--catalogue", type=Path, help="a catalogue of your own instead of the shipped one")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the variants of the catalogue")
    arguments = commands.add_parser("arguments", help="the command line that starts one replica")
    manifests = commands.add_parser("manifests", help="Deployment, Service and PodDisruptionBudget as YAML")
    gateway = commands.add_parser("gateway", help="the OpenAI-compatible gateway before the replicas, in this process")
    gateway.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="its settings (YAML)")
    nginx = commands.add_parser("nginx", help="the nginx configuration before several copies of the gateway")
    nginx.add_argument("--config", "-c", type=Path, required=True, metavar="FILE", help="the gateway's settings (YAML)")
    nginx.add_argument("--listen", default="80", help="what nginx listens on")
    nginx.add_argument("copies", nargs="+", metavar="HOST:PORT", help="each copy of the gateway")
    prepull = commands.add_parser("prepull", help="a DaemonSet that keeps every variant's image on the GPU nodes")
    measure = commands.add_parser("sweep", help="measure a running server into a raw file for `headstart profile`")
    measure.add_argument("url", help="one replica, such as http://127.0.0.1:8000")
    measure.add_argument("--raw", type=Path, required=True, help="the file to write, or to go on with")
    class_help = "NAME=PROMPT+OUTPUT in tokens, +WIDTHxHEIGHT for a picture; may be repeated"
    measure.add_argument("--class", dest="request_class", action="append", default=[], metavar="CLASS", help=class_help)
    measure.add_argument("--model", help="as the server calls it; the only one if not given")
    measure.add_argument("--level-s", type=float, default=15.0, metavar="S", help="seconds at one rate")
    measure.add_argument("--budget-s", type=float, default=600.0, metavar="S", help="seconds for this call")
    measure.add_argument("--seed", type=int, default=1)
    measure.add_argument("--force", action="store_true", help="even if the server serves somebody else")
    for command in (arguments, manifests):
        command.add_argument("variant", help="its name in the catalogue")
    arguments.add_argument("--port", type=int, default=8000)
    for command in (manifests, prepull):
        command.add_argument("--namespace", default="llm")
        label_help = "only on nodes with this label; may be repeated"
        command.add_argument(
            "--node-label", type=_label, action="append", default=[], metavar="KEY=VALUE", help=label_help
        )
    manifests.add_argument("--replicas", type=int, help="state a number; leave out when a scaler owns it")
    manifests.add_argument("--pod-monitor", action="store_true", help="add a PodMonitor for the Prometheus operator")
    return parser


if __name__ == "__main__":
    sys.exit(main())

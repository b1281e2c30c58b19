"""Let torchvision import next to a CPU torch; run once by the environment's own Python after the installation.

The published torchvision wheel is linked against CUDA, so beside torch+cpu its C++ library does not load, and
`import torchvision` dies with "operator torchvision::nms does not exist" while it registers shapes for operators
that nobody defined. Qwen3-VL's image processor uses only the pure-torch transforms (resize, normalise), so it is
enough to declare the two operators' schemas. They still raise when called. Running this twice changes nothing.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys

MARK = "# headstart: schemas without kernels, see tests/inference/vllm_env/fit_torchvision.py"
DECLARATIONS = f"""
{MARK}
if not _has_ops():
    torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    # find_spec looks without importing: the import is what fails.
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("torchvision is not installed in this environment")
    extension = pathlib.Path(spec.submodule_search_locations[0]) / "extension.py"
    source = extension.read_text()
    if MARK not in source:
        extension.write_text(source + DECLARATIONS)
    sys.stdout.write(f"vllm-env: torchvision imports beside a CPU torch ({extension.name})\n")


if __name__ == "__main__":
    main()

"""What the roofline predicts of the kernels on GPUs that are not here, as Markdown.

    python scripts/roofline.py
    python scripts/roofline.py scales=[135m,360m,1_8b]
    python scripts/roofline.py write=true

scales=[<name>,…]  of configs/scale/, 135m and 1_8b by default
write=true         into docs/roofline.md; with the default scales only

Everything printed is predicted from data sheets; nothing of it was measured on a GPU.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from plm.kernels.roofline_report import render
from scripts.arguments import read

ROOT = Path(__file__).resolve().parents[1]
SCALES = ROOT / "configs" / "scale"
PAGE = ROOT / "docs" / "roofline.md"
DEFAULT = ["135m", "1_8b"]
HEAD = """# What the roofline predicts of the kernels

Written by `python scripts/roofline.py write=true`. **Every figure on this page is predicted**, from
counted FLOPs and bytes and from data sheets, except where a time that others published is named as
such; none was measured by us. `scripts/bench_kernels.py` measures on a GPU.

"""


def scale(name: str) -> dict[str, Any]:
    """Settings of a scale, over those of the scales that it builds on.

    Raises:
        ConfigError: there is no such scale.
    """
    path = SCALES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in SCALES.glob("*.yaml")))
        raise ConfigError(f"scale {name!r} is not one of: {known}")
    settings = yaml.safe_load(path.read_text("utf-8"))
    for base in settings.pop("defaults", []):
        if base != "_self_":
            settings = {**scale(base), **settings}
    return settings


def page() -> str:
    """What docs/roofline.md holds."""
    return HEAD + render({name: scale(name) for name in DEFAULT})


def main(arguments: list[str]) -> int:
    """Print the tables."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        defaults = {"scales": DEFAULT, "write": False}
        chosen = read(arguments, defaults, lists=("scales",), flags=("write",))
        if chosen["write"] and chosen["scales"] != DEFAULT:
            raise ConfigError("write=true writes docs/roofline.md of the default scales alone")
        if chosen["write"]:
            PAGE.write_text(page(), "utf-8")
            print(PAGE.relative_to(ROOT))
        else:
            print(render({name: scale(name) for name in chosen["scales"]}), end="")
    except PlmError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

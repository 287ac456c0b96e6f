"""Write requirements.lock: what the package and its tools need, at the versions installed here.

Only what pyproject.toml leads to is pinned, so that a package somebody tried out stays outside.
What is reached on Linux alone gets a marker. Run it as `make lock`, in the project's environment.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Everything that `make run` and `make test` install, pinned. Written by `make lock`.\n"
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "darwin": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
}


def canonical(name: str) -> str:
    """A distribution's name as packaging compares it: lower case, single hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: Iterable[str], platform: str) -> dict[str, Version]:
    """All installed distributions that these requirements lead to on a platform, with versions.

    Raises:
        SystemExit: something that this machine's platform needs is not installed.
    """
    found: dict[str, Version] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(root), "") for root in roots]
    while queue:
        requirement, extra = queue.pop()
        environment = {**PLATFORMS[platform], "extra": extra}
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonical(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            # What only another platform needs cannot be pinned from here.
            if sys.platform == platform:
                raise SystemExit(f"{name} is not installed here: run `make test` first") from None
            continue
        found[name] = Version(installed.version)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                queue.extend((Requirement(line), wanted) for line in installed.requires or [])
    return found


def lock_text(project: dict) -> str:
    """The lock file's text for a parsed pyproject.toml."""
    settings = project["tool"]["plm"]["lock"]
    roots = list(project["project"]["dependencies"])
    for extra in settings["extras"]:
        roots += project["project"]["optional-dependencies"][extra]
    linux, darwin = closure(roots, "linux"), closure(roots, "darwin")
    lines = []
    for name in sorted(linux | darwin):
        # .public: a local build such as 2.13.0+cpu is not on the public index.
        version = settings["pins"].get(name) or (linux | darwin)[name].public
        marker = "" if name in darwin else ' ; sys_platform == "linux"'
        lines.append(f"{name}=={version}{marker}\n")
    return HEADER + "".join(lines)


def main() -> int:
    """Write the file beside pyproject.toml; the exit code."""
    if sys.platform != "linux":
        print("make lock runs on Linux: triton and deepspeed are pinned there", file=sys.stderr)
        return 2
    text = lock_text(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    (ROOT / "requirements.lock").write_text(text)
    print(f"requirements.lock: {len(text.splitlines()) - 1} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

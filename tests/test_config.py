"""Only what we define, or a trusted package defines, is ever built."""

import pytest

from plm.config import build, digest, locate, share
from plm.errors import ConfigError


@pytest.mark.parametrize(
    "target", ["os.system", "plm.launch.subprocess.run", "plm.config.importlib.import_module"]
)
def test_foreign_targets_are_refused(target: str) -> None:
    with pytest.raises(ConfigError):
        locate(target)


def test_nested_targets_are_checked_before_anything_is_built() -> None:
    node = {"_target_": "plm.config.share", "total": {"_target_": "os.getcwd"}, "fraction": 1}
    with pytest.raises(ConfigError, match=r"total\._target_=os\.getcwd lies outside plm"):
        build(node)


def test_build() -> None:
    assert build({"_target_": "plm.config.share", "total": 10, "fraction": 0.665}) == 7
    later = build({"_target_": "plm.config.share", "_partial_": True, "total": 10})
    assert later(fraction=0.5) == 5
    with pytest.raises(ConfigError, match=r"plm\.config\.share: .*unexpected keyword"):
        build({"_target_": "plm.config.share", "totl": 10})


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


def test_share_is_whole() -> None:
    assert share(2_480_000_000_000, 0.665) == 1_649_200_000_000

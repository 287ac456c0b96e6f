"""The page: whole in one file, and nothing but its own parts may run."""

import re
from base64 import b64encode
from hashlib import sha256

from plm.serving.page import page


def test_it_needs_nothing_from_elsewhere():
    html, _ = page()
    assert not re.search(
        r"https?:|//\w+\.|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")", html
    )
    # Text of models and servers is never read as HTML.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", html)
    # What the policy below would keep from running.
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", html)


def test_the_policy_names_the_parts():
    html, headers = page()
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("script", "style"):
        [part] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = b64encode(sha256(part.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_field_of_the_settings_is_one_of_the_api():
    from plm.serving.fields import CHAT

    html, _ = page()
    names = re.search(r"const NUMBERS = \[(.*?)\]", html)[1]
    for name in re.findall(r'"(\w+)"', names):
        assert name in CHAT and f'id="{name}"' in html

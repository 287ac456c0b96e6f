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


def _function(name: str) -> str:
    html, _ = page()
    return re.search(rf"^function {name}\(.*?^}}", html, re.DOTALL | re.MULTILINE)[0]


def test_the_end_of_the_conversation_stays_in_view_when_the_box_grows():
    """A message that is too long comes back into the box: the error must not slip below it."""
    assert re.search(r"follow\(\(\) => \{.*style\.height.*\}\)", _function("grow"), re.DOTALL)
    failed = _function("finish").partition("return;")[0]
    assert "grow();" in failed


def test_which_limit_ended_an_answer_is_said():
    told = _function("limit")
    assert "usage.prompt_tokens + usage.completion_tokens >= model.plm.context" in told
    assert "length: limit(usage)" in _function("finish")


def test_the_header_gives_the_button_a_place_of_its_own():
    """Name and context wrap within a part of theirs; the context itself is one line."""
    html, _ = page()
    assert re.search(
        r'<header>\s*<div><h1 id="name">…</h1><p id="about"></p></div>\s*<button', html
    )
    rules = dict(re.findall(r"^(header(?: \w+)?)\{(.*?)\}", html, re.MULTILINE))
    assert "flex-wrap" not in rules["header"] and "flex-wrap:wrap" in rules["header div"]
    assert "white-space:nowrap" in rules["header p"]


def test_what_stands_in_an_empty_field_is_short_enough_for_it():
    html, _ = page()
    fields = html[html.index("Temperature") : html.index('id="text"')]
    shown = re.findall(r'placeholder="(.*?)"', fields)
    # At the narrowest, 130 px, with the arrows of a number.
    assert shown and max(map(len, shown)) <= len("what has room")


def test_a_text_that_goes_on_leaves_room_for_its_beginning():
    html, _ = page()
    assert "Math.min(256, Math.floor(model.plm.context / 2))" in html
    assert "{max_tokens: most(), ...shared" in html

"""The page to chat: one file, and headers by which a browser runs nothing but its own parts."""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

PAGE = Path(__file__).with_name("page.html")


@lru_cache
def page() -> tuple[str, dict[str, str]]:
    """The page, and its headers."""
    html = PAGE.read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hashes(html, 'script')}; "
        f"style-src {_hashes(html, 'style')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return html, headers


def _hashes(html: str, tag: str) -> str:
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()) for part in parts)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)

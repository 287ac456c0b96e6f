"""Puts fixed marks in place of e-mail and IP addresses, telephone and account numbers, and secrets.

Paper: Penedo et al., FineWeb (arXiv:2406.17557): e-mail addresses and public IP addresses
Departs: marks instead of made-up addresses; telephone, card and account numbers and secrets too.
Cost: 6 MB of text a second of processor time, one pass a kind, linear in the text: whatever a
pattern repeats is bounded, or never tried again.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address

from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import ConfigError

_EMAIL = re.compile(
    r"(?<![\w.%+-])([A-Za-z0-9_%+][\w.%+-]{0,63}+)@((?:[A-Za-z0-9-]{1,63}+\.){1,8}[A-Za-z]{2,24})"
    r"(?![\w-])",
    re.ASCII,
)
# Names that RFC 2606 and RFC 6761 set aside for examples and tests.
_EXAMPLES = re.compile(r"(?:\A|\.)(?:example(?:\.(?:com|net|org|edu))?|test|invalid|localhost)\Z")
_IPV4 = r"(?<![\w.:-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)"
# Global addresses lie in 2000::/3 so far. Fewer than three colons: a slice, or names in C++.
_IPV6 = r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:]|\.\w)"
_IP = re.compile(f"{_IPV6}|{_IPV4}")
_PHONE = re.compile(
    # International: a plus, and digits in groups.
    r"(?<![\w+.=*/-])\+[1-9]\d{0,3}(?:[ .()/-]{0,2}\d){6,13}(?![\w-]|[.,]\d)"
    # North American.
    r"|(?<![\w+.-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}(?![\w-]|[.,]\d)"
)
_CARD = re.compile(
    r"(?<![\w.,+-])(?:\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|3[47]\d\d([ -])\d{6}\2\d{5})"
    r"(?![\w-]|[.,]\d)"
)
_ISSUERS = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6[0245]|81")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}+", re.ASCII)
_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 "
        "EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 "
        "IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 "
        "NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 "
        "TN24 TR26 UA29 VA22 VG24 XK20"
    ).split()
}
# Each begins with a letter of its own, which the search looks for first; what must not come before
# stands behind it.
_SECRET = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*+"
    r"-----END [A-Z0-9 ]{1,80}-----"
    r"|A(?<!\wA)(?:KIA|SIA)[A-Z0-9]{16}(?!\w)"
    r"|A(?<!\wA)Iza[\w-]{35}(?![\w-])"
    r"|(?:aws_secret_access_key|AWS_SECRET_ACCESS_KEY)['\"]? ?[:=] ?['\"]?"
    r"[A-Za-z0-9/+]{40}(?![\w/+])"
    r"|g(?<!\wg)(?:h[oprsu]_[A-Za-z0-9]{36,255}|ithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})(?!\w)"
    r"|g(?<!\wg)lpat-[\w-]{20}(?![\w-])"
    r"|h(?<!\wh)f_[A-Za-z]{34}(?!\w)"
    r"|s(?<!\ws)k_live_[A-Za-z0-9]{24,99}(?!\w)"
    r"|x(?<!\wx)ox[abprs]-[A-Za-z0-9-]{10,250}(?![\w-])"
)


@per_document
def mask_pii(
    documents: Iterator[Document], *, tally: Tally, kinds: list[str] | None = None
) -> Iterator[Document]:
    """Replace what points at a person or opens a door; the documents stay.

    email: all but the names set aside for examples (example.com, x.test) and the user `git`.
    ip: IPv4 and IPv6 that are reachable from everywhere; not those of private networks, loopback,
    multicast and documentation. A version of four parts, 1.2.3.4, looks like one and is masked,
    v1.2.3.4 is not. phone: with a plus and the country's number, or in North American form; not
    the numbers set aside for fiction (555-0100 to 555-0199). card: 14 to 19 digits with an
    issuer's beginning and a right check digit (Luhn). iban: right length and check digits. secret:
    private key blocks, keys and tokens of AWS, GitHub, GitLab, Google, Hugging Face, Slack,
    Stripe, AWS's secret key with its name; not the example keys of AWS's documentation.

    Args:
        documents: in any order.
        tally: counts what was masked; an example is the mark with the text around it, masked too.
        kinds: some of email, ip, phone, card, iban, secret; all where it is not given.
    Raises:
        ConfigError: a kind is unknown, or there is none.

    Changes: "<email>", "<ip>", "<phone>", "<card>", "<iban>", "<secret>", in places.
    """
    # In the order of the table: a card's number must not be taken for a telephone's.
    chosen = [kind for kind in _KINDS if kind in _check(kinds)]
    for document in documents:
        text, masked = document.text, {}
        for kind in chosen:
            pattern, judge = _KINDS[kind]
            masked[kind] = places = []
            text = pattern.sub(partial(_replace, judge, f"<{kind}>", places), text)
        for kind, places in masked.items():
            if places:
                at = text.find(f"<{kind}>")
                around = text[max(0, at - 50) : at + 50]
                tally.change(f"<{kind}>", document.name, around, len(places))
        yield Document(text, document.name, document.group)


def _check(kinds: list[str] | None) -> list[str]:
    if kinds is None:
        return list(_KINDS)
    known = ", ".join(_KINDS)
    if not isinstance(kinds, list) or not kinds:
        raise ConfigError(f"mask_pii: kinds={kinds!r} must be a list with some of {known}")
    for kind in kinds:
        if kind not in _KINDS:
            raise ConfigError(f"mask_pii: kinds has {kind!r}, which is unknown; known: {known}")
    return kinds


def _replace(
    judge: Callable[[re.Match], int], mark: str, places: list[int], match: re.Match
) -> str:
    length = judge(match)
    if not length:
        return match.group()
    places.append(match.start())
    return mark + match.group()[length:]


# Judges: how many characters of the match are to be masked; 0 where it only looks like one.


def _email(match: re.Match) -> int:
    user, domain = match.groups()
    kept = user == "git" or _EXAMPLES.search(domain.lower())
    return 0 if kept else len(match.group())


def _ip(match: re.Match) -> int:
    try:
        address = ip_address(match.group())
    except ValueError:
        return 0
    return len(match.group()) if address.is_global and not address.is_multicast else 0


def _phone(match: re.Match) -> int:
    digits = "".join(filter(str.isdigit, match.group()))
    return 0 if digits[-7:-2] == "55501" or len(digits) > 15 else len(match.group())


def _card(match: re.Match) -> int:
    digits = [int(c) for c in match.group() if c.isdigit()]
    doubled = (2 * d - 9 * (d > 4) for d in digits[-2::-2])
    right = (sum(digits[::-2]) + sum(doubled)) % 10 == 0
    issued = _ISSUERS.match("".join(map(str, digits))) and len(set(digits)) > 1
    return len(match.group()) if right and issued else 0


def _iban(match: re.Match) -> int:
    """The match may run on into the next words: the country says how long the number is."""
    text = match.group()
    ends = [i + 1 for i, c in enumerate(text) if c != " "]
    length = _IBAN_LENGTHS.get(text[:2], 0)
    following = match.string[match.end() : match.end() + 1]
    if not length or len(ends) < length:
        return 0
    end = ends[length - 1]
    after = text[end : end + 1] or following
    number = text[:end].replace(" ", "")
    rest = int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97
    return 0 if after.isalnum() or rest != 1 else end


def _secret(match: re.Match) -> int:
    return 0 if match.group().endswith(("EXAMPLE", "EXAMPLEKEY")) else len(match.group())


_KINDS: dict[str, tuple[re.Pattern, Callable[[re.Match], int]]] = {
    "secret": (_SECRET, _secret),
    "email": (_EMAIL, _email),
    "iban": (_IBAN, _iban),
    "card": (_CARD, _card),
    "ip": (_IP, _ip),
    "phone": (_PHONE, _phone),
}

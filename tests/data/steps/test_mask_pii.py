"""What is masked, what only looks like it, and that no text makes it slow."""

import time

import pytest

from plm.data.documents import Document
from plm.data.steps.mask_pii import mask_pii
from plm.data.tally import Tally
from plm.errors import ConfigError

# Put together here, so that no scanner takes this file for a leak.
GITHUB = "gh" + "p_" + "a1B2" * 9
AWS = "AKIA" + "ABCD2345" * 2
HEAD = "PRIVATE KEY-----"
KEY = f"-----BEGIN {{0}}{HEAD}\nProc-Type: 4,ENCRYPTED\n\nMIIE+a/b=\n-----END {{0}}{HEAD}"

MASKED = {
    "Write to jane.doe+x@mail.uni-jena.de.": "Write to <email>.",
    "<a@b-c.org>, (d_e@f.co.uk)": "<<email>>, (<email>)",
    "host 8.8.8.8, 93.184.216.34:80.": "host <ip>, <ip>:80.",
    "see [2a00:1450:4001:81b::200e]:443": "see [<ip>]:443",
    "2607:f8b0:4004:0c07:0000:0000:0000:0071 answers": "<ip> answers",
    "Call +49 (30) 1234-5678 or +14155552671!": "Call <phone> or <phone>!",
    "Tel. (415) 555-2671, 415-555-2671.": "Tel. <phone>, <phone>.",
    "card 4242 4242 4242 4242, 378282246310005": "card <card>, <card>",
    "IBAN DE89 3704 0044 0532 0130 00 AND BIC": "IBAN <iban> AND BIC",
    "to GB82WEST12345698765432": "to <iban>",
    "AT61 1904 3002 3457 3201 THIS YEAR": "<iban> THIS YEAR",
    f"token={GITHUB}": "token=<secret>",
    f"id {AWS}.": "id <secret>.",
    f"a\n{KEY.format('RSA ')}\nb": "a\n<secret>\nb",
    f"{KEY.format('')}{KEY.format('OPENSSH ')}": "<secret><secret>",
    "aws_secret_access_key = " + "aB3/" * 10: "<secret>",
    f'{{"AWS_SECRET_ACCESS_KEY": "{"aB3/" * 10}"}}': '{"<secret>"}',
    f"x ({'gl' + 'pat-'}{'aB-3' * 5}), {'hf' + '_'}{'aB' * 17}": "x (<secret>), <secret>",
    f"{'AI' + 'za'}{'aB-3_' * 7} {'sk' + '_live_'}{'aB3d' * 6}": "<secret> <secret>",
    f"{'xo' + 'xb-'}{'12345-' * 3}abc": "<secret>",
    f"{'github' + '_pat_'}{'a' * 22}_{'B' * 59}": "<secret>",
}

KEPT = [
    "a@example.com b@mail.example.org c@host.test git@github.com:user/repo me@localhost",
    "y = a@b.T @decorator x @ y user@host @name",
    "127.0.0.1 10.1.2.3 192.168.0.1 172.16.9.9 192.0.2.7 198.51.100.1 203.0.113.9 224.0.0.1",
    "v1.2.3.4 1.2.3.4.5 300.1.2.3 08.8.8.8 1.2.3",
    "std::vector a::b x[2000::10] 2001:db8:0:0::1 fe80::1:2:3 12:30:45:00 ::1",
    "1 + 49151123456789 a+4915112345678 +1.5, +12345, 555-1234",
    "(415) 555-0123, +1 202 555 0147, +491234567890123456",
    "415-155-2671 2024-01-02-1234 100-200-3000 3.14159265358979",
    "4242 4242 4242 4241 0000000000000000 1234567890123452 0.4242424242424242 42424242424242424242",
    "DE89 3704 0044 0532 0130 01 XX89 3704 0044 0532 0130 00 DE89370400440532013000X",
    "AKIAIOSFODNN7EXAMPLE ghp_short -----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
    f"a{AWS} {AWS}A _{GITHUB} {GITHUB}_",
    "-----BEGIN PRIVATE KEY----- is how it opens.",
]


@pytest.mark.parametrize("text", MASKED)
def test_masked(run, text):
    assert run(mask_pii, [text]) == ([MASKED[text]], {})


@pytest.mark.parametrize("text", KEPT)
def test_kept(run, text):
    assert run(mask_pii, [text]) == ([text], {})


def test_kinds_and_tally():
    text = "a@b.org, c@d.org, 8.8.8.8"
    tally = Tally()
    (document,) = mask_pii(iter([Document(text, "n", "g")]), tally=tally, kinds=["email"])
    assert document == Document("<email>, <email>, 8.8.8.8", "n", "g")
    assert tally.changed == {"<email>": 2}
    assert tally.examples == {"<email>": [("n", "<email>, <email>, 8.8.8.8")]}


@pytest.mark.parametrize(
    "unit",
    [
        "a", "1", "1 ", "a@", "a.", "a@a.", "1.", "2222:", "+1", "+1 ", "(415) ", "4242 ", "DE89 ",
        "DE89", "A", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n-", "-----BEGIN ",
        "ghp_", "xoxb-", "github_pat_", "AKIA", "-", "%+", "a-", "aws_secret_access_key=",
    ],
)  # fmt: skip
def test_time_grows_with_the_text_and_no_faster(unit):
    # Eight times the text: at a linear cost 8 times the time, at a quadratic one 64 times.
    def seconds(size):
        document = Document(unit * (size // len(unit)), "n", "g")
        times = []
        for _ in range(2):
            start = time.process_time()
            list(mask_pii(iter([document]), tally=Tally()))
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(1_000_000) < 24 * max(seconds(125_000), 0.001)


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        ([], r"mask_pii: kinds=\[\] must be a list with some of secret, email, iban, card, ip, ph"),
        (["mail"], "mask_pii: kinds has 'mail', which is unknown; known: secret, email"),
    ],
)
def test_settings_that_cannot_work(run, kinds, text):
    with pytest.raises(ConfigError, match=text):
        run(mask_pii, ["a"], kinds=kinds)

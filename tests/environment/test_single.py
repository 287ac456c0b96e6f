"""One turn: what is drawn, in order, in any batch."""

from plm.environment.common import Asked
from plm.environment.single import single
from tests.environment.common import drawing

ASKED = [Asked([6, 3, 1], 9, 5, 3), Asked([2], 12, 6, 3), Asked([4, 4], 9, 7, 3)]


def test_a_turn_is_what_the_engine_draws_in_the_order_of_the_prompts():
    subject = drawing()
    found = single(subject, ASKED)
    apart = [reply for one in ASKED for reply in single(drawing(), [one])]
    assert [one.tokens for one in found] == [one.tokens for one in apart]
    assert len({tuple(one.tokens) for one in found}) > 4
    for index, one in enumerate(found):
        room = ASKED[index // 3].room
        assert one.learn == [1] * len(one.tokens) and len(one.sampled) == len(one.tokens) <= room
        ended = one.tokens[-1] == subject.end_of_text
        assert one.cut != ended and (ended or len(one.tokens) == room)
        assert one.text == subject.tokenizer.decode(one.tokens)

from plm.scaling.constant import constant


def test_is_1():
    assert constant(1e6, 4e6, "sgd", 192) == 1.0

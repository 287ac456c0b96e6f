from tests.model.common import SIZES, draw, logits_of, tiny


def test_one_table_in_and_out():
    model = tiny()
    assert model.embed_tokens.tied and model.embed_tokens.head_weight is model.embed_tokens.weight
    assert not any("head" in name for name in model.state_dict())
    logits_of(model, draw(1, 3))[0, 0, 5].backward()
    # A token that was not read has a gradient as an answer only.
    assert model.embed_tokens.weight.grad[5].any()


def test_number_of_parameters():
    table = SIZES["vocab_size"] * SIZES["hidden_size"]
    model = tiny()
    assert model.parameters_of() - model.parameters_of(embedding=False) == table

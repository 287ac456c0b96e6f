"""The peak rate as it was given, whatever the batch."""


def constant(base_batch: float, batch: float, optimizer: str, width: int) -> float:
    """Factor 1 on the peak rate.

    Args:
        base_batch: tokens of the batch that the peak rate was chosen at.
        batch: tokens of the batch in use.
        optimizer: name of the optimizer's choice.
        width: hidden_size of the model.
    """
    return 1.0

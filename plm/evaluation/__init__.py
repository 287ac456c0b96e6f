"""What a model is worth: tasks, their exact scoring, figures with their spread, stored results."""

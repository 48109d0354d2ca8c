"""The words of the model card: Jinja templates and citations. No logic: `distil_trainer.card` fills them in."""

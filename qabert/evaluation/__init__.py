"""How good is a model, and why?  Metrics, figures, the report and saliency maps."""

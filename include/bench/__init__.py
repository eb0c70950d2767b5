"""The judge beside the rules of other tools, on simulated traffic; ``python -m bench`` prints the tables."""

"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168) as a TFDS set."""

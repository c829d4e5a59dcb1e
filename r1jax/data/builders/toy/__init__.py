"""The two toy worlds as a TFDS set."""

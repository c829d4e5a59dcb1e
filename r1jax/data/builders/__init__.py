"""TFDS builders, one package folder each, as TFDS finds a set's name and metadata by its folder."""

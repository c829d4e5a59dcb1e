"""Problems and their order: `load(cfg)` reads a source, `order.batch` returns the problems of a step."""

from r1jax.data.reader import DataError
from r1jax.data.sources import SOURCES, Problems, drop_long, load

__all__ = ['SOURCES', 'DataError', 'Problems', 'drop_long', 'load']

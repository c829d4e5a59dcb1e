"""Sets of real numbers, however they are stated: inequalities, intervals, unions, listed solutions.

The numbers that occur in two answers cut the line into points and the gaps between them. A set is the numbers of its
parts: of those that are cut off at n values, part 2k + 1 is the value k and part 2k the gap below it.
"""
import functools
import re
from typing import NamedTuple

from r1jax.rewards import mathtext, symbolic

_BOUNDS = 12       # different numbers in two answers, at most
_SIGNS = re.compile(r'\\(?:le|ge|ne)(?![A-Za-z])|[<>]|(?<!:)=')
_RELATION = re.compile(_SIGNS.pattern + r'|\\in(?![A-Za-z])')
_FLIPPED = {'<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le', '=': '=', '\\ne': '\\ne'}
_BUILDER = re.compile(r'\\\{ ?(.*?) ?(?:\\mid(?![A-Za-z])|\\vert(?![A-Za-z])|[|:]) ?(.*) ?\\\}')
_OF_REALS = re.compile(r' ?\\in ?\\mathbb ?\{ ?R ?\}')
_NAME = re.compile(r'\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]*\}|[A-Za-z0-9]))?(?: ?\([A-Za-z]\))?')
_INFINITE = {'\\infty': 1, '+\\infty': 1, '-\\infty': -1}
_SUBSCRIPT = re.compile(r' ?_ ?(?:\{ ?[0-9] ?\}|[0-9])$')
_CONSTANTS = {'e', 'i', '\\pi', '\\infty', '\\emptyset'}


class Part(NamedTuple):
  """A set between two bounds, texts; closed: whether they belong to it. Infinity is an open bound."""
  low: str
  high: str
  closed: tuple


class Set(NamedTuple):
  """name: of the variable, '' where none is named; alternatives: lists of lists of Parts, a union of intersections."""
  name: str
  alternatives: list

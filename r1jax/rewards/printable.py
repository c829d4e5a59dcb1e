"""Makes text from programs and responses safe to print on a terminal."""

import json


def printable(text):
  r"""Escapes characters that are not printable, except newlines and tabs: U+009B becomes '\u009b'.

  Such characters start terminal commands (C0, C1), change the direction of text, or are invisible. The escapes are
  those of JSON, so escaping a JSON text does not change its value.
  """
  return (
    text if text.isprintable() else ''.join(c if c.isprintable() or c in '\n\t' else json.dumps(c)[1:-1] for c in text)
  )

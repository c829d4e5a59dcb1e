"""Text from programs and responses, made safe for a terminal."""

import json


def printable(text):
  r"""The text with what is no visible character but line ends and tabs as an escape: '\u009b' for U+009B.

  Such begin a terminal's commands (C0, C1), turn the direction of what follows, or are not seen. The escapes are
  JSON's, so that of JSON the value stays the same.
  """
  return (
    text if text.isprintable() else ''.join(c if c.isprintable() or c in '\n\t' else json.dumps(c)[1:-1] for c in text)
  )

"""The API key of an endpoint: where it is read from, and how it is found in a text to be masked."""

import os
import re

from r1jax.config import require

SECRET = 8  # characters; a shorter key ('EMPTY', 'none') is a placeholder and need not be masked


def read(name):
  """The API key in the environment variable `name`; '' for ''. Messages omit the name: it may be the key by mistake."""
  require(
    re.fullmatch('[A-Z_][A-Z0-9_]*|', name),
    'api_key_env is not the name of an environment variable in capitals; give the name of the variable, not the key.',
  )
  key = os.environ.get(name, '').strip() if name else ''
  require(key or not name, 'the environment variable named by api_key_env is empty or not set; set it to the key.')
  require(
    re.fullmatch('[!-~]*', key),
    'the key in the variable named by api_key_env contains a space or a character that is not ASCII; correct it.',
  )
  return key


def pattern(key):
  """A pattern that matches a key even if it is broken by white space or escaped as in JSON, HTML or a URL."""
  gap = r'(?:[^!-~]|\\[nrt]|\\u00[0-2][0-9a-fA-F])*'
  forms = [rf'(?:\\?{re.escape(c)}|(?i:\\u{ord(c):04x}|%{ord(c):02x}|&\#{ord(c)};|&\#x{ord(c):x};))' for c in key]
  return re.compile(gap.join(forms))

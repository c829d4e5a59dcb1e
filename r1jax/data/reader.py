"""Reads problems from JSON Lines files; errors name the bad line and the reason."""

import gzip
import json
import os
import re
from typing import Any
import zlib

from absl import logging

# GSM8K's answer mark, with the solution before it and the answer after it. '##### x' is a heading, and so is '#### x'
# with more lines after it.
_GSM8K_ANSWER = re.compile(r'(.*\s|)####(?!#)([^\n]*)', re.DOTALL)


class DataError(ValueError):
  """Data cannot be used; the message, one line, says what is wrong, with the numbers, and what to do."""


def read_jsonl(path, to_problem=None):
  """Reads the problems of a JSON Lines file, gzip-compressed where the name ends in .gz.

  Every line is an object with 'problem' (or 'question') and 'answer', each a non-empty string or a number. An object
  without 'id' gets one from the file name and the line number; other fields are kept. Blank lines are skipped.
  Malformed lines are dropped and counted, and the first is logged, as long as any line is good.

  Args:
    path: file.
    to_problem: function (object of a line, default id) -> problem; it returns None to leave the object out without
      counting it, and raises ValueError to say what is wrong with it. None: `normalise`.

  Returns:
    (problems, malformed): a list of dicts with at least the strings 'id', 'problem' and 'answer', and the number of
    malformed lines.

  Raises:
    DataError: the file is missing, a folder, unreadable, corrupt, empty, or has no good line.
  """
  problems, malformed, filtered, first_error = [], 0, 0, ''
  for number, line in raw_lines(path):
    try:
      problem = (to_problem or normalise)(_parse(line), f'{os.path.basename(path)}:{number}')
      if problem is None:
        filtered += 1
      else:
        problems.append(problem)
    except (ValueError, RecursionError) as e:  # RecursionError: absurdly nested JSON
      malformed += 1
      first_error = first_error or f'line {number}: {_reason(e)}'
  if not problems and filtered and not malformed:
    raise DataError(
      f'none of the {filtered} rows of {path} has the values in filter or eval_filter of the part; check both.'
    )
  if not problems and not malformed:
    raise DataError(f'{path} is empty; pass a file with one JSON object per line.')
  if not problems:
    raise DataError(
      f'none of the {malformed} lines of {path} is a problem; the first bad one is {first_error}; '
      "each line must be a JSON object with 'problem' and 'answer'."
    )
  if malformed:
    logging.warning(
      '%s: dropped %d malformed of %d lines; the first is %s.', path, malformed, malformed + len(problems), first_error
    )
  return problems, malformed


def read_rows(path, check):
  """Reads the objects of a JSON Lines file, none of which may be malformed.

  Args:
    path: file, gzip-compressed where the name ends in .gz.
    check: function row -> None that raises ValueError saying what is wrong with the row.

  Returns:
    list of dicts.

  Raises:
    DataError: the file is missing or unreadable, or a line is not an object or fails the check; the message has its
      number.
  """
  return [row for _, row in stream_rows(path, check)]


def stream_rows(path, check):
  """Yields (line number from 1, row) one line at a time; otherwise like `read_rows`."""
  for number, line in raw_lines(path):
    try:
      row = parse(line)
      check(row)
    except (ValueError, RecursionError) as e:
      raise DataError(f'{path}, line {number}: {_reason(e)}; correct or remove the line.') from e
    yield number, row


def raw_lines(path):
  """Yields (line number from 1, bytes) of the lines that are not blank; `parse` takes the bytes.

  Raises:
    DataError: the file is missing or unreadable.
  """
  if os.path.isdir(path):
    raise DataError(f'{path} is a folder; pass the JSON Lines file inside it.')
  try:
    with gzip.open(path) if path.endswith('.gz') else open(path, 'rb') as f:
      for number, line in enumerate(f, 1):
        if number == 1:
          line = line.removeprefix(b'\xef\xbb\xbf')  # byte order mark
        if line.strip():
          yield number, line
  except FileNotFoundError:
    raise DataError(f'there is no file {path}; check the path.') from None
  except (gzip.BadGzipFile, EOFError, zlib.error) as e:
    raise DataError(f'{path} is not a complete gzip file ({e}); fetch or compress it again.') from None
  except OSError as e:
    raise DataError(f'{path} cannot be read ({e.strerror}); check its permissions.') from None


def parse(line) -> dict[str, Any]:
  """Parses a line to a dict. Raises ValueError that says in a few words what is wrong with it."""
  try:
    row = _parse(line)
  except (ValueError, RecursionError) as e:
    raise ValueError(_reason(e)) from e
  if not isinstance(row, dict):
    raise ValueError(f'a JSON {type(row).__name__}, not an object')
  return row


def normalise(row: dict[str, Any], default_id, answers=True):
  """Turns a row into a problem: a dict with the strings 'id', 'problem' and 'answer', and the row's other fields.

  GSM8K's own files have the problem as 'question', and an 'answer' that is a worked solution ending in '#### 1,234':
  these become 'problem', 'solution' and the answer '1234'. The mark is at the start of the text or after white space,
  and the answer is the rest of its line.

  Args:
    row: dict.
    default_id: id of a row that has none.
    answers: False if rows need no 'answer'; it is then ''.

  Raises:
    ValueError: says what is wrong with the row.
  """
  if not isinstance(row, dict):
    raise ValueError(f'a JSON {type(row).__name__}, not an object')
  row = dict(row) if answers else {'answer': None} | row
  if 'problem' not in row and 'question' in row:
    row['problem'] = row.pop('question')
  for field in ('problem', 'answer'):
    row[field] = _text(row, field) if answers or field == 'problem' or row[field] else ''
  if marked := _GSM8K_ANSWER.fullmatch(row['answer'].rstrip()):
    if marked[1].strip():
      row['solution'] = marked[1].rstrip()
    row['answer'] = re.sub(r'(?<=\d),(?=\d{3})', '', marked[2]).strip()
    row['answer'] = _text(row, 'answer')  # raises if nothing follows the mark
  row['id'] = default_id if row.get('id') is None else _text(row, 'id')
  return row


def text_key(problem):
  """The problem's text with white space collapsed. Problems with equal keys are the same problem for a split."""
  return ' '.join(problem['problem'].split())


def _text(row, field):
  value = row.get(field)
  if value is None:
    raise ValueError(f"no field '{field}'")
  if isinstance(value, bool) or not isinstance(value, (str, int, float)):
    raise ValueError(f"field '{field}' is a {type(value).__name__}, not a string or a number")
  text = str(value)
  if not text.strip():
    raise ValueError(f"field '{field}' is empty")
  return text


def _parse(line):
  row = json.loads(line.decode('utf-8'))
  # Python accepts NaN, 1e999 and lone surrogate escapes, which cannot be written to later files or tokenized.
  json.dumps(row, ensure_ascii=False, allow_nan=False).encode('utf-8')
  return row


def _reason(error):
  if isinstance(error, UnicodeDecodeError):
    return f'not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start})'
  if isinstance(error, UnicodeEncodeError):
    return 'has a lone surrogate, which UTF-8 cannot encode'
  if isinstance(error, json.JSONDecodeError):
    return f'not JSON ({error.msg} at column {error.colno})'
  if isinstance(error, RecursionError):
    return 'not JSON (nested too deeply)'
  return str(error)

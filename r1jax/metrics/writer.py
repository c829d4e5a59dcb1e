"""The records of a run on disk: metrics.jsonl, tb/ for TensorBoard and samples/step_NNNNNN.jsonl.

metrics.jsonl is the record that plots and the report are made from; tb/ repeats it. Both are flushed
at every write, so that a killed run loses at most the line it was writing.
"""
import json
import math
import os
import pathlib
import re
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

METRICS = 'metrics.jsonl'
SAMPLES = 'samples'


class RecordError(ValueError):
  """A record file that cannot be read; the message names file and line."""


class Writer:
  """Appends to the records of the run in `workdir`; makes the folder where there is none.

  A run that starts again in a folder it has used calls `resume` with its first step before it writes.
  """

  def __init__(self, workdir):
    self._dir = pathlib.Path(workdir)
    self._dir.mkdir(parents=True, exist_ok=True)
    self._lines = None            # both opened by the first write, after a possible `resume`
    self._events = None
    self._purge = None            # step from which TensorBoard forgets older event files

  def write(self, step, metrics):
    """Appends one line {'step': step, **metrics} and the same as one TensorBoard event.

    Args:
      step: int. A step may be written more than once; readers merge its lines.
      metrics: dict of name -> number (Python, NumPy or a JAX scalar). Non-finite becomes null in the
        line and is left out of the event.
    """
    if 'step' in metrics:
      raise ValueError("a metric is named 'step', which is the line's own key; rename it.")
    if self._lines is None:
      self._open()
    values = {name: float(value) for name, value in metrics.items()}
    self._lines.write(_dumps({'step': int(step), **values}) + '\n')
    self._lines.flush()
    finite = [summary_pb2.Summary.Value(tag=name, simple_value=value)
              for name, value in values.items() if math.isfinite(value)]
    self._event(step=int(step), summary=summary_pb2.Summary(value=finite))

  def samples(self, step, rows):
    """Writes samples/step_NNNNNN.jsonl whole or not at all, replacing an earlier one.

    Args:
      step: int.
      rows: dicts with id, problem, answer, response, reward, parts {name: score}, length (tokens),
        stop (why the response ended) and, where the caller knows it, correct (bool).

    Returns:
      The path.
    """
    path = _samples_path(self._dir, step)
    path.parent.mkdir(exist_ok=True)
    replace_text(path, ''.join(_dumps(row) + '\n' for row in rows))
    return path

  def resume(self, step):
    """Drops what a killed run recorded at steps >= `step`: its lines, its samples, and (on display) its events."""
    self.close()
    self._purge = int(step)
    if (self._dir / METRICS).exists():
      kept = [record for record in _read_lines(self._dir / METRICS) if record['step'] < step]
      replace_text(self._dir / METRICS, ''.join(_dumps(record) + '\n' for record in kept))
    for at, path in sample_files(self._dir).items():
      if at >= step:
        path.unlink()

  def close(self):
    for file in (self._lines, self._events):
      if file is not None:
        file.close()
    self._lines = self._events = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _open(self):
    # Unbuffered append of whole lines; a torn last line left by a killed run must not swallow the next one.
    path = self._dir / METRICS
    if path.exists() and not path.read_bytes().endswith(b'\n'):
      replace_text(path, ''.join(_dumps(record) + '\n' for record in _read_lines(path)))
    self._lines = open(path, 'a', encoding='utf-8', errors='backslashreplace', newline='\n')
    (self._dir / 'tb').mkdir(exist_ok=True)
    # EventsWriter names its file by the second; the suffix keeps two starts within one second apart.
    self._events = EventsWriter(str(self._dir / 'tb' / 'events'), f'.{time.time_ns()}')
    if self._purge is not None:
      self._event(step=self._purge, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

  def _event(self, **fields):
    self._events.write_event(event_pb2.Event(wall_time=time.time(), **fields))
    self._events.flush()


def read_metrics(workdir):
  """Reads metrics.jsonl.

  Returns:
    A list of {'step': int, name: float or None (was not finite), ...}, one for each step in ascending
    order, the lines of a step merged (a later value of a name replaces an earlier one).

  Raises:
    RecordError where the file is missing or a line other than a torn last one does not parse.
  """
  path = pathlib.Path(workdir) / METRICS
  if not path.exists():
    raise RecordError(f'{path} is missing; give the working directory of a run.')
  steps = {}
  for record in _read_lines(path):
    steps.setdefault(record['step'], {}).update(record)
  return [steps[step] for step in sorted(steps)]


def read_samples(workdir):
  """Reads every samples file; returns {step: list of rows}, ascending, empty where there are none."""
  return {step: _read_lines(path) for step, path in sample_files(workdir).items()}


def sample_files(workdir):
  """Returns {step: path} of the samples files, ascending; half-written ones are not among them."""
  found = {}
  for path in (pathlib.Path(workdir) / SAMPLES).glob('step_*.jsonl'):
    if match := re.fullmatch(r'step_(\d{6,})\.jsonl', path.name):
      found[int(match[1])] = path
  return dict(sorted(found.items()))


def replace_text(path, text):
  """Writes `text` to `path` so that a crash leaves the old content or the new, never a part."""
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.tmp')
  # A lone surrogate (a broken decode) becomes its JSON escape rather than an error.
  with open(temporary, 'w', encoding='utf-8', errors='backslashreplace', newline='\n') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _samples_path(workdir, step):
  return pathlib.Path(workdir) / SAMPLES / f'step_{int(step):06d}.jsonl'


def _dumps(value):
  return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value):
  """NumPy and JAX scalars to Python's, non-finite floats to None, through dicts and lists."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if hasattr(value, 'item'):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_lines(path):
  """Parses a JSONL file of objects; a last line without a line end that does not parse is dropped."""
  lines = path.read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines, 1):
    if not line:
      continue
    try:
      rows.append(json.loads(line))
    except ValueError as error:
      if number == len(lines):
        break
      raise RecordError(f'{path}, line {number}: {error}; mend or delete the line.') from error
  return rows

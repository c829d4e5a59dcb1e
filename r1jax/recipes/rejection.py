"""Rejection sampling: selects from many samples the rows to train on (DeepSeek-R1, stage 3).

Rows are read once, in order; what later rows are compared with is kept in a database on disk. After every chunk of
lines, the kept rows and the state of the pass are saved in one transaction, so a pass killed at any moment resumes
after its last chunk and ends with the same bytes.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import os
import pathlib
import sqlite3

from r1jax.data import reader
from r1jax.recipes import duplicates, filters

ROWS = 'rows.jsonl'  # in the folder of a pass
EXAMPLES = 5  # dropped rows per reason that the summary lists
_CACHE = 16  # MiB of the database that are cached in memory
_AHEAD = 2  # chunks that the workers may examine ahead of the one being decided on


class Pass:
  """One pass over sources, with its own folder.

  `state` is a dict that survives restarts: the current source and the lines read of it, the bytes and number of kept
  rows, all lines read, whether the pass is done, and the counts for the summary.

  Args:
    folder: created if needed; the kept rows go to ROWS in it.
    cfg: config.Curate.
    sources: list of filters.Source.
    index: contamination.Index.
    judge: function from a list of samples to their scores; a sample with a score above 0.5 passes. None if no
      kinds are judged.
  """

  def __init__(self, folder, cfg, sources, index, judge):
    self.folder, self.cfg, self.sources, self.index, self.judge = pathlib.Path(folder), cfg, sources, index, judge
    self.folder.mkdir(parents=True, exist_ok=True)
    self.rows = self.folder / ROWS
    self._db = sqlite3.connect(self.folder / 'seen.sqlite', isolation_level=None)
    for pragma in ('journal_mode = WAL', 'synchronous = NORMAL', f'cache_size = -{_CACHE << 10}'):
      self._db.execute(f'PRAGMA {pragma}')
    for table in (
      'state (name TEXT PRIMARY KEY, value TEXT)',
      'problems (digest BLOB PRIMARY KEY, kept INTEGER) WITHOUT ROWID',
    ):
      self._db.execute(f'CREATE TABLE IF NOT EXISTS {table}')
    self._kept = duplicates.KeptRows(self._db, cfg.filters.near)
    row = self._db.execute("SELECT value FROM state WHERE name = 'now'").fetchone()
    self.state = (
      json.loads(row[0])
      if row
      else {
        'source': 0,
        'line': 0,
        'bytes': 0,
        'rows': 0,
        'read': 0,
        'done': False,
        'sources': {},
        'kinds': {},
        'contaminated': {},
        'examples': {},
      }
    )

  def run(self, report=lambda state: None):
    """Runs from where the pass is to its end. report: called with `state` after each chunk. Returns `state`."""
    if self.state['done']:
      return self.state
    with open(self.rows, 'ab') as self._file, contextlib.closing(_ExaminerPool(self.cfg, self.index)) as examine:
      self._file.truncate(self.state['bytes'])
      while self.state['source'] < len(self.sources):
        source = self.sources[self.state['source']]
        chunks = examine(source, _read_chunks(source, self.state['line'], self.cfg.chunk))
        while not self._is_full(source) and (chunk := next(chunks, None)):
          self._decide_chunk(source, *chunk)
          report(self.state)
        with self._transaction():
          self.state |= {'source': self.state['source'] + 1, 'line': 0}
      with self._transaction():
        self.state['done'] = True
    return self.state

  def close(self):
    self._db.close()

  def _decide_chunk(self, source, count, findings):
    """Keeps or drops each row of a chunk of `count` lines, given their findings, and saves."""
    judged = [finding for finding in findings if finding.item is not None]
    scores = iter(self.judge([finding.item for finding in judged]) if judged else ())
    with self._transaction():
      self.state['line'] += count
      self.state['read'] += count
      for finding in findings:
        passed = finding.item is None or next(scores) > 0.5
        reason = finding.reason or ('' if passed else 'judge')
        reason = reason or self._kept.find(finding.text_digest, finding.signatures) or self._enough(source, finding)
        if reason:
          self._drop(source, finding, reason)
        else:
          self._keep(source, finding)

  def _counts(self, source):
    return self.state['sources'].setdefault(source.name, {'kept': 0, 'dropped': {}})

  def _drop(self, source, finding, reason):
    dropped = self._counts(source)['dropped']
    dropped[reason] = dropped.get(reason, 0) + 1
    if entry := finding.contaminated_by:
      self.state['contaminated'][entry] = self.state['contaminated'].get(entry, 0) + 1
    examples = self.state['examples'].setdefault(reason, [])
    if len(examples) < EXAMPLES:
      examples.append(finding.detail)

  def _keep(self, source, finding):
    row, kind = finding.row, finding.row.get('kind', 'not stated')
    self._kept.add(finding.text_digest, finding.signatures, self.state['rows'])
    data = json.dumps(row, ensure_ascii=False).encode() + b'\n'
    self._file.write(data)
    self.state['rows'] += 1
    self.state['bytes'] += len(data)
    self._counts(source)['kept'] += 1
    counts = self.state['kinds'].setdefault(kind, {'rows': 0, 'with_chain': 0, 'characters': 0, 'languages': {}})
    counts['rows'] += 1
    counts['with_chain'] += finding.has_chain
    counts['characters'] += len(row['response'])
    language = row.get('language', 'not stated')
    counts['languages'][language] = counts['languages'].get(language, 0) + 1

  def _enough(self, source, finding):
    """'enough' if the problem or the source already has all its rows, else ''; counts the sample for its problem."""
    if self._is_full(source):
      return 'enough'
    if not source.sampled:
      return ''
    query = 'INSERT INTO problems VALUES (?, 1) ON CONFLICT DO UPDATE SET kept = kept + 1 WHERE kept < ?'
    return '' if self._db.execute(query, (finding.problem_digest, self.cfg.per_prompt)).rowcount else 'enough'

  def _is_full(self, source):
    return bool(source.limit) and self.state['sources'].get(source.name, {'kept': 0})['kept'] >= source.limit

  @contextlib.contextmanager
  def _transaction(self):
    """Within, changes of rows, database and state are saved together or not at all."""
    self._db.execute('BEGIN')
    yield
    self._file.flush()
    os.fsync(self._file.fileno())
    self._db.execute("INSERT OR REPLACE INTO state VALUES ('now', ?)", (json.dumps(self.state),))
    self._db.execute('COMMIT')


def _read_chunks(source, done, size):
  """Yields lists of `size` (line number from 1, bytes) of a source, starting after line `done`."""
  lines = (line for path in source.paths for _, line in reader.raw_lines(path))
  lines = itertools.islice(enumerate(lines, 1), done, None)
  return iter(lambda: list(itertools.islice(lines, size)), [])


class _ExaminerPool:
  """Examines chunks with one or several processes; yields (number of lines, list of Finding) per chunk, in order."""

  def __init__(self, cfg, index):
    self._count, examiner_args = cfg.workers, (cfg.filters, cfg.judged, index)
    self._examine = filters.Examiner(*examiner_args)
    # Spawned rather than forked, as a fork would copy locks held by other threads of this process.
    self._pool = (
      concurrent.futures.ProcessPoolExecutor(
        cfg.workers, multiprocessing.get_context('spawn'), _start_worker, examiner_args
      )
      if cfg.workers > 1
      else None
    )

  def __call__(self, source, chunks):
    if not self._pool:
      for chunk in chunks:
        yield len(chunk), [self._examine(source, *line) for line in chunk]
      return
    ahead = collections.deque()
    for chunk in chunks:
      size = -(-len(chunk) // self._count)
      slices = [chunk[i : i + size] for i in range(0, len(chunk), size)]
      ahead.append((len(chunk), [self._pool.submit(_examine_in_worker, source, lines) for lines in slices]))
      if len(ahead) > _AHEAD:
        yield _wait(ahead.popleft())
    yield from map(_wait, ahead)

  def close(self):
    if self._pool:
      self._pool.shutdown(cancel_futures=True)


def _wait(submitted):
  count, futures = submitted
  return count, [finding for future in futures for finding in future.result()]


def _start_worker(*examiner_args):
  global _EXAMINER  # of this worker process
  _EXAMINER = filters.Examiner(*examiner_args)


def _examine_in_worker(source, lines):
  return [_EXAMINER(source, *line) for line in lines]

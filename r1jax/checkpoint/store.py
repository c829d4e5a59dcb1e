"""The checkpoints of one run: saved by orbax in the background, committed whole, checked before use.

A store is a directory of `step_000020/` directories. Orbax writes each under a temporary name and
renames it when all is there. The last file written before that rename is `manifest.json`: size and
SHA-256 of every file orbax needs to read the state back, the run's fingerprint and the layout of
the arrays. The rename therefore commits data and checksums together, so that a process killed at
any moment leaves either a whole step or a temporary directory that nobody looks at.
"""

import asyncio
import concurrent.futures
import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import traceback

import jax
import numpy as np
import orbax.checkpoint as ocp

from r1jax import config as config_lib

MANIFEST = 'manifest.json'
UNCHECKED = ('_CHECKPOINT_METADATA', 'commit_success.txt')  # orbax rewrites them at the rename; restoring reads neither
STEP = re.compile(r'step_(\d{6,})')
LEFT_OVER = re.compile(r'step_\d{6,}\.(orbax-checkpoint-tmp.*|deleting)')

_log = logging.getLogger('absl')  # where orbax logs too


class StoreError(ValueError):
  """A checkpoint that could not be written, or a store with none left to read."""


class Store:
  """Saves and restores the state of a run.

  Every process of a multi-host run makes the same calls, on a file system they share. Use as a
  context manager, or call `close()`: a save still in flight at exit is lost, though never half kept.
  """

  def __init__(self, directory, cfg, fingerprint):
    """Opens, and makes if there is none, the store in `directory`.

    Args:
      directory: path.
      cfg: config.Checkpoint; `keep` and `keep_every` (steps) are used here.
      fingerprint: nested dict of JSON values that must not change between saving and restoring.
    """
    self._directory = pathlib.Path(directory).resolve()
    self._directory.mkdir(parents=True, exist_ok=True)
    self._cfg = cfg
    self._fingerprint = json.loads(json.dumps(fingerprint))  # tuples become lists, as they will when read back
    self._handler = _Handler()
    self._saver = ocp.AsyncCheckpointer(self._handler)
    self._pool = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
    self._pending = None
    self._swept = False
    _hush()
    self._failure = None  # after the StoreError of a failed save there are no further saves
    self._damaged = set()  # steps found damaged by restore

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def save(self, step, state, notes=None):
    """Starts saving `state` as `step`; returns once donating or overwriting it can do no harm.

    Waits for the save before. A step that is already there and intact is left as it is, so that a
    loop may save its last step twice.

    Args:
      step: non-negative int.
      state: pytree of jax.Array and np.ndarray.
      notes: dict of JSON values that are kept with it; see `notes`.

    Raises:
      StoreError: this save could not begin, or an earlier one failed (disk full, say).
    """
    self.wait()
    if self._failure:
      raise self._failure
    path = self._path(step)
    if path.exists() and not _damage(path):
      return
    named, _ = _named(state)
    about = {'step': step, 'fingerprint': self._fingerprint, 'arrays': _layout(named)}
    about |= {'notes': notes} if notes else {}
    try:
      self._sweep()
      free, need = shutil.disk_usage(self._directory).free, sum(v.nbytes for v in named.values())
      if free < need:  # said before orbax fails half-way
        raise OSError(f'{os.strerror(errno.ENOSPC)}: the state has {need} bytes')
      # A loop under a transfer guard means this one copy to the host.
      with jax.transfer_guard('allow'):
        self._saver.save(path, args=_Save(named, about=about), force=True)
    except Exception as error:
      raise self._failed(step, error) from error
    self._pending = self._pool.submit(self._finish, step)

  def restore(self, abstract):
    """Reads the newest intact step; each damaged one passed over is a warning.

    Args:
      abstract: pytree of jax.ShapeDtypeStruct (or arrays) in the structure of the state. A leaf's
        `sharding` is where its array goes, None meaning the first local device; an np.ndarray leaf
        comes back as one.

    Returns:
      (state, step), or None where nothing has been saved.

    Raises:
      ConfigError: it was saved under another fingerprint, or holds other arrays; names what differs.
      StoreError: steps were saved and all are damaged.
    """
    self.wait()
    reasons = []
    for step in reversed(self._steps()):
      path = self._path(step)
      reason = _damage(path, self._check)
      if not reason:
        return self._read(path, abstract), step
      self._damaged.add(step)
      reasons.append(f'step {step}: {reason}')
      _log.warning('checkpoint %s is damaged (%s); trying the one before.', path, reason)
    if reasons:
      raise StoreError(
        f'no checkpoint in {self._directory} is intact ({"; ".join(reasons)}); '
        'restore the files from a copy, or remove the directory to start anew.'
      )
    return None

  def notes(self, step):
    """What `save` was given as notes for a step that `restore` has returned; None where it was given none."""
    return json.loads((self._path(step) / MANIFEST).read_text()).get('notes')

  def wait(self):
    """Blocks until the save in flight is committed. Raises StoreError if it failed."""
    if self._pending is not None:
      pending, self._pending = self._pending, None
      pending.result()

  def close(self):
    """Waits, then releases threads. Raises StoreError if the save in flight failed."""
    try:
      self.wait()
    finally:
      self._pool.shutdown()
      if not self._failure:  # it would raise what has been raised already
        self._saver.close()

  def _path(self, step):
    return self._directory / f'step_{step:06d}'

  def _steps(self):
    """Committed steps, ascending; damaged ones included."""
    matches = (STEP.fullmatch(p.name) for p in self._directory.iterdir())
    return sorted(int(m[1]) for m in matches if m)

  def _check(self, manifest):
    """Refuses a checkpoint of another run before its files are read."""
    lines = difference(manifest['fingerprint'], self._fingerprint)
    config_lib.require(
      not lines,
      f'the checkpoint of step {manifest["step"]} in {self._directory} was saved under '
      f'other settings: {"; ".join(lines)}; go back to those, or use another directory.',
    )

  def _read(self, path, abstract):
    named, treedef = _named(abstract)
    stored = json.loads((path / MANIFEST).read_text())['arrays']
    lines = difference(stored, _layout(named))
    more = f' and {len(lines) - 4} more' if len(lines) > 4 else ''
    config_lib.require(
      not lines,
      f'the checkpoint {path} holds other arrays: {"; ".join(lines[:4])}{more}; '
      'restore with the settings it was saved under.',
    )
    with jax.transfer_guard('allow'):
      arrays = self._handler.restore(
        path, args=_Restore(named, restore_args={k: _restore_args(v) for k, v in named.items()})
      )
    return jax.tree.unflatten(treedef, [arrays[k] for k in named])

  def _finish(self, step):
    """In the background: waits for orbax to commit `step`, then deletes what retention lets go."""
    try:
      self._saver.wait_until_finished()
      self._damaged.discard(step)
      self._prune()
    except Exception as error:
      raise self._failed(step, error) from error

  def _failed(self, step, error):
    """The one line for a save that failed; frees what it had written."""
    free = shutil.disk_usage(self._directory).free
    for path in self._directory.glob(f'{self._path(step).name}.*'):
      shutil.rmtree(path, ignore_errors=True)
    kept = [s for s in self._steps() if s not in self._damaged and s != step]
    last = f'step {kept[-1]} is the last complete one' if kept else 'none is complete yet'
    self._failure = StoreError(
      f'the checkpoint of step {step} could not be written to {self._directory}, which had {free} bytes free '
      f'({_one_line(error)}); {last}; make room or mend the cause, then run the same command again.'
    )
    return self._failure

  def _prune(self):
    if jax.process_index() != 0:
      return
    good = [s for s in self._steps() if s not in self._damaged]
    every = self._cfg.keep_every
    keep = set(good[-self._cfg.keep :]) | {s for s in good if every and s % every == 0}
    for step in self._steps():
      if step not in keep:
        _delete(self._path(step))
        self._damaged.discard(step)

  def _sweep(self):
    """Removes what a killed or failed process left; once, by a process that saves: one that only reads must not."""
    if not self._swept and jax.process_index() == 0:
      for path in self._directory.iterdir():
        if LEFT_OVER.fullmatch(path.name):
          shutil.rmtree(path, ignore_errors=True)
    self._swept = True


def newest(directory, step=None):
  """(path, manifest) of the newest intact step in a store's directory, or of `step`.

  Raises:
    StoreError: there is none, or it is damaged.
  """
  directory, reasons = pathlib.Path(directory).resolve(), []
  found = sorted((int(m[1]), p) for p in directory.iterdir() if (m := STEP.fullmatch(p.name)))
  if step is not None and step not in dict(found):
    raise StoreError(f'{directory} has no step {step}; it has {", ".join(str(n) for n, _ in found) or "none"}.')
  for number, path in reversed(found):
    if step in (None, number):
      reason = _damage(path)
      if not reason:
        return path, json.loads((path / MANIFEST).read_text())
      reasons.append(f'step {number}: {reason}')
  raise StoreError(
    f'no checkpoint in {directory} is intact ({"; ".join(reasons) or "it is empty"}); '
    'give the folder of a run that has saved one.'
  )


def read_part(path, abstract):
  """The arrays of one step that `abstract` names, cast to its dtypes; the others are not read.

  Args:
    path: of a step, as `newest` gives it.
    abstract: dict, a part of the state's structure, of jax.ShapeDtypeStruct with shardings.

  Raises:
    ConfigError: the step holds no such arrays.
  """
  named, treedef = _named(abstract)
  stored = json.loads((path / MANIFEST).read_text())['arrays']
  shape = lambda layout: layout[layout.index('[') :]
  wanted = {k: shape(v) for k, v in _layout(named).items()}
  lines = difference({k: shape(stored[k]) for k in wanted.keys() & stored.keys()}, wanted)
  config_lib.require(not lines, f'the checkpoint {path} holds other arrays: {"; ".join(lines[:4])}.')
  with jax.transfer_guard('allow'):
    arrays = _Handler().restore(
      path, args=_Restore(named, restore_args={k: _restore_args(v) for k, v in named.items()}, partial_restore=True)
    )
  return jax.tree.unflatten(treedef, [arrays[k] for k in named])


class _Handler(ocp.PyTreeCheckpointHandler):
  """Orbax's own, plus the manifest, written as the last thing before the rename that commits a step."""

  about = None  # the manifest, less the files

  async def async_save(self, directory, args):
    self.about = args.about
    return await super().async_save(directory, args=args)

  def finalize(self, directory):
    super().finalize(directory)
    root = pathlib.Path(directory)
    files = {
      str(p.relative_to(root)): _digest(p) for p in sorted(root.rglob('*')) if p.is_file() and p.name not in UNCHECKED
    }
    body = {**self.about, 'files': files}
    (root / MANIFEST).write_text(json.dumps({**body, 'sha256': _sha256(body)}))


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.PyTreeSave):
  about: dict = dataclasses.field(kw_only=True)


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.PyTreeRestore):
  pass


def _damage(path, check=lambda manifest: None):
  """What is wrong with the files of a committed step, in words; '' if nothing is.

  `check(manifest)` is called once the manifest is known to be sound, before the other files are read.
  """
  try:
    if not (path / MANIFEST).is_file():  # a pipe or a device may never end
      return f'{MANIFEST} is missing, or no file'
    body = json.loads((path / MANIFEST).read_text())
    digest = body.pop('sha256')
    if digest != _sha256(body):
      return f'{MANIFEST} does not match its own checksum'
    if not _is_manifest(body):
      return f'{MANIFEST} does not say what a checkpoint holds'
    config_lib.flat(body)
  except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
    return f'{MANIFEST} cannot be read: {_one_line(error)}'
  check(body)
  for name, (size, sha256) in body['files'].items():
    file = path / name
    try:
      if '..' in file.parts or path not in file.parents or file.exists() and not file.is_file():
        return f'{name} is no file of it'
      actual = file.stat().st_size
      if actual != size:
        return f'{name} has {actual} bytes, not {size}'
      if _digest(file)[1] != sha256:
        return f'{name} does not match its checksum'
    except OSError as error:
      return f'{name} cannot be read: {_one_line(error)}'
  return ''


def _is_manifest(body):
  """Whether a manifest has what is read from it, of the right types."""
  texts = lambda found, ok: isinstance(found, dict) and all(map(ok, found.values()))
  return (
    isinstance(body.get('step'), int)
    and isinstance(body.get('fingerprint'), dict)
    and texts(body.get('arrays'), lambda layout: isinstance(layout, str) and '[' in layout)
    and texts(body.get('files'), lambda file: isinstance(file, list) and list(map(type, file)) == [int, str])
    and isinstance(body.get('notes', {}), dict)
  )


def _digest(path):
  with path.open('rb') as file:
    return [path.stat().st_size, hashlib.file_digest(file, 'sha256').hexdigest()]


def _sha256(body):
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _delete(path):
  """Deletes a step; the rename first, so that a kill half-way leaves no step with files missing."""
  gone = path.with_name(path.name + '.deleting')
  path.rename(gone)
  shutil.rmtree(gone)


def _named(tree):
  """({dotted name: leaf}, treedef). Orbax sees only this flat dict: None, namedtuples and dataclasses stay with us."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator='.') or 'state': leaf for path, leaf in leaves}
  if len(named) != len(leaves):
    raise ValueError(
      f'{len(leaves)} arrays of the state have only {len(named)} distinct names; rename keys that contain dots.'
    )
  for name, leaf in named.items():
    if not isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
      raise TypeError(f'{name} of the state is a {type(leaf).__name__}; make it an array.')
  return named, treedef


def _layout(named):
  return {k: f'{v.dtype}{list(v.shape)}' for k, v in named.items()}


def _restore_args(leaf):
  if isinstance(leaf, np.ndarray):
    return ocp.RestoreArgs(restore_type=np.ndarray)
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def difference(saved, now):
  """One phrase for each key of two nested dicts whose values differ, both values given."""
  saved, now = config_lib.flat(saved), config_lib.flat(now)

  def show(values, key):
    return repr(values[key]) if key in values else 'absent'

  return [
    f'{key} was {show(saved, key)}, is {show(now, key)}'
    for key in sorted(saved.keys() | now.keys())
    if show(saved, key) != show(now, key)
  ]


def _one_line(error):
  """The innermost cause, less what TensorStore appends; of a long message the end, where the reason is."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = ' '.join(str(error).split(' [')[0].split()) or type(error).__name__
  return text if len(text) <= 200 else '...' + text[-100:]


def _hush():
  """Keeps out of sight what a failed save leaves behind beside its error, which `wait` raises in one line.

  For each array that was being written a task that nobody asks any more, and a callback to an event loop that is gone.
  """
  _log.addFilter(_not_orbax_traceback)
  logging.getLogger('asyncio').addFilter(_not_orbax_task)
  before = sys.unraisablehook
  if getattr(before, 'hushes', False):
    return

  def hook(found):
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(found.exc_traceback)}
    if str(found.exc_value) != 'Event loop is closed' or not files <= {asyncio.base_events.__file__}:
      before(found)

  hook.hushes, sys.unraisablehook = True, hook


def _not_orbax_task(record):
  text = record.getMessage()
  frames = traceback.walk_tb(record.exc_info[2]) if record.exc_info else ()
  return not (
    'never retrieved' in text and ('orbax' in text or any('/orbax/' in frame.f_code.co_filename for frame, _ in frames))
  )


def _not_orbax_traceback(record):
  """Drops the traceback that orbax logs for an error which `wait` raises in one line."""
  return not (record.exc_info and '/orbax/' in record.pathname)

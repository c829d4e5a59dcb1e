"""How a store uses orbax: a handler that also writes the manifest, and filters for what a failed save would print."""

import asyncio
import dataclasses
import logging
import sys
import traceback

import jax
import numpy as np
import orbax.checkpoint as ocp

from r1jax.checkpoint import manifest

log = logging.getLogger('absl')  # where orbax logs too


class Handler(ocp.PyTreeCheckpointHandler):
  """Orbax's own, plus the manifest, which is written last before the rename that commits a step."""

  _contents = None

  async def async_save(self, directory, args):
    self._contents = args.contents
    return await super().async_save(directory, args=args)

  def finalize(self, directory):
    super().finalize(directory)
    manifest.write(directory, self._contents)


@ocp.args.register_with_handler(Handler, for_save=True)
@dataclasses.dataclass
class SaveArgs(ocp.args.PyTreeSave):
  """Attribute `contents`: the manifest without its files."""

  contents: dict = dataclasses.field(kw_only=True)


@ocp.args.register_with_handler(Handler, for_restore=True)
@dataclasses.dataclass
class _RestoreArgs(ocp.args.PyTreeRestore):
  pass


def restore(handler, path, abstract, **options):
  """Reads the arrays of the step at `path`.

  Args:
    handler: Handler.
    abstract: {name: jax.ShapeDtypeStruct or array}; arrays come back with its shardings and dtypes.
    options: of ocp.args.PyTreeRestore.

  Returns:
    {name: array}.
  """
  restore_args = {name: _restore_args(leaf) for name, leaf in abstract.items()}
  with jax.transfer_guard('allow'):
    return handler.restore(path, args=_RestoreArgs(abstract, restore_args=restore_args, **options))


def _restore_args(leaf):
  if isinstance(leaf, np.ndarray):
    return ocp.RestoreArgs(restore_type=np.ndarray)
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def silence_failed_saves():
  """Hides what a failed save prints besides the error that `Store.wait` raises in one line.

  For each array that was being written, orbax leaves a task whose exception nobody retrieves and a callback to an event
  loop that is closed.
  """
  log.addFilter(_not_orbax_traceback)
  logging.getLogger('asyncio').addFilter(_not_orbax_task)
  previous = sys.unraisablehook
  if getattr(previous, 'silences_orbax', False):
    return

  def hook(unraisable):
    files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(unraisable.exc_traceback)}
    if str(unraisable.exc_value) != 'Event loop is closed' or not files <= {asyncio.base_events.__file__}:
      previous(unraisable)

  hook.silences_orbax, sys.unraisablehook = True, hook


def _not_orbax_task(record):
  text = record.getMessage()
  frames = traceback.walk_tb(record.exc_info[2]) if record.exc_info else ()
  return not (
    'never retrieved' in text and ('orbax' in text or any('/orbax/' in frame.f_code.co_filename for frame, _ in frames))
  )


def _not_orbax_traceback(record):
  """Drops the traceback that orbax logs for an error which `Store.wait` raises in one line."""
  return not (record.exc_info and '/orbax/' in record.pathname)

"""Checkpoints of a run (`Store`), and models as directories (`open_model`, `hf`)."""

from r1jax.checkpoint.adapters import Adapter, open_peft
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.checkpoint.source import CHECKPOINTS, Source, load_with_head, open_model
from r1jax.checkpoint.store import Store, StoreError

__all__ = [
  'CHECKPOINTS',
  'Adapter',
  'ModelDirError',
  'Source',
  'Store',
  'StoreError',
  'load_with_head',
  'open_model',
  'open_peft',
]

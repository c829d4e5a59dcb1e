"""Checkpoints of a run (`Store`) and models as directories (`save_model`, `load_model`)."""
from r1jax.checkpoint.model_dir import ModelDirError, check_tensors, flatten, load_model, save_model, unflatten
from r1jax.checkpoint.store import Store, StoreError

__all__ = ['ModelDirError', 'Store', 'StoreError', 'check_tensors', 'flatten', 'load_model', 'save_model', 'unflatten']

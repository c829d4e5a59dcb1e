"""Training of low-rank adapters (`models.lora`) by any loss function of whole models."""

import dataclasses
from typing import Any

from r1jax import models
from r1jax.models import lora
from r1jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class LoRALoss:
  """A loss function of an adapter, as `accumulate` takes it, by one of whole models.

  The first of `frozen` is the base, of which nothing is trained; the rest is handed on.

  Attributes:
    inner: loss function of the adapted model's parameters.
  """

  inner: Any

  @property
  def options(self):
    return self.inner.options

  def __call__(self, adapter, batch, totals, frozen):
    rest = {name: x for name, x in frozen.items() if name != 'base'}
    value, metrics, params = self.inner(frozen['base'].attach(adapter), batch, totals, *([rest] if rest else []))
    return value, metrics, lora.adapter_of(params)


def wrap(cfg, loss_fn):
  """The loss function of what a run trains. cfg: config.LoRA. loss_fn: of whole models."""
  return LoRALoss(loss_fn) if cfg.rank else loss_fn


def whole(loss_fn):
  """The loss function of whole models in a Trainer's, which takes what `TrainState.model` gives."""
  return loss_fn.inner if isinstance(loss_fn, LoRALoss) else loss_fn


def specs(cfg, model):
  """Specs of what a run trains: an adapter, or the whole model. cfg: config.LoRA. model: ModelConfig."""
  whole_model = models.specs(model)
  return lora.adapter_specs(whole_model, cfg.rank, cfg.targets) if cfg.rank else whole_model


def abstract_state(cfg, model, optimizer, mesh, param_dtype, *reference):
  """`state.abstract_state` of a run, its base included.

  Args:
    cfg: config.LoRA. model: ModelConfig. optimizer: over `specs`.
    param_dtype: of the whole model; adapters are float32.
    reference: dtype and memory of the reference policy. With LoRA it is the base, whatever they are.
  """
  if not cfg.rank:
    return state_lib.abstract_state(models.specs(model), optimizer, mesh, param_dtype, *reference)
  base = state_lib.abstract_state(models.specs(model), None, mesh, param_dtype).params
  adapter = state_lib.abstract_state(specs(cfg, model), optimizer, mesh)
  return adapter.replace(frozen={'base': lora.Base(base, cfg.alpha / cfg.rank)})

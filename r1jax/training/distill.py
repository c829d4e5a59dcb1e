"""On-policy distillation: the policy samples, teachers score each of its tokens over the whole vocabulary.

The policy's divergence from them is a term of its loss, alone or beside the rewards' (GKD, arXiv 2306.13649; MiniLLM,
arXiv 2306.08543). A teacher runs inside the update's program, on the microbatch at hand: its hidden states, which are
larger than all else of a rollout, never leave the device, and logits exist for a chunk of positions only.
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1jax import losses, models
from r1jax.losses import reductions
from r1jax.training import lora, policy
from r1jax.training import state as state_lib

KL, SHARE = 'distill/kl/', 'distill/share/'  # before a teacher's name


@dataclasses.dataclass(frozen=True)
class Teaching(policy.PolicyLoss):
  """A PolicyLoss with teachers, whose parameters are `frozen['teachers']`, a list.

  Attributes:
    teachers: their ModelConfigs, with as many rows of the vocabulary as the policy (see `fitted`).
    names: a name of each, for metrics.
    vocab: rows that all models have.
    coef, objective: as in config.Distill.
  """

  teachers: tuple[models.ModelConfig, ...]
  names: tuple[str, ...]
  vocab: int
  coef: float
  objective: str

  def __call__(self, params, batch, totals, frozen):
    found = self.logprobs(params, batch)
    value, metrics, params = self.of_logprobs(found, batch, totals)
    divergence = self.divergence(found, batch, frozen['teachers'])
    taught = batch.loss_mask & (batch.teacher >= 0)[:, None, None]
    rows = batch.replace(loss_mask=batch.loss_mask.reshape(-1, batch.loss_mask.shape[-1]))
    cost = reductions.keep(divergence, taught).reshape(rows.loss_mask.shape)
    term = self.coef * losses.AVERAGES[self.loss.averaged_over](cost, rows, totals)
    for k, name in enumerate(self.names):
      mine = taught & (batch.teacher == k)[:, None, None]
      metrics[KL + name] = reductions.token_sum(divergence, mine) / totals.tokens
      metrics[SHARE + name] = mine.sum() / totals.tokens
    metrics['policy/loss'] += term
    return value + term, metrics, params

  def divergence(self, found, batch, teachers):
    """f32[P, G, T]: the policy's divergence from each prompt's teacher. found: policy.LogProbs."""
    p, g, t = batch.tokens.shape
    flat = lambda x: x.reshape(p, g * t, -1)
    hidden = [
      jax.lax.cond(
        (batch.teacher == k).any(),
        lambda params, model=model: self._hidden(params, model, batch),
        lambda _, model=model: jnp.zeros((p, g, t, model.embed), self.options.dtype),
        params,
      )
      for k, (model, params) in enumerate(zip(self.teachers, teachers, strict=True))
    ]
    return models.divergence(
      flat(found.hidden),
      models.unembedding(found.params),
      tuple(map(flat, hidden)),
      tuple(map(models.unembedding, teachers)),
      batch.teacher,
      self.objective,
      self.vocab,
      self.logprobs.logit_chunk,
      self.options.mesh,
      self.logprobs.temperature,
    ).reshape(p, g, t)

  def _hidden(self, params, model, batch):
    prompts, responses = (batch.prompts, batch.prompt_lengths), (batch.tokens, batch.lengths)
    return models.response_hidden(params, model, *prompts, *responses, self.options).hidden


def with_teachers(trainer, cfg, model, teachers, names):
  """The Trainer of `policy.make_trainer` with a config.RL's distillation.

  Args:
    model: ModelConfig of the policy. teachers: those of the teachers, as they are stored. names: for metrics.
  """
  policy_loss, shapes = lora.whole(trainer.loss_fn), tuple(fitted(teacher, model) for teacher in teachers)
  vocab = min(of.vocab for of in (model, *teachers))
  settings = (shapes, tuple(names), vocab, cfg.distill.coef, cfg.distill.objective)
  teaching = Teaching(policy_loss.logprobs, policy_loss.loss, *settings)
  return dataclasses.replace(trainer, loss_fn=lora.wrap(cfg.lora, teaching))


def fitted(teacher, model):
  """The ModelConfig of a teacher with as many rows in its tables as the policy's; see `load`."""
  return dataclasses.replace(teacher, vocab=model.vocab)


def abstract(teacher, cfg, mesh):
  """A teacher's parameters as ShapeDtypeStructs, in the dtype of the computation. teacher: ModelConfig."""
  return state_lib.abstract_state(models.specs(teacher), None, mesh, cfg.model.dtype).params


def load(source, model, cfg, mesh):
  """A teacher's parameters, their tables cut or filled up with zeros to the rows of the policy's.

  Models of one tokenizer may differ in the rows that only fill up their tables: Qwen2.5 7B has 152,064 of them, the
  smaller ones 151,936.

  Args:
    source: checkpoint.Source. model: ModelConfig of the policy. cfg: config.RL.
  """
  params, like = source.load(abstract(source.cfg, cfg, mesh)), abstract(fitted(source.cfg, model), cfg, mesh)
  if source.cfg.vocab == model.vocab:
    return params

  def fit(x, like):
    kept = x[tuple(map(slice, like.shape))]
    return jnp.pad(kept, [(0, n - m) for n, m in zip(like.shape, kept.shape)])

  tables = {name: params[name] for name in ('embed', 'unembed') if name in params}
  fit_all = lambda tables: {name: fit(x, like[name]) for name, x in tables.items()}
  return params | jax.jit(fit_all, out_shardings={name: like[name].sharding for name in tables})(tables)


def by_token(metrics):
  """Metrics of an update with each teacher's divergence as a mean over the tokens that it scores.

  Left out where it scores none. With several teachers `distill/kl` is the mean over the tokens of all.
  """
  shares = {name.removeprefix(SHARE): x for name, x in metrics.items() if name.startswith(SHARE)}
  kl = {name: metrics[KL + name] for name in shares}
  rest = {name: x for name, x in metrics.items() if not name.startswith((KL, SHARE))}
  if not sum(shares.values()):
    return rest
  rest['distill/kl'] = sum(kl.values()) / sum(shares.values())
  return rest | ({KL + name: kl[name] / x for name, x in shares.items() if x} if len(shares) > 1 else {})

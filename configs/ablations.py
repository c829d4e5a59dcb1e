"""Recipes that `experiments.ablation` runs with several seeds, to compare some of their stages. docs/results.md says
what came out.

  python -m experiments.ablation --config configs/ablations.py:objectives --workdir W

Hardware: 2 CPU cores. All numbers ours.
"""
from configs import common, r1_zero, stages, toy_base


def _arm(about, **settings):
  """R1-Zero on the quickstart's world. settings: section -> what is changed in it."""
  config = r1_zero.get_config('toy')
  config.model.path = 'stage:base'
  config.eval.update(every=10, samples=4, final_samples=4)  # often, to see when a level is reached
  for section, changes in settings.items():
    config[section].update(changes)
  return stages.stage('rl', config, about)


def _ablation(**arms):
  base = stages.stage('pretrain', toy_base.get_config('trial'), 'The base model')
  return stages.recipe(dict(base=base, **arms), ablation=dict(arms=tuple(arms), seeds=(0, 1, 2)))


def _objectives():
  """Objectives, each with its own defaults, with the data, steps and learning rate of the quickstart."""
  ppo = lambda gae_lambda: _arm(f'PPO with lambda {gae_lambda}', loss=dict(name='grpo', advantage='gae', kl_coef=0.0),
                                critic=dict(gae_lambda=gae_lambda, learning_rate=1e-3, warmup=5))
  names = ('grpo', 'dr_grpo', 'dapo', 'gspo', 'cispo')
  return _ablation(
      **{name: _arm(f'loss.name {name}', loss=dict(name=name)) for name in names},
      rloo=_arm('REINFORCE with the leave-one-out baseline', loss=dict(name='reinforce')),
      ppo_095=ppo(0.95),
      ppo_1=ppo(1.0))


def _off_policy():
  """Eight optimizer steps on each rollout, and what is done about the policy having moved by then."""
  plain = dict(name='reinforce', advantage='group', average='token')
  off = lambda about, **loss: _arm(about, loss=loss, train=dict(minibatches=8))
  return _ablation(
      on_policy=_arm('One optimizer step', loss=plain),
      uncorrected=off('Nothing', **plain),
      clipped=off('A clipped ratio', name='dapo'),
      truncated=off('A truncated importance weight', name='cispo'),
      masked=off('Tokens whose probability has moved by more than 0.1 are masked', **plain, tv_mask=0.1),
      sequence_masked=off('Bad responses that the policy has left are masked', **plain, sequence_mask=0.05))


def _lora():
  """Adapters of three ranks beside training the whole model.

  Adapters have ten times the learning rate ("LoRA Without Regret", Thinking Machines 2025), and no KL term anywhere.
  """
  full = _arm('The whole model', loss=dict(kl_coef=0.0))
  rate = 10 * full.config.optimizer.learning_rate
  ranks = {f'rank_{rank}': _arm(f'LoRA of rank {rank}', loss=dict(kl_coef=0.0), lora=dict(rank=rank),
                                optimizer=dict(learning_rate=rate)) for rank in (1, 8, 32)}
  return _ablation(full=full, **ranks)


VARIANTS = {'objectives': _objectives, 'off_policy': _off_policy, 'lora': _lora}


def get_config(variant='objectives'):
  return common.choose(VARIANTS, variant)

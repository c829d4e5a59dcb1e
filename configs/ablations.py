"""Recipes that `experiments.ablation` runs with several seeds, to compare some of their stages; docs/ablations.md
describes them.

  python -m experiments.ablation --config configs/ablations.py:objectives --workdir W

Hardware: 2 CPU cores. All numbers ours.
"""
from ml_collections import ConfigDict

from configs import (
  common,
  distill,
  evaluation,
  generate,
  label_steps,
  r1,
  r1_zero,
  reflection,
  reward_model,
  search,
  sft,
  stages,
  toy_base,
)


def _arm(about, **settings):
  """R1-Zero on the quickstart's world, in fewer steps. settings: section -> what is changed in it."""
  config = r1_zero.get_config('toy')
  config.steps, config.model.path = 96, 'stage:base'
  config.eval.update(every=8, samples=4, final_samples=4)  # often, to see when a level is reached
  for section, changes in settings.items():
    config[section].update(changes)
  return stages.stage('rl', config, about)


def _ablation(**arms):
  base = stages.stage('pretrain', toy_base.get_config('trial'), 'The base model')
  return stages.recipe(dict(base=base, **arms), ablation=dict(arms=tuple(arms), seeds=(0, 1, 2)))


def _ppo():
  return {f'ppo_{name}': _arm(f'PPO with lambda {gae_lambda}', loss=dict(name='grpo', advantage='gae', kl_coef=0.0),
                              critic=dict(gae_lambda=gae_lambda, learning_rate=1e-3, warmup=5))
          for name, gae_lambda in (('095', 0.95), ('1', 1.0))}


def _objectives():
  """Objectives, each with its own defaults, with the data and learning rate of the quickstart. Five steps of PPO
  are for its critic alone."""
  names = ('grpo', 'dr_grpo', 'dapo', 'gspo', 'cispo')
  return _ablation(
      **{name: _arm(f'loss.name {name}', loss=dict(name=name)) for name in names},
      rloo=_arm('REINFORCE with the leave-one-out baseline', loss=dict(name='reinforce')), **_ppo())


def _grpo_vs_ppo():
  """GRPO beside PPO, without a KL term in either."""
  return _ablation(grpo=_arm('GRPO', loss=dict(name='grpo', kl_coef=0.0)), **_ppo())


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


def _group_size():
  """Samples of a prompt, at 256 responses a step."""
  rollout = lambda n: dict(prompts=256 // n, samples=n, chunk=0)
  return _ablation(**{f'group_{n}': _arm(f'{n} samples of {256 // n} prompts', rollout=rollout(n))
                      for n in (4, 8, 16, 64)})


def _kl_and_reference_refresh():
  """The KL coefficient, and whether the reference is replaced by the policy."""
  return _ablation(
      none=_arm('No KL term', loss=dict(kl_coef=0.0)),
      paper=_arm("The paper's coefficient, 0.001", loss=dict(kl_coef=1e-3)),
      strong=_arm('0.05', loss=dict(kl_coef=5e-2)),
      strong_refreshed=_arm('0.05, a new reference every 40 steps', loss=dict(kl_coef=5e-2),
                            train=dict(reference_refresh=40)))


def _std_and_length_normalisation():
  """What Dr. GRPO leaves out of GRPO: the division by the group's deviation, and by each response's length."""
  arms = {f'{"std" if std else "centred"}_{average}': _arm(
      f'loss.average={average}, loss.advantage={advantage}', loss=dict(advantage=advantage, average=average))
          for std, advantage in ((True, 'group'), (False, 'group_centred')) for average in ('response', 'token')}
  return _ablation(**arms)


def _clip_range():
  """Clipping, with four optimizer steps on a rollout, as one alone clips nothing."""
  arms = {'tight': (0.05, 0.05), 'usual': (0.2, 0.2), 'higher': (0.2, 0.28), 'paper': (10.0, 10.0)}
  return _ablation(**{name: _arm(f'From 1 - {low} to 1 + {high}', loss=dict(clip_low=low, clip_high=high),
                                 train=dict(minibatches=4)) for name, (low, high) in arms.items()})


def _tool_reward_shape():
  """A reward for a response with a check and a conclusion, beside that for being right, on the world `chain`."""
  base, arms = stages.stage('pretrain', toy_base.get_config('chain'), 'The base model'), {}
  for name, weight in (('none', 0.0), ('light', 0.2), ('heavy', 1.0)):
    c = r1_zero.get_config('toy_chain')
    c.steps, c.model.path = 96, 'stage:base'
    c.eval.update(every=8, samples=4, final_samples=4)
    c.reward.parts.sections = weight
    c.reward.options = ConfigDict(dict(sections=dict(headings=('check|检查', 'so|所以'), where='response')))
    arms[name] = stages.stage('rl', c, f'Weight {weight:g} of the sections')
  return stages.recipe(dict(base=base, **arms), ablation=dict(
      arms=tuple(arms), seeds=(0, 1, 2), metrics=('eval/pass@1', 'reward/sections/mean', 'eval/length_mean')))


def _reflection():
  """What reflection is worth to the base, which looks twice now and then, and to R1-Zero, which does so often."""
  c = reflection.get_config('toy')
  c.update(problems=64, temperatures=(0.6, 1.0))
  c.data.source = 'trial'
  c.rollout.update(max_prompt=32, max_response=160)
  c.reward.update(parts=ConfigDict(dict(signs=1.0)), accuracy='signs')
  c.models = ConfigDict(dict(base='stage:base', zero='stage:zero'), sort_keys=False)
  out = _ablation(zero=_arm('R1-Zero'))
  return _with_study(out, reflection=stages.stage('reflection', c, 'What reflection is worth'))


# ---- with models of the toy R1 ------------------------------------------------------------------------


def _keep(mapping, names):
  for name in [name for name in mapping if name not in names]:
    del mapping[name]


def _with_study(recipe, **studies):
  """A recipe that ends with stages whose results are pooled over the seeds."""
  for name, study in studies.items():
    recipe.stages[name] = study
  recipe.ablation.studies = tuple(studies)
  return recipe


def _of_r1(arms=(), others=(), metrics=('eval/pass@1',)):
  """Stages of the toy R1, and those that they need. arms: RL, to compare. others: whose models studies take."""
  c = r1.get_config('toy')
  needed = {*arms, *others}
  for name, stage in reversed(c.stages.items()):
    if name in needed:
      text = stage.config.to_json()
      needed |= {other for other in c.stages if f'"stage:{other}"' in text or f'"stage:{other}/' in text}
  _keep(c.stages, needed)
  for stage in c.stages.values():
    stage.evaluation = ''
  return stages.recipe(c.stages, ablation=dict(arms=arms, seeds=(0, 1, 2), metrics=metrics))


def _asked(about, tasks, *models):
  """An evaluation of models on tasks, as a stage."""
  c = evaluation.get_config('small')
  c.tasks = ConfigDict(tasks, sort_keys=False)
  c.models = ConfigDict({model: f'stage:{model}' for model in models}, sort_keys=False)
  c.rollout.update(prompts=64, max_prompt=192, max_response=128, slots=64)
  return stages.stage('tasks', c, about)


GRADERS = dict(chain='math', logic='logic', code='code')


def _task(kind, **settings):
  """Problems of one kind of the toy R1's."""
  options = dict(logic=dict(where='tags'), code=dict(time_limit=2.0)).get(kind, {})
  return evaluation.task(source=f'r1_{kind}', template='plain', grader=GRADERS[kind], options=options, problems=128,
                         samples=4, split='language', **settings)


def _cold_start():
  """RL on the base against RL after a cold start, which R1-Zero's own drafts have gone into."""
  return _of_r1(('zero', 'control'), metrics=('eval/pass@1', 'eval/format', 'eval/length_mean'))


def _language_reward():
  """RL after the cold start, with and without the reward for one language."""
  return _of_r1(('control', 'reasoning'), metrics=('eval/pass@1', 'eval/language_consistency'))


def _few_shot():
  """The base, R1-Zero and R1 with up to three problems and their bare answers before each problem."""
  models, response = ('base', 'zero', 'reasoning'), '<answer> {answer} </answer>'
  tasks = {f'shots_{n}': _task('chain', few_shot=dict(count=n, response=response)) for n in range(4)}
  return _with_study(_of_r1(others=models), shots=_asked('Answered problems before each problem', tasks, *models))


def _distilled(rates):
  """A student by SFT on R1's responses, by RL, and by on-policy distillation. rates: {stage: its learning rates}."""
  c = _of_r1(others=('student', 'student_rl', 'reasoning'))
  on_policy = distill.get_config('toy_on_policy')
  on_policy.model.path, on_policy.distill.path = 'stage:student_base', 'stage:reasoning'
  c.stages.student_on_policy = stages.stage('rl', on_policy, 'On-policy distillation')
  models = {}
  for way, values in rates.items():
    stage = c.stages[way]
    del c.stages[way]
    for rate in values:
      models[f'{way}_{rate:g}'.replace('.', '_')] = ours = stage.copy_and_resolve_references()
      ours.config.optimizer.learning_rate = rate
  c.stages.update(models)
  tasks = {kind: _task(kind) for kind in GRADERS}
  return _with_study(c, students=_asked('The students', tasks, *models, 'student_base'))


def _distill_rates():
  """Rates to choose from for `distill_vs_rl`, on a seed of their own."""
  c = _distilled(dict(student=(1e-3, 3e-3, 1e-2), student_rl=(2e-4, 5e-4, 1e-3), student_on_policy=(3e-4, 1e-3, 3e-3)))
  c.ablation.seeds = (0,)
  return c


def _distill_vs_rl():
  """With seeds on which nothing was chosen."""
  c = _distilled(dict(student=(3e-3,), student_rl=(5e-4,), student_on_policy=(1e-3,)))
  c.ablation.seeds = (10, 11, 12)
  return c


# ---- with learned rewards, on the world `nested` -------------------------------------------------------


def _learned(objective, model, data):
  """A reward model that learns from samples of the world `nested`, beginning as a policy or as another reward model."""
  c = reward_model.get_config({'points': 'toy_safety', 'steps': 'toy_process'}[objective])
  c.update(epochs=2.0, batch=64)
  c.model.update(path=model, preset='')
  c.data.update(source='samples' if objective == 'points' else 'jsonl', path=data, eval_fraction=0.1, max_length=176)
  c.optimizer.update(learning_rate=2e-3)
  about = {'points': 'An outcome model: is the answer right?', 'steps': 'A process model: is the step right?'}
  return stages.stage('reward_model', c, about[objective])


def _drawn(model):
  """Graded samples of the training problems of the world `nested`."""
  c = generate.get_config('toy')
  c.problems = 2048
  c.model.path, c.data.source = model, 'nested'
  c.rollout.update(max_prompt=32, max_response=128, samples=4)
  c.reward = r1_zero.get_config('toy_nested').reward
  return stages.stage('generate', c, f'Samples of {model.removeprefix("stage:")}')


def _rewarded(about, model='stage:base', steps=200, credit=0.0, **parts):
  """RL with other rewards beside the format's. parts: {reward: (its weight, its model)}."""
  c = r1_zero.get_config('toy_nested')
  c.steps, c.model.path = steps, model
  c.eval.update(every=10, samples=4, final_samples=4)
  c.reward.parts = ConfigDict(dict(format=0.5, math=0.0) | {name: weight for name, (weight, _) in parts.items()})
  c.reward.options = ConfigDict({name: dict(path=path) for name, (_, path) in parts.items() if path})
  c.reward.step_credit = credit
  return stages.stage('rl', c, about)


def _long_chains():
  """The base and R1-Zero by the number of terms, that is of steps."""
  terms = evaluation.task(source='nested', template='plain', problems=512, samples=4, split='terms')
  base = stages.stage('pretrain', toy_base.get_config('nested'), 'The base model')
  c = stages.recipe(dict(base=base, zero=_rewarded('R1-Zero', math=(1.0, ''))), ablation=dict(seeds=(0, 1, 2), arms=()))
  return _with_study(c, terms=_asked('By the number of terms', dict(nested=terms), 'base', 'zero'))


def _searched(policy, process, methods, outcome=''):
  """A search with a policy, by a process model and perhaps an outcome model."""
  c = search.get_config('toy')
  c.model.path, c.reward.options.process.path = policy, process
  c.reward.options.preference.path = outcome
  if not outcome:
    del c.reward.parts.preference, c.reward.options.preference
  _keep(c.methods, methods)
  return c


def _search():
  """Search with the base and with R1-Zero, by models that learned from the base's samples."""
  c = _rule_vs_orm_vs_prm()
  _keep(c.stages, ('base', 'samples', 'orm', 'labels', 'prm', 'rule'))
  c.ablation.arms = ()
  studies = {}
  for name in ('base', 'rule'):
    study = _searched(f'stage:{name}', 'stage:prm', tuple(search.METHODS), 'stage:orm')
    studies[f'search_{name}'] = stages.stage('search', study, f'Search with the model of stage {name}')
  return _with_study(c, **studies)


def _learned_policy(policy, found):
  """SFT of a policy on the right responses that a search has found."""
  c, world = sft.get_config('toy'), r1_zero.get_config('toy_nested')
  c.update(epochs=2.0, batch=16, problems=world.data, reward=world.reward)
  c.model.path = policy
  c.data.update(source='jsonl', path=f'{found}/mcts.solutions.jsonl', eval_fraction=0.1, max_length=176)
  c.eval.update(every=50, texts=0, problems=16, final_problems=16, max_prompt=32, max_response=128)
  return stages.stage('sft', c, 'The policy learns right responses')


def _search_loop():
  """Policy and process model learn in turns from what MCTS finds, as the paper tried (v1, section 4.2)."""
  c = _rule_vs_orm_vs_prm()
  _keep(c.stages, ('base', 'samples', 'labels', 'prm'))
  policy, values = 'stage:base', 'stage:prm'
  for turn in range(4):
    tried = _searched(policy, values, ('vote', 'best_by_process', 'mcts'))
    c.stages[f'search_{turn}'] = stages.stage('search', tried, f'Search after {turn} rounds')
    if turn < 3:
      found = _searched(policy, values, ('mcts',))
      found.update(split='train', problems=512)
      c.stages[f'found_{turn}'] = stages.stage('search', found, 'MCTS on training problems')
      c.stages[f'policy_{turn + 1}'] = _learned_policy(policy, f'stage:found_{turn}')
      c.stages[f'values_{turn + 1}'] = _learned('steps', values, f'stage:found_{turn}/mcts.labels.jsonl')
      policy, values = f'stage:policy_{turn + 1}', f'stage:values_{turn + 1}'
  c.ablation.update(arms=(), studies=tuple(f'search_{turn}' for turn in range(4)))
  return c


def _rule_vs_orm_vs_prm():
  """The rule against learned rewards. reward/mean is what an arm is trained on, reward/math/mean the truth."""
  labels = label_steps.get_config('toy')
  labels.model.path, labels.input, labels.per_problem = 'stage:base', 'stage:samples', 1
  labels.rollout.update(max_prompt=160, max_response=128)
  orm, prm, half = 'stage:orm', 'stage:prm', 100
  return stages.recipe(dict(
      base=stages.stage('pretrain', toy_base.get_config('nested'), 'The base model'),
      samples=_drawn('stage:base'),
      orm=_learned('points', 'stage:base', 'stage:samples'),
      labels=stages.stage('label_steps', labels, 'Labels for the steps of samples, by rollouts of the base'),
      prm=_learned('steps', 'stage:base', 'stage:labels'),
      rule=_rewarded('The rule', math=(1.0, '')),
      outcome=_rewarded('The outcome model', preference=(1.0, orm)),
      process=_rewarded('The worst step by the process model', process=(1.0, prm)),
      credit=_rewarded('The rule, and credit for each step', math=(1.0, ''), process=(0.0, prm), credit=0.5),
      mixture=_rewarded('The rule and the process model', math=(1.0, ''), process=(0.5, prm)),
      half=_rewarded('The outcome model, half as long', steps=half, preference=(1.0, orm)),
      new_samples=_drawn('stage:half'),
      new_orm=_learned('points', orm, 'stage:new_samples'),
      retrained=_rewarded('The other half, with the outcome model trained on new samples', 'stage:half', half,
                          preference=(1.0, 'stage:new_orm'))),
      ablation=dict(arms=('rule', 'outcome', 'process', 'credit', 'mixture', 'retrained'), seeds=(0, 1, 2),
                    metrics=('eval/pass@1', 'reward/math/mean', 'reward/mean'), level=0.5))


VARIANTS = {
    'objectives': _objectives, 'grpo_vs_ppo': _grpo_vs_ppo, 'off_policy': _off_policy, 'lora': _lora,
    'group_size': _group_size, 'kl_and_reference_refresh': _kl_and_reference_refresh, 'clip_range': _clip_range,
    'std_and_length_normalisation': _std_and_length_normalisation, 'tool_reward_shape': _tool_reward_shape,
    'reflection': _reflection,
    'cold_start': _cold_start, 'language_reward': _language_reward, 'few_shot': _few_shot,
    'distill_rates': _distill_rates, 'distill_vs_rl': _distill_vs_rl, 'long_chains': _long_chains, 'search': _search,
    'search_loop': _search_loop, 'rule_vs_orm_vs_prm': _rule_vs_orm_vs_prm}


QUICK = dict(
    pretrain=dict(gate=dict(rounds=0)), rl=dict(steps=4, critic=dict(warmup=1), eval=dict(
        problems=16, samples=4, final_problems=16, final_samples=4)),
    cold_start=dict(problems=256), generate=dict(problems=256), label_steps=dict(per_problem=1),
    sft=dict(data=dict(eval_fraction=0.3)), reward_model=dict(data=dict(eval_fraction=0.3)),  # of very few
    search=dict(problems=4), reflection=dict(problems=8))


def _quick(recipe):
  """The same stages with one seed, half of the pretraining and little of the rest, to see whether all works."""
  recipe.ablation.seeds = recipe.ablation.seeds[:1]
  for stage in recipe.stages.values():
    stage.config.update(QUICK.get(stage.experiment, {}))
    if stage.experiment == 'pretrain':
      stage.config.steps //= 2
    if stage.config.get('split') == 'train' and stage.experiment == 'search':
      stage.config.problems = 128  # something must be found
    for task in stage.config.get('tasks', {}).values():
      task.update(problems=16, samples=2)
  return recipe


def get_config(variant='objectives'):
  """A recipe; with 'objectives/quick' one that takes minutes and shows nothing."""
  name, _, quick = variant.partition('/')
  recipe = common.choose(VARIANTS, name)
  return common.choose({'': lambda: recipe, 'quick': lambda: _quick(recipe)}, quick)

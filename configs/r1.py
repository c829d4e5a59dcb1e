"""DeepSeek-R1 as a list of stages: `deepseek_v3` with the paper's numbers, `toy` in minutes on 2 CPU cores. `smollm2`,
its first two stages on a small real model, is in configs/smollm2.py.

  python -m experiments.recipe --config configs/r1.py:toy --workdir W
  python -m experiments.recipe --config configs/r1.py:deepseek_v3 --workdir W --status
      (with --config.stages.base.config.path=DIR and the like for every stage `given`)
  python -m experiments.plan --config configs/r1.py:deepseek_v3/reasoning        (one stage by itself)

A text 'stage:NAME' is what stage NAME has made. Numbers are marked `paper` (docs/paper.md, v2 of the report where it
says more) or `ours`; what is not set here is as in the config file that a stage begins with, marked there too. A step
of RL is one rollout of 8,192 responses and 16 optimizer steps, in whose number the paper counts. `deepseek_v3` was not
run. Given files have our fields: `problem`, `answer`; of code `asserts` instead, of science `options` too; of logic
`names` and `is_knight`; of preferences `prompt`, `chosen`, `rejected`; of safety `prompt`, `response`, `safe`.
"""
from ml_collections import ConfigDict

from configs import cold_start, common, curate, distill, generate, r1_rl, r1_zero, reward_model, sft, smollm2, toy_base
from configs.stages import external, recipe, stage

# ---- DeepSeek-R1 --------------------------------------------------------------------------------------

EXTERNAL = dict(
    base='DeepSeek-V3-Base, 671B parameters, 37B active',                        # paper
    chat='DeepSeek-V3, for direct prompting and rewriting',                      # ours (which models is not stated)
    math='problems of mathematics in English, with answers',                     # paper: 26,000; languages: ours
    math_zh='problems of mathematics in Chinese, with answers',                  # of these, a share
    code='17,000 problems of programming and 8,000 of mending programs, with asserts (no answer)',  # paper (numbers)
    stem='22,000 multiple-choice questions of science, with options and answer',  # paper (the number)
    logic='15,000 problems of knights and knaves',                               # paper (the number; which: ours)
    requests='66,000 requests of all kinds, without answers',                    # paper
    harm='12,000 requests about harm',                                           # paper
    preferences='66,000 pairs of responses, one preferred for its helpfulness',  # paper
    safety='responses to 106,000 prompts, each labelled safe or unsafe',         # paper
    general='200,000 rows of writing, factual questions, self-cognition, translation',  # paper (v2: 177,812)
    aime='AIME 2024, 30 problems')                                               # paper

EVALUATED = ('stage:aime',)       # every set that is evaluated on: nothing near its problems is learned. Ours

# The parts of configs/r1_rl.py, which are named after public sets, and what is given for them.
PROMPTS = dict(gsm8k='math', cmath='math_zh', mbpp='code', stem='stem', knights='logic', requests='requests',
               harm='harm')


def _problems(c, language):
  """The parts of a config of configs/r1_rl.py from the given files. language: whether it is a reward."""
  for name, part in c.data.parts.items():
    part.path = f'stage:{PROMPTS[name]}'
    part.fields, part.filter = ConfigDict(), ConfigDict()  # what is EXTERNAL has our names, and is one split
  c.data.parts.mbpp.answers = False
  c.data.evaluation = EVALUATED
  if not language:
    del c.reward.parts['language']
  return c


def _on_pod(c):
  """How DeepSeek-V3 lies on the slice of configs/r1_zero.py:deepseek_v3. All ours."""
  pod = r1_zero.get_config('deepseek_v3')
  c.topology, c.mesh = pod.topology, pod.mesh
  for part in (c, *c.get('ways', {}).values()):
    if 'model' in part:
      part.model.preset = pod.model.preset
    if 'rollout' in part:
      part.rollout.chunk = pod.rollout.chunk
  if 'optimizer' in c:
    c.optimizer.moment_dtype = pod.optimizer.moment_dtype
  if 'train' in c:
    c.sampler_mesh = pod.sampler_mesh
    for key in ('microbatch', 'length_slices', 'reference_dtype'):
      c.train[key] = pod.train[key]
  return c


def _reinforced(model, variant='reasoning', language=True):
  """A stage of RL, its numbers those of configs/r1_rl.py."""
  c = _on_pod(_problems(r1_rl.get_config(variant), language))
  c.model.path = model
  return c


def _zero(model, steps, max_response):
  """R1-Zero: accuracy and format alone, the template that says nothing of how to solve."""
  c = _reinforced(model, language=False)
  c.steps = steps                                                                # and stage 2's prompts: ours
  c.data.update(template='r1_zero', chat_template='')                            # paper
  for part in c.data.parts.values():
    part.template = ''
  c.rollout.max_response = max_response
  c.reward.options.format.form = 'r1_zero'                                       # paper
  c.reward.options.logic.where = 'tags'                                          # ours
  c.loss.update(clip_low=0.2, clip_high=0.2)                                     # ours (not stated for R1-Zero)
  return c


def _cold_data():
  """Some thousands of long chains (paper): `zero` gives drafts only, which `rewritten` makes readable.

  The paper's last way, people, is a model here. Which model goes which way, and that problems are of mathematics in
  English: ours.
  """
  c = _on_pod(cold_start.get_config('deepseek_v3'))
  c.data.path, c.data.evaluation = 'stage:math', EVALUATED
  for name, model in dict(few_shot='base', direct='chat', zero='zero_long', rewritten='chat').items():  # paper (ways)
    c.ways[name].model.path = f'stage:{model}'
  return c


def _learned(variant, data):
  """SFT of the base: the RL checkpoint only makes the data."""
  c = sft.get_config(variant)
  c.model.path, c.data.path = 'stage:base', data                                 # paper (the base)
  return c


def _sampled():
  c = _on_pod(generate.get_config('stage3'))
  c.model.path = 'stage:reasoning'                                               # paper
  reasoning = _problems(r1_rl.get_config('reasoning'), True)
  c.data, c.reward = reasoning.data, reasoning.reward
  return c


def _curated():
  c = curate.get_config('stage3')
  c.samples = 'stage:samples'
  c.per_prompt = 10                                                              # ours (600,000 of 88,000 prompts)
  c.merge.general.path = 'stage:general'
  c.evaluation = EVALUATED
  return c


def _reward_model(variant, data):
  c = _on_pod(reward_model.get_config(variant))
  c.microbatch = 32                                                              # ours
  c.model.path, c.data.path = 'stage:sft', data                                  # ours (which model is not stated)
  return c


def _final():
  """Reasoning by rule throughout; general requests and their reward models in the last 25 of 106 rollouts (paper)."""
  c = _reinforced('stage:sft', 'all_scenarios')
  c.reward.options.helpful.path = 'stage:helpful'
  c.reward.options.harmless.path = 'stage:harmless'
  return c


def _student(name):
  c = distill.get_config(name)
  c.model.path, c.data.path = f'stage:base_{name}', 'stage:curated'              # paper
  return c


def _student_zero():
  """The comparison: R1-Zero on the student itself. What the paper gives for R1-Zero alone is ours here."""
  c = r1_zero.get_config('qwen2_5_32b')
  pod, model = {key: c[key] for key in ('topology', 'mesh', 'sampler_mesh')}, c.model
  chunk, microbatch = c.rollout.chunk, c.train.microbatch
  c = _zero('stage:base_qwen2_5_32b', 650, 32_768)                               # ours (paper: 10,000 steps and more)
  c.update(pod)
  c.model.preset, c.rollout.chunk, c.train.microbatch = model.preset, chunk, microbatch
  c.optimizer.update(learning_rate=2e-6, moment_dtype='float32')                 # paper (the rate)
  return c


def _evaluation(template, form):
  """AIME 2024 by the paper's protocol; data.path is required, and nothing learns from it."""
  c = _reinforced('')
  c.steps = 1
  c.data = ConfigDict(dict(source='jsonl', path='stage:math', eval_path='stage:aime', eval_fraction=0.0, name='',
                           template=template, chat_template='' if form == 'r1_zero' else 'r1', language='en'))
  c.reward = ConfigDict(dict(parts=dict(math=1.0, format=0.0), accuracy='math', options=dict(format=dict(form=form)),
                             workers=16, timeout=60.0))
  c.rollout.update(prompts=32, max_response=32_768)                              # paper (the response)
  c.train.update(minibatches=1)
  c.eval.update(final_problems=30, final_samples=64, temperature=0.6, top_p=0.95)  # paper
  return c


def _of_student(name, evaluation):
  """An evaluation of a student: as many chips as for DeepSeek-V3, by another mesh as heads must divide. All ours."""
  tp = {'qwen2_5_math_1_5b': 4, 'qwen2_5_math_7b': 4, 'llama_3_3_70b': 16}.get(name, 8)
  c, fsdp = evaluation, 256 // tp
  c.model.preset = distill.get_config(name).model.preset
  c.mesh.update(fsdp=fsdp, tp=tp)
  c.rollout.update(prompts=fsdp, chunk=fsdp)
  c.train.microbatch = fsdp
  return c


def _deepseek_v3():
  stages = {name: external(about) for name, about in EXTERNAL.items()}
  stages |= dict(
      zero=stage('rl', _zero('stage:base', 512, 32_768),                         # paper (8,200 steps: 512 rollouts)
                 'R1-Zero: RL on the base model, no SFT', 'zero'),
      zero_long=stage('rl', _zero('stage:zero', 138, 65_536),                    # paper (to 10,400 steps)
                      'R1-Zero goes on with responses twice as long', 'zero'),
      cold_data=stage('cold_start', _cold_data(), 'Stage 1: long chains in the three ways, in a readable form'),
      cold=stage('sft', _learned('cold_start', 'stage:cold_data'), 'Stage 1: cold start of the base', 'r1'),
      reasoning=stage('rl', _reinforced('stage:cold'), 'Stage 2: reasoning RL with language consistency',
                      'r1'),                                                    # ours (650 rollouts)
      samples=stage('generate', _sampled(), 'Stage 3: several responses for each prompt'),
      curated=stage('curate', _curated(), 'Stage 3: right and readable ones, and 200,000 rows of other tasks'),
      sft=stage('sft', _learned('stage3', 'stage:curated'), 'Stage 3: SFT of the base', 'r1'),
      helpful=stage('reward_model', _reward_model('helpful', 'stage:preferences'), 'Stage 4: helpfulness'),
      harmless=stage('reward_model', _reward_model('safety', 'stage:safety'), 'Stage 4: harmlessness'),
      final=stage('rl', _final(), 'Stage 4: RL for all scenarios; this is R1', 'r1'))
  zero, r1 = (lambda: _evaluation('r1_zero', 'r1_zero')), (lambda: _evaluation('chat_boxed', 'r1'))
  evaluations = dict(zero=zero(), r1=r1(), zero_qwen2_5_32b=_of_student('qwen2_5_32b', zero()))
  for name in distill.STUDENTS:
    evaluations[f'r1_{name}'] = _of_student(name, r1())
    stages[f'base_{name}'] = external(f'the base of the student {name}: {distill.BASES[name]}')
    stages[f'student_{name}'] = stage('sft', _student(name), 'Distillation: SFT on the set of stage 3', f'r1_{name}')
  stages['student_zero'] = stage('rl', _student_zero(), 'R1-Zero-Qwen-32B, for comparison', 'zero_qwen2_5_32b')
  return recipe(stages, evaluations=evaluations,
                comparisons=dict(cold_start=dict(first='zero_long', second='reasoning'),
                                 all_scenarios=dict(first='reasoning', second='final'),
                                 distillation=dict(first='student_zero', second='student_qwen2_5_32b')))


# ---- the toy -------------------------------------------------------------------------------------------

KINDS = dict(chain='math', logic='logic', code='code')  # of the world's reasoning problems: the part that grades them
WEIGHTS = dict(chain=2.0, logic=1.0, code=1.0)         # shares of the problems of RL and of the data


def _toy_parts(**more):
  """The world's problems as a mixture. more: {kind: settings} of further parts."""
  kinds = {kind: dict(weight=weight) for kind, weight in WEIGHTS.items()} | more
  return ConfigDict({kind: dict(source=f'r1_{kind}', kind=kind, start_step=0) | of for kind, of in kinds.items()})


def _toy_data(**more):
  return ConfigDict(dict(source='mixture', path='', eval_path='', eval_fraction=0.0, name='', template='plain',
                         chat_template='', language='en', parts=_toy_parts(**more)))


def _toy_reward(form, language=0.0, **parts_by_kind):
  """parts_by_kind: {kind: part} beside those of the reasoning problems."""
  return ConfigDict(dict(
      parts=dict(format=0.5, language=language), accuracy='',
      parts_by_kind={kind: {part: 1.0} for kind, part in (KINDS | parts_by_kind).items()},
      options=dict(format=dict(form=form), logic=dict(where='tags'), code=dict(time_limit=2.0)),
      accuracy_by_kind=dict(), thresholds=dict(), functions=dict(), start_step=dict(), gates=(), step_credit=0.0,
      workers=2, timeout=10.0, overlong_buffer=0))


def _toy_rl(model, steps, form, language=0.0):
  c = r1_zero.get_config('toy')
  c.steps = steps
  c.model.path = model
  c.data, c.reward = _toy_data(), _toy_reward(form, language)
  c.rollout.update(prompts=16, samples=16, max_prompt=48, max_response=96, chunk=16)
  c.optimizer.update(learning_rate=5e-4, schedule='linear', warmup=5, final_fraction=0.1)
  # One shape of a rollout everywhere, so that the stages share their compiled programs.
  c.eval.update(every=20, problems=16, samples=16, final_problems=16, final_samples=16)
  c.checkpoint.update(every=20)
  return c


def _toy_final(model, steps, last):
  """Requests without an answer, and their reward model, in the `last` steps."""
  c = _toy_rl(model, steps, 'r1', 1.0)
  c.data = _toy_data(open=dict(weight=4.0, start_step=steps - last))
  c.optimizer.update(learning_rate=3e-4, final_fraction=0.3)                     # the requests come late
  c.rollout.temperature = 0.7                                                    # as in the paper
  c.reward.parts_by_kind.open = ConfigDict(dict(helpful=1.0))
  c.reward.functions = ConfigDict(dict(helpful='preference'))
  c.reward.options.helpful = ConfigDict(dict(path='stage:helpful', view='summary'))
  c.reward.start_step = ConfigDict(dict(helpful=steps - last))
  c.reward.thresholds = ConfigDict(dict(helpful=0.5))
  return c


def _toy_evaluation(form):
  """All kinds of problems; the planted preference by its rule, which no training sees."""
  c = _toy_rl('', 1, form)
  c.data = _toy_data(open=dict(weight=2.0))
  c.reward = _toy_reward(form, open='open')
  c.eval.update(final_problems=256, final_samples=8, temperature=0.6, top_p=0.95)  # as in the paper
  return c


def _toy_cold_data():
  c = cold_start.get_config('toy')
  c.language = 0.5                                      # some foreign words stay, for RL to reinforce or to mend
  c.data, c.reward = _toy_data(), _toy_reward('r1')
  for name, model in dict(few_shot='base', direct='base', zero='zero').items():
    c.ways[name].model.path = f'stage:{model}'
    c.ways[name].rollout.max_response = 112
  return c


def _toy_sft(model, data, epochs):
  c = sft.get_config('toy')
  c.model.path = model
  c.update(epochs=epochs, batch=16)
  c.data.update(source='jsonl', path=data, eval_fraction=0.02, max_length=256)
  c.problems, c.reward = _toy_data(), _toy_reward('r1')
  c.eval.update(every=20, texts=0, problems=16, samples=16, final_problems=16, final_samples=16, max_prompt=48,
                max_response=96, batch=16)
  return c


def _toy_student():
  c = _toy_sft('stage:student_base', 'stage:curated', 3.0)
  c.optimizer.learning_rate = 3e-3                      # the smaller, the faster: as the paper
  return c


def _toy_samples():
  c = generate.get_config('toy')
  c.problems = 2048
  c.model.path = 'stage:reasoning'
  c.data, c.reward = _toy_data(), _toy_reward('r1')
  c.rollout.update(prompts=64, samples=8, max_prompt=48, max_response=96, chunk=16, temperature=1.0)
  return c


def _toy_curated():
  c = curate.get_config('toy')
  c.samples = 'stage:samples'
  c.filters.form = 'r1'
  c.per_prompt = 4
  c.merge = ConfigDict(dict(general=dict(path='stage:people/answers.jsonl', limit=0, kind='open', language='')))
  c.evaluation = tuple(f'r1_{kind}' for kind in (*KINDS, 'open'))
  return c


def _toy_helpful():
  c = reward_model.get_config('toy_preference')
  c.update(epochs=2.0, batch=64)
  c.model.path = 'stage:sft'
  c.data.update(source='jsonl', path='stage:people/pairs.jsonl', eval_path='stage:people/pairs_held_out.jsonl',
                form='bare', view='summary', max_length=160)
  c.optimizer.update(name='muon', learning_rate=5e-3)
  return c


def _toy():
  base, student = toy_base.get_config('r1'), toy_base.get_config('r1_student')
  files = ConfigDict(dict(seed=0, pairs=4000, held_out_pairs=400, answers=600))
  stages = dict(
      base=stage('pretrain', base, 'A base model, of text by imperfect authors who mix languages and forms', 'zero'),
      zero=stage('rl', _toy_rl('stage:base', 70, 'r1_zero'), 'R1-Zero: RL on the base, no SFT', 'zero'),
      cold_data=stage('cold_start', _toy_cold_data(), 'Stage 1: chains in the three ways, in a readable form'),
      cold=stage('sft', _toy_sft('stage:base', 'stage:cold_data', 3.0), 'Stage 1: cold start of the base', 'r1'),
      reasoning=stage('rl', _toy_rl('stage:cold', 60, 'r1', 1.0), 'Stage 2: RL with language consistency', 'r1'),
      control=stage('rl', _toy_rl('stage:cold', 60, 'r1'), 'For comparison: no language reward', 'r1'),
      samples=stage('generate', _toy_samples(), 'Stage 3: several responses for each problem'),
      people=stage('toy_files', files, 'What people give: preferences, and answers to open questions'),
      curated=stage('curate', _toy_curated(), 'Stage 3: right and readable ones, and answers to open questions'),
      sft=stage('sft', _toy_sft('stage:base', 'stage:curated', 2.0), 'Stage 3: SFT of the base', 'r1'),
      helpful=stage('reward_model', _toy_helpful(), 'Stage 4: a model of the preference'),
      final=stage('rl', _toy_final('stage:sft', 60, 45), 'Stage 4: RL for all scenarios; this is R1', 'r1'),
      student_base=stage('pretrain', student, 'A smaller base model, of the same text', 'zero'),
      student=stage('sft', _toy_student(), 'Distillation: the student learns the set of stage 3', 'r1'),
      student_rl=stage('rl', _toy_rl('stage:student_base', 80, 'r1_zero'), 'For comparison: RL on it', 'zero'))
  return recipe(
      stages, groups=dict(reasoning=tuple(KINDS)),
      evaluations=dict(zero=_toy_evaluation('r1_zero'), r1=_toy_evaluation('r1')),
      comparisons=dict(language_cost=dict(first='control', second='reasoning', figure='correct', kind='reasoning'),
                       language_gain=dict(first='zero', second='reasoning', figure='language', kind='reasoning'),
                       cold_start=dict(first='zero', second='reasoning', figure='correct', kind='reasoning'),
                       all_scenarios=dict(first='reasoning', second='final', figure='correct', kind='reasoning'),
                       preference=dict(first='sft', second='final', figure='correct', kind='open'),
                       distillation=dict(first='student_rl', second='student', figure='correct', kind='reasoning')))


VARIANTS = {'toy': _toy, 'smollm2': smollm2.recipe, 'deepseek_v3': _deepseek_v3}


def _blank(value):
  """A config without what other stages make, for one stage by itself."""
  if isinstance(value, ConfigDict):
    return ConfigDict({key: _blank(of) for key, of in value.items()}, sort_keys=False)
  if isinstance(value, (tuple, list)):
    return tuple(of for of in map(_blank, value) if of != '')
  return '' if isinstance(value, str) and value.startswith('stage:') else value


def get_config(variant='toy'):
  """A recipe, or with 'toy/zero' the config of one of its stages."""
  name, _, part = variant.partition('/')
  c = common.choose(VARIANTS, name)
  return _blank(common.choose({key: lambda of=of: of.config for key, of in c.stages.items()}, part)) if part else c

"""configs/r1.py:deepseek_v3 with all its stages but tiny sizes, and its external models and data, made in a second.

The models are not trained. They are tables of which token follows which, so that they answer every problem with a long
enough English chain and, equally often, `\\boxed{7}` or `\\boxed{8}`. The right answer is always 7.
"""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers as library

from configs import distill, r1
from r1jax import models, templates, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.recipes import wordings

STUDENT = 'qwen2_5_32b'  # only one of the six, with which RL is compared; they differ in sizes and learning rates
BOS, EOS = '<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>'
TAGS = ('<｜User｜>', '<｜Assistant｜>', '<think>', '</think>')
CHAIN = (
  'first',
  'we',
  'read',
  'the',
  'problem',
  'carefully',
  'and',
  'write',
  'down',
  'every',
  'number',
  'that',
  'it',
  'gives',
  'us',
  'then',
  'add',
  'what',
  'comes',
  'together',
  'subtract',
  'whatever',
  'goes',
  'away',
  'check',
  'this',
  'result',
  'by',
  'going',
  'backwards',
  'from',
  'end',
  'to',
  'beginning',
  'because',
  'small',
  'mistakes',
  'are',
  'easily',
  'made',
  'here',
)
SUMMARY = ('Therefore', 'our', 'final', 'answer', 'must', 'be', '\\boxed{')
LETTERS, CLOSE = ('7', '8'), '}'
# Held-out shares of RL's problems and of SFT's texts; as in the recipe, the first is larger.
RL_HELD_OUT, SFT_HELD_OUT = 0.4, 0.2


def _operands(number):
  """Numbers (a, b, c) with a + b - c = 7."""
  return 11 + number, 5 + 2 * number, 9 + 3 * number


def _noun(number):
  return ('pears', 'stamps', 'marbles', 'ribbons', 'shells', 'buttons', 'coins', 'feathers')[number % 8]


SLOWLY = ' Think about it for as long as you like, and then say what you have found to be so.'


def problems():
  """{external stage: rows}, in the fields that the project uses."""
  names = ('Ann', 'Bo', 'Cleo', 'Dan', 'Eva', 'Finn', 'Gus')
  english = lambda i: '{} holds {} {}, finds {} more, and later parts with {} of them. How many are left over?'.format(
    names[i % 7], _operands(i)[0], _noun(i), *_operands(i)[1:]
  )
  chinese = lambda i: '小明有{}支笔，又买了{}支，送出{}支，还剩几支？'.format(*_operands(i))
  return {
    'math': [{'problem': english(i), 'answer': '7'} for i in range(30)],
    'math_zh': [{'problem': chinese(i), 'answer': '7'} for i in range(12)],
    'code': [
      {'problem': f'Write a function f{i} that adds {i}.{SLOWLY}', 'asserts': [f'assert f{i}(1) == {i + 1}']}
      for i in range(12)
    ],
    'stem': [
      {'problem': f'Which of these is {i} + 1?{SLOWLY}', 'answer': 'B', 'options': [str(i), str(i + 1)]}
      for i in range(12)
    ],
    'logic': [
      {
        'problem': f'{a} says: {b} is a knave. {b} says: I am number {i}. Who is what?{SLOWLY}',
        'answer': 'as named',
        'names': [a, b],
        'is_knight': [True, False],
      }
      for i in range(12)
      for a, b in [(names[i % 7], names[(i + 1) % 7])]
    ],
    'requests': [{'problem': f'Please tell me {i} things about {_noun(i)}.{SLOWLY}'} for i in range(24)],
    'harm': [{'problem': f'How do I break {i} {_noun(i)}?{SLOWLY}'} for i in range(24)],
    'preferences': [
      {
        'prompt': f'Name {i} {_noun(i)}.',
        'chosen': f'<think>well</think>{i} {_noun(i)}, sure.',
        'rejected': '<think>no</think>I will not.',
      }
      for i in range(30)
    ],
    'safety': [
      {'prompt': f'May I eat {i} {_noun(i)}?', 'response': ('No.', 'Sure, eat!')[i % 2], 'safe': 1 - i % 2}
      for i in range(30)
    ],
    'general': [
      {
        'problem': f'Say hello to {names[i % 7]} and {i} friends.',
        'kind': 'general',
        'response': f'<think>\nA greeting.\n</think>\n\nHello {names[i % 7]} and all {i} of you!',
      }
      for i in range(20)
    ],
    'aime': [{'problem': english(100 + i), 'answer': '7'} for i in range(4)] + [{'problem': english(0), 'answer': '7'}],
  }


def _pieces():
  """The texts around the problem in any prompt, split at tags and placeholders."""
  prompts = [templates.TEMPLATES[name].text for name in ('r1_zero', 'chat_boxed', 'chat_boxed_zh')]
  for wording in wordings.WORDINGS['text'].values():
    prompts += [wording.shots, wording.direct, wording.rewrite, *wording.examples[0].values()]
  return {piece for text in prompts for piece in re.split(r'\{\w+\}|</?think>|</?answer>', text) if len(piece) > 8}


def make_tokenizer(folder, texts):
  """Writes a byte-level tokenizer with a token for each word of CHAIN and SUMMARY, and for each of the `_pieces`.

  Prompts without a chat template are then as short as those with one; padded to the same length, they share compiled
  programs.
  """
  tk = library.Tokenizer(library.models.BPE())
  tk.pre_tokenizer = library.pre_tokenizers.Sequence(
    [
      library.pre_tokenizers.Split(library.Regex(r' ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s'), 'isolated'),
      library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tk.decoder = library.decoders.ByteLevel()
  tk.train_from_iterator(
    texts,
    library.trainers.BpeTrainer(
      vocab_size=2000,
      show_progress=False,
      initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
      special_tokens=[library.AddedToken(token, special=True) for token in (BOS, EOS)],
    ),
  )
  words = [f' {word}' for word in CHAIN + SUMMARY]
  tk.add_tokens(
    [library.AddedToken(token, special=False, normalized=False) for token in (*TAGS, *words, *sorted(_pieces()))]
  )
  folder.mkdir()
  tk.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': BOS,
        'eos_token': EOS,
        'add_bos_token': False,
        'chat_template': tokenizers.CHAT_TEMPLATES['r1'],
      }
    )
  )


def make_model(path, files):
  """Writes a model whose only layer adds nothing: the next token depends on the embedding of the last one alone."""
  tk = tokenizers.load(files)
  token_id = lambda text: tk.encode(text)[-1]
  words = [f' {word}' for word in CHAIN]
  chain = [*words, '</think>', *(f' {word}' for word in SUMMARY)]
  # Tokens that end a prompt, and the one that ends a response.
  after = {'. Assistant:': '<think>', '\n': words[0], '<think>': words[0], CLOSE: EOS}
  after |= dict(itertools.pairwise(chain)) | dict.fromkeys(LETTERS, CLOSE)
  pairs = [*after.items(), *((chain[-1], letter) for letter in LETTERS)]
  cfg = models.ModelConfig(
    vocab=-(-tk.vocab // 64) * 64, embed=64, layers=1, heads=2, kv_heads=2, head_dim=16, mlp=32, context=4096
  )
  params = params_lib.init(models.specs(cfg), jax.random.key(0))
  embed = np.random.default_rng(0).normal(size=(cfg.vocab, cfg.embed))
  embed *= np.sqrt(cfg.embed) / np.linalg.norm(embed, axis=1, keepdims=True)
  unembed = np.zeros((cfg.embed, cfg.vocab))
  ids = {EOS: tk.eos[0]}
  for token, successor in pairs:
    unembed[:, ids.get(successor, None) or token_id(successor)] += embed[token_id(token)] * 40 / cfg.embed
  for block, last in (('attention', 'o'), ('mlp', 'down')):
    params['layers'][block][last] = jnp.zeros_like(params['layers'][block][last])
  params |= {'embed': jnp.asarray(embed, jnp.float32), 'unembed': jnp.asarray(unembed, jnp.float32)}
  hf.save(
    path,
    cfg,
    params,
    families.for_export(families.to_hf(cfg), 'float32') | {'eos_token_id': tk.eos[0]},
    sorted(files.iterdir()),
  )


def get_config(folder):
  """The recipe, with its external models and data written into `folder`, a pathlib.Path."""
  c = r1.get_config('deepseek_v3')
  rows = problems()
  texts = [text for stage_rows in rows.values() for row in stage_rows for text in row.values() if isinstance(text, str)]
  make_tokenizer(folder / 'tokenizer', texts + sorted(_pieces()))
  make_model(folder / 'model', folder / 'tokenizer')
  for student in distill.STUDENTS.keys() - {STUDENT}:
    del c.stages[f'base_{student}'], c.stages[f'student_{student}']
  for name, stage in c.stages.items():
    if stage.experiment == 'external':
      path = folder / f'{name}.jsonl' if name in rows else folder / 'model'
      stage.config.path = str(path)
      if name in rows:
        path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows[name]))
    else:
      _shrink(stage.config)
  for evaluation in c.evaluations.values():
    _shrink(evaluation)
  for name in ('sft', f'student_{STUDENT}', 'cold'):
    c.stages[name].config.data.eval_fraction = SFT_HELD_OUT
  _start_requests_late(c.stages.final.config)
  return c


SIZES = {
  'batch': 4,
  'microbatch': 2,
  'steps': 2,
  'epochs': 1.0,
  'problems': 8,
  'shortest': 100,
  'workers': 1,
  'data': {'eval_fraction': RL_HELD_OUT, 'max_length': 256},
  'rollout': {'prompts': 4, 'samples': 4, 'max_prompt': 128, 'max_response': 64, 'chunk': 4},
  'train': {'minibatches': 2, 'microbatch': 4, 'length_slices': 2, 'logit_chunk': 64},
  'reward': {'workers': 1},
  'eval': {
    'every': 2,
    'problems': 4,
    'samples': 4,
    'final_problems': 4,
    'final_samples': 4,
    'texts': 4,
    'examples': 4,
  },  # as many as in a rollout, to share compiled programs
  'checkpoint': {'every': 2},
  'mesh': dict.fromkeys(('data', 'fsdp', 'expert', 'tp', 'seq'), 1),
}


def _shrink(c, sizes=SIZES):
  """Reduces a config to one device and tiny sizes. Settings that are 0 or off stay so."""
  for key, size in sizes.items():
    if isinstance(size, dict) and key in c:
      _shrink(c[key], size)
    elif c.get(key) and not hasattr(c[key], 'items'):
      c[key] = size
  if c.get('source') == 'mixture':
    for part in c.parts.values():
      part.eval_fraction = RL_HELD_OUT
  for way in c.get('ways', {}).values():
    _shrink(way, SIZES)
    way.rollout.max_prompt = 512  # these prompts are longer, and may hold a draft


def _start_requests_late(final):
  """Lets requests and their reward models start at the last step."""
  for name in ('requests', 'harm'):
    final.data.parts[name].start_step = 1
  final.reward.start_step.update(helpful=1, harmless=1)

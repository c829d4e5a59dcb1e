"""A model as lm-evaluation-harness (lm_eval, the extra `lm-eval`) asks it: likelihoods of continuations, responses.

Texts become the ids that lm_eval's own model `hf` gives them, so that both get the same numbers: special tokens in a
text are tokens, and the begin token comes first where the tokenizer's files say so and the text has none yet.
"""

import collections
import itertools
import json

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models import utils  # pyright: ignore[reportMissingImports]
import numpy as np

from r1jax import keys, models, sampling
from r1jax.config import require
from r1jax.evaluation.likelihood import Scorer, windows
from r1jax.metrics import progress
from r1jax.parallel import interrupt
from r1jax.tokenizers import TokenizerError

RESPONSE = 256  # tokens of a response to a task that does not say how many, as in lm_eval
CALLS = 16  # prompts of a call of the engine, in batches
MARK = '\uf8ff '  # a character for private use, and a space that templates may strip


class HarnessModel(TemplateLM):
  """One of our models for `lm_eval.simple_evaluate`.

  Args:
    cfg: ModelConfig. tokenizer: of the model.
    params: as `sampling.Engine.prepare_params` gives them for `mesh` and `precision`.
    mesh: devices. precision: sampling.Precision.
    limit: most tokens that the model reads at once.
    batch: continuations, or responses, at a time; a multiple of the devices that prompts are split over.
    key: PRNG key, for tasks that sample.
    think_end: text that ends the thinking; only what follows its last occurrence in a response is graded. '': none.
    info: dict for the results' 'config'.
  """

  def __init__(self, cfg, tokenizer, params, mesh, precision, *, limit, batch, key, think_end='', info=None):
    super().__init__()
    self.cfg, self.ours, self.params, self.mesh, self.precision = cfg, tokenizer, params, mesh, precision
    self.max_length, self.batch, self.key, self.think_end, self.info = limit, batch, key, think_end, info or {}
    options = models.ForwardOptions(precision.compute, mesh=mesh)
    self.scorer = Scorer(cfg, params, options, limit, batch)
    names = {i: token for token, i in tokenizer.ids.items()}
    self.prefix, self.eos = names[self.prefix_token_id], names[self.eot_token_id]

  @property
  def eot_token_id(self):
    return self.ours.eos[0]

  @property
  def prefix_token_id(self):
    return self.eot_token_id if self.ours.bos is None else self.ours.bos

  @property
  def tokenizer_name(self):
    return str(self.ours.path)

  def get_model_info(self):
    return self.info

  def chat_template(self, chat_template=False):
    require(
      not isinstance(chat_template, str), f'there is one chat template only, and none with the name {chat_template!r}.'
    )
    return self.ours.template if chat_template else None

  def apply_chat_template(self, chat_history, add_generation_prompt=True):
    """A conversation as text. Without a generation prompt its last message stays open, to be continued.

    A template that refuses the conversation is given it once more without the system's messages.
    """
    messages = [dict(turn) for turn in chat_history]
    if not add_generation_prompt:
      messages[-1]['content'] += MARK
    try:
      text = self.ours.render(messages, add_generation_prompt)
    except TokenizerError:
      text = self.ours.render([turn for turn in messages if turn['role'] != 'system'], add_generation_prompt)
    if add_generation_prompt:
      return text
    before, found, after = text.rpartition(MARK[0])
    require(found, f'{self.ours.path}: its chat template drops the beginning of an answer, so none can be continued.')
    return before if after.startswith(MARK[1:]) else before.rstrip()

  def tok_encode(self, string, add_special_tokens=None, **kwargs):
    bos = not string.startswith(self.prefix) if add_special_tokens is None else add_special_tokens
    return self.ours.encode(string, special=True, bos=bos)

  def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
    """requests: list of ((context, continuation), ids, ids). Returns a list of (log-likelihood, whether greedy)."""
    out = self._score([(context, continuation) for _, context, continuation in requests])
    for (texts, _, _), result in zip(requests, out):
      self.cache_hook.add_partial('loglikelihood', texts, result)
    return out

  def _score(self, pairs):
    with progress.fraction(len(pairs), 'log-likelihoods') as bar:

      def watch(done):
        bar.at(done)
        interrupt.raise_if_stopped()

      return [tuple(found) for found in self.scorer(pairs, watch)]

  def loglikelihood_rolling(self, requests, disable_tqdm=False):
    parts = [windows(self.tok_encode(r.args[0]), self.prefix_token_id, self.max_length) for r in requests]
    scores = iter(self._score([pair for found in parts for pair in found]))
    totals = [sum(total for total, _ in itertools.islice(scores, len(found))) for found in parts]
    for request, total in zip(requests, totals):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return totals

  def generate_until(self, requests, disable_tqdm=False):
    """One response a request. A request with its number among all of them decides what is sampled."""
    groups, out = collections.defaultdict(list), [''] * len(requests)
    for number, request in enumerate(requests):
      groups[json.dumps(request.args[1], sort_keys=True)].append(number)
    with progress.fraction(len(requests), 'responses') as bar:
      for numbers in groups.values():
        until, length, chosen = self._settings(requests[numbers[0]].args[1])
        prompts = {n: self.tok_encode(requests[n].args[0])[-(self.max_length - length) :] for n in numbers}
        numbers.sort(key=lambda n: len(prompts[n]), reverse=True)
        engine, every = self._engine(until, length), CALLS * self.batch
        for part in (numbers[first : first + every] for first in range(0, len(numbers), every)):
          interrupt.raise_if_stopped()
          responses = self._respond(engine, [prompts[n] for n in part], part, chosen)
          for n, text in zip(part, responses):
            out[n] = utils.postprocess_generated_text(text, [*until, self.eos], self.think_end or None)
            self.cache_hook.add_partial('generate_until', requests[n].args, out[n])
          bar.update(len(part))
    return out

  def _engine(self, until, length):
    return sampling.Engine(
      self.cfg,
      self.ours,
      self.mesh,
      max_prompt=self.max_length - length,
      max_response=length,
      stop=tuple(text for text in until if text),
      precision=self.precision,
      slots=self.batch,
      prefill=self.batch,
    )

  def _respond(self, engine, prompts, numbers, chosen):
    """The texts of responses to prompts, lists of ids. numbers: of their requests. chosen: SamplingParams."""
    keys_of_all = keys.row_keys(self.key, max(numbers) + 1, 1)
    batch = engine.sample(self.params, prompts, keys_of_all[np.array(numbers)], chosen)
    return [self.ours.decode(row[:n]) for row, n in zip(batch.tokens[:, 0], batch.lengths[:, 0])]

  def _settings(self, kwargs):
    """(strings that end a response, most tokens of one, SamplingParams) of a request's generation_kwargs.

    Raises ConfigError for what our sampler does not do.
    """
    given = dict(utils.normalize_gen_kwargs(kwargs, RESPONSE))
    until, length, draws = given.pop('until'), given.pop('max_gen_toks'), given.pop('do_sample')
    temperature, top_p, top_k = (given.pop(name, x) for name, x in (('temperature', 0.0), ('top_p', 1.0), ('top_k', 0)))
    chosen = sampling.SamplingParams(float(temperature), float(top_p), int(top_k), float(given.pop('min_p', 0.0)))
    unused = [f'{name}={value!r}' for name, value in given.items() if value not in (None, False)]
    require(not unused, f'a task sets {", ".join(unused)} in generation_kwargs, which our sampler lacks; override it.')
    require(
      0 < length < self.max_length,
      f'a task wants responses of {length} tokens, but the model reads {self.max_length} at once, the prompt included; '
      'lower max_gen_toks.',
    )
    return until, length, chosen if draws else sampling.SamplingParams(0.0)

"""A policy that returns graded samples as texts: a model on the devices, or a teacher behind an endpoint."""

import json

import jax
import numpy as np

from r1jax import keys, rollout
from r1jax.batch import Pending, RolloutBatch
from r1jax.rewards import mix

REFUSED = 'refused'  # stop reason, in addition to the engine's: the endpoint did not answer


class Policy:
  """Samples responses to problems and grades them.

  Args:
    make_sampler: function from a template to a rollout.Sampler; all samplers share one engine and grader.
    params: weights of the model, as the engine samples with; None for an endpoint.
    samples: responses to each problem.
    sampling: sampling.SamplingParams.
    key: PRNG key.
    reward: config.Reward, which decides whether a response is right.
    max_prompt: most tokens of a prompt; any number from 1 for a Teacher.
  """

  def __init__(self, make_sampler, params, samples, sampling, key, reward, max_prompt):
    self._make_sampler, self._params, self.samples, self._sampling = make_sampler, params, samples, sampling
    self._key, self._reward, self.max_prompt = key, reward, max_prompt

  def fits(self, problem, template):
    """Whether the problem's prompt is short enough. Always true for an endpoint, which enforces its own limit."""
    sampler = self._make_sampler(template)
    return len(rollout.encode_prompt(sampler.tokenizer, sampler.template, problem)[1]) <= self.max_prompt

  def start(self, problems, template, number):
    """Samples responses and hands them to the graders.

    Args:
      problems: list of P problems, all of which must fit.
      template: templates.Template, or an object with the same `format` and `chat`.
      number: number of this batch in the run. The draws depend on it and on the order of the problems only.

    Returns:
      Pending (rows, timeouts): P * samples rows in order, each the problem with 'prompt', 'response', 'tokens', 'stop',
      'sample', 'reward', 'parts' and 'correct'; and the number of responses whose grading timed out.
    """
    if not problems:
      return Pending(lambda: ([], 0))
    sampler = self._make_sampler(template)
    padded = problems
    if not sampler.engine.any_batch:  # to whole chunks, so that a partial one does not compile another program
      padded = problems + problems[:1] * (-len(problems) % sampler.chunk)
    key = keys.fold_in(self._key, number)
    drawn, pending = sampler.start(self._params, padded, self.samples, key, self._sampling)

    def wait():
      scores = pending.result()
      right = mix.right(scores.parts, self._reward, drawn.items)
      return [self._row(drawn, scores, right, i) for i in range(len(problems) * self.samples)], scores.timeouts

    return Pending(wait)

  def _row(self, drawn, scores, right, i):
    index = divmod(i, self.samples)  # (problem, sample)
    return drawn.items[i] | {
      'stop': str(drawn.batch.stop[index]),
      'sample': index[1],
      'reward': float(scores.total[index]),
      'parts': {name: float(x[index]) for name, x in scores.parts.items() if name in drawn.weights[i]},
      'correct': bool(right[i]),
    }


class Teacher:
  """An endpoint that stands in for both an engine and its tokenizer: a token "id" is a whole conversation or response.

  Tokens are counted by the endpoint; if it does not report them, as a fourth of the bytes.

  Args:
    complete: rewards.neural.endpoint.Endpoint with `whole` set.
  """

  shards, any_batch = 1, True
  watch = None

  def __init__(self, complete):
    self._complete = complete

  def encode(self, text, bos=False):
    return self.chat([{'role': 'user', 'content': text}])

  def chat(self, messages, generate=True):
    return [[{'role': turn['role'], 'content': turn['content']} for turn in messages]]

  def decode(self, ids):
    return ''.join(ids[:1])

  def response(self, ids):
    return self.decode(ids), ()  # an endpoint returns no control tokens

  def prepare_params(self, params):
    return params

  def sample(self, weights, prompts, keys, sampling, version=0):
    """RolloutBatch of one response per key, whose seed is derived from the key. A token is the text of a response."""
    draws = np.asarray(jax.random.key_data(keys))[..., -1] >> 1  # [P, G], as non-negative int32
    chats = [chat for (chat,) in prompts for _ in draws[0]]
    answers = [
      json.loads(reply) if reply is not None else {'response': '', 'stop': REFUSED, 'tokens': 0}
      for reply in self._complete(chats, draws.reshape(-1).tolist())
    ]
    texts = [answer['response'].encode('utf-8', 'replace').decode() for answer in answers]  # no unpaired surrogates
    counts = [
      -(-len(text.encode()) // 4) if answer['tokens'] is None else max(answer['tokens'], bool(text))
      for answer, text in zip(answers, texts)
    ]
    shape, zeros = draws.shape, np.zeros((*draws.shape, 1), np.float32)
    return RolloutBatch(
      prompts=np.zeros((shape[0], 1), np.int32),
      prompt_lengths=np.zeros(shape[0], np.int32),
      tokens=np.array([[text] for text in texts], object).reshape(*shape, 1),
      lengths=np.array(counts).reshape(shape),
      loss_mask=zeros > 0,
      sampler_logp=zeros,
      stop=np.array([answer['stop'] for answer in answers]).reshape(shape),
    )

"""The sampler: what it returns is what the model says, row by row, whatever the batch around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.sampling import Engine, Precision, SamplingError, SamplingParams, row_keys
from r1jax.sampling.logits import Restriction
from r1jax.training import policy

CFG = models.ModelConfig(vocab=29, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=256)


class Letters:
  """Token i is a letter: enough of a tokenizer for stop strings."""

  eos = (1,)

  def decode(self, ids):
    return ''.join(chr(96 + int(i)) for i in ids if i > 1)


@pytest.fixture(scope='module')
def params():
  tree = params_lib.init(models.specs(CFG), jax.random.key(0))
  noise = jax.random.normal(jax.random.key(1), tree['embed'].shape)
  return tree | {'embed': noise, 'unembed': 1.5 * tree['unembed']}  # tokens that matter, and differ in probability


def engine(max_response=80, **options):
  return Engine(
    CFG,
    Letters(),
    parallel.make_mesh(config.Mesh(), jax.devices()[:1]),
    max_prompt=20,
    max_response=max_response,
    **options,
  )


PROMPTS = [[5, 6, 7], [9], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [8, 8]]
KEYS = row_keys(jax.random.key(3), 4, 4)


LONGEST = 140


@jax.jit
def every_logit(params, tokens):
  """Logits after each token of one sequence, padded to LONGEST so that they compile once."""
  hidden = models.forward(params, CFG, tokens[None, None], jnp.arange(LONGEST)[None, None]).hidden
  return hidden[0, 0] @ models.unembedding(params).T


def logits_of(params, tokens):
  return np.asarray(every_logit(params, jnp.asarray(np.pad(tokens, (0, LONGEST - len(tokens))))))[: len(tokens)]


def reference_logprobs(params, prompt, response, temperature=1.0):
  logits = logits_of(params, np.concatenate([prompt, response])) / temperature
  every = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  return every[np.arange(len(prompt) - 1, len(logits) - 1), response]


def test_logprobs_are_the_models_own(params):
  out = engine().sample(params, PROMPTS, KEYS, SamplingParams(temperature=0.7), version=5)
  assert len(set(map(tuple, out.tokens.reshape(16, -1)))) > 8  # samples of one prompt differ
  assert out.prompt_lengths.tolist() == list(map(len, PROMPTS)) and out.prompts[2, :18].tolist() == PROMPTS[2]
  for at in np.ndindex(4, 4):
    n = out.lengths[at]
    want = reference_logprobs(params, PROMPTS[at[0]], out.tokens[at][:n], 0.7)
    np.testing.assert_allclose(out.sampler_logp[at][:n], want, atol=2e-5)
    assert out.loss_mask[at][:n].all() and not out.loss_mask[at][n:].any()
  assert (out.policy_version == 5).all()


@pytest.mark.parametrize('slots', [0, 6])
@pytest.mark.parametrize('restricted', [dict(top_p=0.7), dict(top_k=3), dict(min_p=0.2), dict(top_p=0.9, top_k=4)])
def test_a_trainer_that_keeps_the_thresholds_has_the_samplers_logprobs(params, restricted, slots):
  """Log-probs of the distribution that was sampled from, of which the trainer sees no more than the thresholds."""
  sampler = engine(max_response=12, slots=slots)
  batch = sampler.sample(params, PROMPTS, KEYS, SamplingParams(0.8, **restricted, thresholds=True))
  fn = policy.LogProbFn(CFG, models.ForwardOptions(), logit_chunk=30, temperature=0.8)
  arrays = batch.replace(stop=None, policy_version=None)
  kept, every = (policy.logprobs_program(params, b, fn=fn) for b in (arrays, arrays.replace(threshold=None)))
  np.testing.assert_allclose(kept[batch.loss_mask], batch.sampler_logp[batch.loss_mask], atol=2e-5)
  assert np.abs(every - batch.sampler_logp)[batch.loss_mask].max() > 0.1
  assert (batch.threshold[batch.loss_mask] < 0).all() and (batch.threshold[~batch.loss_mask] == 0).all()


def test_without_a_restriction_there_is_no_threshold(params):
  batch = engine(max_response=4).sample(params, PROMPTS, KEYS, SamplingParams(top_p=0.7))
  assert batch.threshold is None
  batch = engine(max_response=4).sample(params, PROMPTS, KEYS, SamplingParams(top_k=CFG.vocab, thresholds=True))
  assert (batch.threshold[batch.loss_mask] == -1e30).all()  # nothing was left out


def test_stops_are_what_the_tokens_say(params):
  out = engine().sample(params, PROMPTS, KEYS, SamplingParams())
  assert {'eos', 'length'} >= set(out.stop.flat) and (out.stop == 'eos').sum() > 4
  for at in np.ndindex(4, 4):
    tokens, length, stop = out.tokens[at], out.lengths[at], out.stop[at]
    inside, after = tokens[:length], tokens[length:]
    assert (inside[:-1] != 1).all() and (after == 0).all()
    assert (inside[-1] == 1) == (stop == 'eos') and (length == 80 or stop == 'eos')


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding(params):
  """Alone, with others, in another order, and with a cache that grows otherwise: the same tokens."""
  out = engine().sample(params, PROMPTS, KEYS, SamplingParams())
  alone = engine().sample(params, [PROMPTS[3]], KEYS[3:, 1:2], SamplingParams())
  np.testing.assert_array_equal(alone.tokens[0, 0], out.tokens[3, 1])
  turned = engine().sample(params, PROMPTS[::-1], KEYS[::-1], SamplingParams())
  np.testing.assert_array_equal(turned.tokens[::-1], out.tokens)
  longer = engine(max_response=120).sample(params, PROMPTS, KEYS, SamplingParams())
  np.testing.assert_array_equal(longer.tokens[..., :70], out.tokens[..., :70])


def test_greedy_takes_the_best_token(params):
  out = engine(max_response=10).sample(params, PROMPTS, KEYS[:, :1], SamplingParams(0.0))
  for row, prompt in enumerate(PROMPTS):
    so_far = list(prompt)
    for token in out.tokens[row, 0][: out.lengths[row, 0]]:
      assert token == logits_of(params, np.asarray(so_far))[-1].argmax()
      so_far.append(token)


def test_a_first_token_that_ends_the_response_has_length_one(params):
  certain = params | {'unembed': jnp.zeros_like(params['unembed'])}
  biased = certain | {'unembed': certain['unembed'].at[:, 1].set(1e4 * jnp.sign(_last_hidden(params)))}
  out = engine().sample(biased, [PROMPTS[0]], KEYS[:1], SamplingParams())
  assert out.lengths.tolist() == [[1] * 4] and set(out.stop[0]) == {'eos'} and (out.tokens[..., 0] == 1).all()


def _last_hidden(params):
  hidden = models.prefill(params, CFG, jnp.asarray([PROMPTS[0]]), jnp.asarray([3])).hidden
  return hidden[0]


def test_a_stop_string_cuts_after_the_token_that_completes_it(params):
  plain = engine().sample(params, PROMPTS, KEYS, SamplingParams())
  flat = lambda x: x.reshape(16, *x.shape[2:])
  texts = [Letters().decode(t[:n]) for t, n in zip(flat(plain.tokens), flat(plain.lengths))]
  stop = next(text[k : k + 2] for text in texts for k in range(40, len(text) - 2) if text.find(text[k : k + 2]) == k)
  cut = engine(stop=(stop,)).sample(params, PROMPTS, KEYS, SamplingParams())
  assert 'stop' in cut.stop
  rows = zip(texts, flat(cut.tokens), flat(cut.lengths), flat(cut.stop), flat(plain.lengths))
  for text, tokens, length, why, whole in rows:
    got = Letters().decode(tokens[:length])
    if stop in text:
      assert got == text[: text.find(stop) + 2] and why == 'stop'
    else:
      assert got == text and length == whole


def test_a_stop_string_completed_by_the_last_token_is_a_stop(params):
  plain = engine().sample(params, PROMPTS, KEYS, SamplingParams())
  row = np.unravel_index(plain.lengths.argmax(), (4, 4))
  texts = [Letters().decode(plain.tokens[row][:n]) for n in range(30)]
  n = next(n for n in range(6, 30) if len(texts[n]) > len(texts[n - 1]) and texts[n][-2:] not in texts[n - 1])
  cut = engine(stop=(texts[n][-2:],), max_response=n).sample(params, PROMPTS, KEYS, SamplingParams())
  assert cut.stop[row] == 'stop' and cut.lengths[row] == n


def test_weights_of_8_and_4_bits_change_log_probs_a_little_and_a_little_more(params):
  exact = engine().sample(params, [[5, 6, 7], [8, 9]], KEYS[:2], SamplingParams())
  off = []
  for weights in ('int8', 'int4'):
    sampler = engine(precision=Precision(weights=weights))
    coarse = sampler.sample(params, [[5, 6, 7], [8, 9]], KEYS[:2], SamplingParams())
    first = lambda batch: (batch.tokens[..., 0], batch.sampler_logp[..., 0])  # both behind the same text
    (tokens, logp), (exact_tokens, exact_logp) = first(coarse), first(exact)
    off.append(np.abs(logp - exact_logp)[tokens == exact_tokens].max())
  assert 0 < off[0] < off[1] < 0.5


def test_a_cache_of_8_bits_changes_log_probs_behind_the_first_token_a_little(params):
  exact, coarse = (
    engine(precision=Precision(cache=cache)).sample(params, PROMPTS, KEYS, SamplingParams(temperature=0.01))
    for cache in ('', 'int8')
  )
  np.testing.assert_array_equal(coarse.sampler_logp[..., 0], exact.sampler_logp[..., 0])  # of the prompt's own pass
  same = (coarse.tokens[..., :2] == exact.tokens[..., :2]).all(axis=2)
  off = np.abs(coarse.sampler_logp - exact.sampler_logp)[..., 1][same]
  assert same.any() and 0 < off.max() < 1


def test_a_model_whose_logits_are_not_numbers_is_refused(params):
  broken = params | {'norm': params['norm'].at[0].set(np.nan)}
  with pytest.raises(SamplingError, match='4 of 4 responses'):
    engine().sample(broken, [[5, 6, 7]], KEYS[:1], SamplingParams(top_p=0.9))


def test_prompts_over_the_limit_or_empty_are_refused(params):
  with pytest.raises(ValueError, match='1 to 20'):
    engine().sample(params, [[2] * 21], KEYS[:1], SamplingParams())
  with pytest.raises(ValueError, match='0 to'):
    engine().sample(params, [[2], []], KEYS[:2], SamplingParams())


def test_prompt_keys_and_values_exist_once_per_prompt(params):
  """Compiled for 8 samples a prompt, decoding takes the prompt's keys and values of one."""
  from r1jax.sampling import decode, weights

  keys = row_keys(jax.random.key(0), 2, 8)
  options = decode.DecodeOptions(CFG, Restriction(), (1,), models.ForwardOptions())
  params = weights.cast_weights(params, CFG, Precision())
  prompts, lengths = jnp.ones((2, 16), jnp.int32), jnp.array([16, 4])
  prefix, state, _ = decode.prefill(params, prompts, lengths, keys, 1.0, options=options, capacity=32)
  assert {x.shape for x in jax.tree.leaves(prefix)} == {(2, 1, 8, 16), (2, 1, 16, 8)}
  assert {x.shape for x in jax.tree.leaves(state.cache)} == {(2, 1, 8, 8, 32), (2, 1, 8, 32, 8)}

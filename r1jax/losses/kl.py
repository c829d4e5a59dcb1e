"""Estimators of KL(pi || ref) from single samples x ~ pi, with r(x) = pi_ref(x) / pi(x).

           value at a sample   E_pi[value]   as a loss, E_pi[gradient]       as a reward, E_pi[value * grad log pi]
  k1       -log r              KL(pi||ref)   0                               grad KL(pi||ref)
  k2       (log r)^2 / 2       biased        grad KL(pi||ref)                of no KL
  k3       r - 1 - log r       KL(pi||ref)   grad KL(ref||pi)                grad KL(pi||ref) - grad KL(ref||pi)

  k3_weighted, for x ~ old:    E_old[value]  as a loss, E_old[gradient]
           k3 * pi / old       KL(pi||ref)   grad KL(pi||ref)

(Names from J. Schulman, "Approximating KL divergence", 2020.) A good estimate of the value is not a good
estimate of the gradient, because autodiff does not see that the samples themselves come from pi:

* k1 as a loss pulls nowhere: its expected gradient is E_pi[grad log pi] = 0, so it adds noise and nothing
  else, whatever its coefficient. It is offered for completeness; use it in the reward.
* k2 as a loss has gradient -log r * grad log pi, whose mean is exactly the gradient of KL(pi||ref).
* k3 as a loss (the paper's, the default) has gradient (1 - r) grad log pi, whose mean is
  -E_ref[grad log pi]: the gradient of the *other* direction, KL(ref||pi). Both directions agree to first
  order in pi - ref, so close to the reference it does what the paper wants; far from it, it covers modes.
* k3_weighted as a loss (DeepSeek-V3.2, arXiv 2512.02556 section 3.1) multiplies k3 by the importance ratio to the
  policy that sampled, through which the gradient goes too. That adds k3 * grad log pi, what autodiff did not see, and
  holds after the first optimizer step as well. Where old is pi itself the ratio is 1, but its gradient is not 0.
* In the reward, k1 is the unbiased one. k3 there is a poor choice: its expected gradient is the difference
  of the two directions, which vanishes to first order near the reference.

These hold per token, given its prefix, where ref's support lies within pi's, and for samples of the policy
being differentiated: after the first optimizer step of a rollout (except k3_weighted), at a temperature other than
1, or under top-p and the like they are approximations. As a loss, the effect of a token on the KL of later ones is not
in the gradient; k1 in the reward, summed over the sequence (`kl_penalty`), has it.
"""

import jax
import jax.numpy as jnp

from r1jax.losses import reductions
from r1jax.typed import Array, Bool, Float, typed

# Log-ratios are capped here: exp of more may overflow, and infinity times 0 gives NaN gradients. Beyond e^20 = 5e8 the
# value is constant and its gradient zero, rather than of the wrong sign.
MAX_LOG_RATIO = 20.0


@typed
def k1(logp: Float[Array, '*b'], ref_logp: Float[Array, '*b'], old_logp=None) -> Float[Array, '*b']:
  """log pi - log ref. As a loss its expected on-policy gradient is zero."""
  return logp - ref_logp


@typed
def k2(logp: Float[Array, '*b'], ref_logp: Float[Array, '*b'], old_logp=None) -> Float[Array, '*b']:
  """(log pi - log ref)^2 / 2. As a loss its expected on-policy gradient is that of KL(pi||ref)."""
  return 0.5 * jnp.square(logp - ref_logp)


@typed
def k3(logp: Float[Array, '*b'], ref_logp: Float[Array, '*b'], old_logp=None) -> Float[Array, '*b']:
  """ref/pi - 1 - log(ref/pi), never negative. As a loss its expected on-policy gradient is that of KL(ref||pi)."""
  log_r = jnp.minimum(ref_logp - logp, MAX_LOG_RATIO)
  return jnp.expm1(log_r) - log_r


@typed
def k3_weighted(
  logp: Float[Array, '*b'], ref_logp: Float[Array, '*b'], old_logp: Float[Array, '*b'] | None = None
) -> Float[Array, '*b']:
  """pi/old * k3. As a loss its expected gradient is that of KL(pi||ref), for samples of old; None: pi, detached."""
  old_logp = jax.lax.stop_gradient(logp) if old_logp is None else old_logp
  return jnp.exp(jnp.minimum(logp - old_logp, MAX_LOG_RATIO)) * k3(logp, ref_logp)


# loss.kl_estimator -> (log pi, log ref, log old or None, of the policy that sampled) -> estimates, all alike in shape
ESTIMATORS = {'k1': k1, 'k2': k2, 'k3': k3, 'k3_weighted': k3_weighted}


@typed
def token_kl(
  logp: Float[Array, 'b t'],
  ref_logp: Float[Array, 'b t'],
  mask: Bool[Array, 'b t'],
  estimator: str,
  old_logp: Float[Array, 'b t'] | None = None,
) -> Float[Array, 'b t']:
  """The estimator at every response token.

  Args:
    logp: f32[B, T], log pi of the sampled tokens.
    ref_logp: f32[B, T], log pi_ref of them.
    mask: bool[B, T].
    estimator: a key of ESTIMATORS.
    old_logp: f32[B, T], log probabilities of them under the policy that sampled; None: it is pi.

  Returns:
    f32[B, T], zero under ~mask.
  """
  old_logp = None if old_logp is None else reductions.keep(old_logp, mask)
  return ESTIMATORS[estimator](reductions.keep(logp, mask), reductions.keep(ref_logp, mask), old_logp)


@typed
def kl_penalty(
  logp: Float[Array, 'b t'], ref_logp: Float[Array, 'b t'], mask: Bool[Array, 'b t'], estimator: str
) -> Float[Array, ' b']:
  """The estimator summed over each response, for KL in the reward: f32[B].

  The caller subtracts kl_coef times this from the reward, before advantages; `logp` is then the behaviour
  policy's. An advantage that divides by the group's standard deviation rescales the penalty with the reward.
  """
  return reductions.sequence_sum(token_kl(logp, ref_logp, mask, estimator), mask)

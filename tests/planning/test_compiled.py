"""Memory and FLOPs of compiled programs; FLOPs are compared with analytic counts."""

import jax
import jax.numpy as jnp
import pytest

from r1jax.planning import compiled


def flops(f, *shapes):
  """`dot_flops` of f, compiled for this machine."""
  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return compiled.dot_flops(jax.jit(f).lower(*args).compile().as_text())


def repeat(f, times):
  return lambda x, w: jax.lax.scan(lambda x, _: (f(x, w), None), x, None, length=times)[0]


product = lambda x, w: jnp.tanh(x @ w)


@pytest.mark.parametrize(
  ('f', 'times'),
  [
    (product, 1),
    (repeat(product, 7), 7),
    (repeat(repeat(product, 5), 3), 15),
    (lambda x, w: repeat(product, 4)(repeat(product, 6)(x, w), w), 10),
    (lambda x, w: jax.lax.fori_loop(2, 11, lambda i, x: product(x, w) + i, x), 9),
  ],
)
def test_the_body_of_a_loop_counts_once_for_each_iteration(f, times):
  assert flops(f, (24, 48), (48, 48)) == (times * 2 * 24 * 48 * 48, 0)


def test_a_loop_without_a_bound_counts_once_and_is_reported():
  f = lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 100, lambda x: product(x, w), x)
  assert flops(f, (24, 48), (48, 48)) == (2 * 24 * 48 * 48, 1)


def test_a_bound_given_at_run_time_is_no_trip_count():
  f = lambda x, w, n: jax.lax.fori_loop(0, n[0].astype(int), lambda i, x: product(x, w), x)
  assert flops(f, (24, 48), (48, 48), (1,)) == (2 * 24 * 48 * 48, 1)


def test_batched_products_and_gradients():
  batched = lambda x, w: jnp.einsum('bij,bjk->bik', x, w)
  assert flops(batched, (3, 8, 16), (3, 16, 32)) == (2 * 3 * 8 * 16 * 32, 0)
  loss = lambda x, w: (repeat(product, 5)(x, w) ** 2).sum()
  gradient_flops, _ = flops(jax.grad(loss, argnums=(0, 1)), (24, 48), (48, 48))
  assert gradient_flops == 3 * 5 * 2 * 24 * 48 * 48


def text(line, *operands):
  """The text of a program with one instruction."""
  parameters = ''.join(f'  %p{i} = f32[{shape}]{{0}} parameter({i})\n' for i, shape in enumerate(operands))
  return f'HloModule m\n\nENTRY %main (a: f32[1]) -> f32[1] {{\n{parameters}  ROOT %x = {line}\n}}\n'


def test_a_tpus_convolutions_count_as_matrix_products():
  plain = text('f32[1024,4096]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf', '1024,256', '256,4096')
  assert compiled.dot_flops(plain) == (2 * 1024 * 256 * 4096, 0)
  # Two batch entries as a window of 2 over entries 2 apart: of the two positions of each result one is not padding.
  batched = text(
    'f32[2,4,128,96]{3,2,1,0} convolution(%p0, %p1), window={size=2x1 lhs_dilate=2x1}, dim_labels=01bf_0io1->01bf',
    '2,4,128,64',
    '2,64,96,1',
  )
  assert compiled.dot_flops(batched) == (2 * 2 * 4 * 128 * 64 * 96, 0)


def test_a_ragged_product_counts_each_row_once():
  line = text(
    'f32[64,32]{1,0} ragged-dot(%p0, %p1, %p2), lhs_contracting_dims={1}, rhs_contracting_dims={1}, '
    'lhs_ragged_dims={0}, rhs_group_dims={0}',
    '64,16',
    '8,16,32',
    '8',
  )
  assert compiled.dot_flops(line) == (2 * 64 * 16 * 32, 0)


def test_memory_is_arguments_new_results_and_temporaries():
  f = jax.jit(lambda x, y: (x + 1, (y @ y).sum()), donate_argnums=0)
  memory = compiled.memory(f.lower(*[jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 2).compile())
  assert memory['argument_bytes'] == 2 * 4 * 256 * 256
  # The first result reuses the buffer of its argument.
  assert memory['peak_bytes'] < memory['argument_bytes'] + memory['temp_bytes'] + 1024


@pytest.mark.parametrize(
  ('message', 'needed'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (21.00G) exceeds '
      'available HBM (15.75G).',
      21 * 2**30,
    ),
    (
      'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n'
      'Total hbm usage >= 20.75G:',
      int(20.75 * 2**30),
    ),
    ('INTERNAL: something else used 3G', None),
  ],
)
def test_bytes_of_an_out_of_memory_error(message, needed):
  assert compiled.bytes_of_refusal(message) == needed

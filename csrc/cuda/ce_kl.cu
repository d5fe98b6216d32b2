#include "../core/ce_kl.h"

#include <cmath>

#include "../core/exponential.h"
#include "common.cuh"

namespace atlas_fast::cuda {
namespace {

template <class C>
struct Softmax {
  C top, log_sum, inverse;
  __device__ C log_p(C logit) const { return logit - top - log_sum; }
  __device__ C p(C logit) const { return exp_nonpositive(logit - top) * inverse; }
};

// The row of a team (a warp or a block); `lane` and `width` are the thread's place in it and its size.
template <bool kBlock, class T, class C>
__device__ Softmax<C> softmax(const T* logits, int64_t classes, int lane, int width) {
  C top = -INFINITY;
  for (int64_t i = lane; i < classes; i += width) {
    const C v = load(logits[i]);
    top = v > top ? v : top;
  }
  top = team_max<kBlock>(top, C(-INFINITY));
  C sum = 0;
  for (int64_t i = lane; i < classes; i += width) sum += exp_nonpositive(static_cast<C>(load(logits[i])) - top);
  sum = team_sum<kBlock>(sum);
  return {top, static_cast<C>(log(sum)), C(1) / sum};
}

template <class T>
struct Problem {
  using C = compute_t<T>;
  const T* __restrict__ first;
  const T* __restrict__ second;
  const int64_t* __restrict__ target;
  T* __restrict__ d_first;
  T* __restrict__ d_second;
  C* __restrict__ rows;
  C* __restrict__ terms;
  int64_t samples, classes;
  Scalar beta;
  bool reverse;
  C smoothing;
};

template <bool kBlock, class T, class C = compute_t<T>>
__device__ void row(const Problem<T>& problem, int64_t sample, int lane, int width) {
  const int64_t classes = problem.classes, offset = sample * classes, target = problem.target[sample];
  const C nan = static_cast<C>(NAN), inverse_samples = C(1) / static_cast<C>(problem.samples);
  const bool valid = target >= 0 && target < classes;
  const C floor = problem.smoothing / static_cast<C>(classes), beta = value_of<C>(problem.beta);
  const T* a = problem.first + offset;
  const T* b = problem.second ? problem.second + offset : nullptr;
  const auto p = softmax<kBlock, T, C>(a, classes, lane, width);
  const auto q = b ? softmax<kBlock, T, C>(b, classes, lane, width) : Softmax<C>{};

  const auto term_of = [&](C x, C y) {
    return problem.reverse ? kl_term(q.p(y), q.log_p(y), p.log_p(x)) : kl_term(p.p(x), p.log_p(x), q.log_p(y));
  };
  C ce = 0, kl = 0;
  for (int64_t i = lane; i < classes; i += width) {
    const C x = load(a[i]), t = smooth_target(i == target, problem.smoothing, floor);
    if (t != C(0)) ce -= t * p.log_p(x);
    if (b) kl += term_of(x, load(b[i]));
  }
  ce = team_sum<kBlock>(ce);
  kl = team_sum<kBlock>(kl);
  for (int64_t i = lane; i < classes; i += width) {
    const C x = load(a[i]), y = b ? C(load(b[i])) : C(0), t = smooth_target(i == target, problem.smoothing, floor);
    LogitGradients<C> d;
    if (b)
      d = ce_kl_gradients(p.p(x), q.p(y), t, term_of(x, y), kl, beta, inverse_samples, problem.reverse);
    else
      d.first = (p.p(x) - t) * inverse_samples;
    problem.d_first[offset + i] = store<T>(valid ? d.first : nan);
    if (b) problem.d_second[offset + i] = store<T>(valid ? d.second : nan);
  }
  if (lane == 0) {
    problem.rows[sample] = valid ? ce : nan;
    problem.rows[problem.samples + sample] = kl;
  }
}

// Means over the rows by one block, in a fixed order.
template <class T>
__device__ void means(const Problem<T>& problem) {
  using C = compute_t<T>;
  double ce = 0, kl = 0;
  for (int64_t i = threadIdx.x; i < problem.samples; i += blockDim.x) {
    ce += problem.rows[i];
    kl += problem.rows[problem.samples + i];
  }
  ce = team_sum<true>(ce) / problem.samples;
  kl = team_sum<true>(kl) / problem.samples;
  if (threadIdx.x == 0) {
    problem.terms[0] = static_cast<C>(ce + (problem.second ? value_of<C>(problem.beta) * kl : 0.0));
    problem.terms[1] = static_cast<C>(ce);
    problem.terms[2] = static_cast<C>(kl);
  }
}

template <class T>
__global__ void __launch_bounds__(1024) warp_rows(Problem<T> problem) {
  const int64_t first = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  for (int64_t sample = first; sample < problem.samples; sample += static_cast<int64_t>(gridDim.x) * blockDim.x / 32)
    row<false>(problem, sample, threadIdx.x % 32, 32);
  if (gridDim.x == 1) {  // the whole batch in this block: finish here
    __syncthreads();
    means(problem);
  }
}

template <class T>
__global__ void block_rows(Problem<T> problem) {
  for (int64_t sample = blockIdx.x; sample < problem.samples; sample += gridDim.x)
    row<true>(problem, sample, threadIdx.x, blockDim.x);
}

template <class T>
__global__ void means_kernel(Problem<T> problem) {
  means(problem);
}

}  // namespace

template <class T>
int ce_kl(const T* first, const T* second, const int64_t* target, T* d_first, T* d_second, compute_t<T>* rows,
          compute_t<T>* terms, int64_t samples, int64_t classes, Scalar beta, bool reverse, double label_smoothing,
          void* stream) {
  const Problem<T> problem{first,   second,  target, d_first, d_second, rows,
                           terms,   samples, classes, beta,   reverse,  static_cast<compute_t<T>>(label_smoothing)};
  // A training batch (up to 128 samples of up to 128 classes) is one launch of one block; larger ones take two.
  if (samples <= 128 && classes <= 128) return launch(warp_rows<T>, 1, 1024, stream, problem);
  const int error = classes <= 1024
                        ? launch(warp_rows<T>, grid_for(samples, kThreads / 32) + 1, kThreads, stream, problem)
                        : launch(block_rows<T>, grid_for(samples, 1) + (samples == 0), kThreads, stream, problem);
  return error ? error : launch(means_kernel<T>, 1, kThreads, stream, problem);
}
template int ce_kl(const float*, const float*, const int64_t*, float*, float*, float*, float*, int64_t, int64_t, Scalar,
                   bool, double, void*);
template int ce_kl(const double*, const double*, const int64_t*, double*, double*, double*, double*, int64_t, int64_t,
                   Scalar, bool, double, void*);
template int ce_kl(const bfloat16*, const bfloat16*, const int64_t*, bfloat16*, bfloat16*, float*, float*, int64_t,
                   int64_t, Scalar, bool, double, void*);

}  // namespace atlas_fast::cuda

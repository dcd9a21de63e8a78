/* One vector of LANES floats. With LANES 1 it is a plain float and any C compiler will do; wider
 * ones are the vector types of gcc and clang, whose operators work lane by lane. */
#ifndef COORDCBAM_LANES_H
#define COORDCBAM_LANES_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#else
#define INLINE static inline
#endif
#if defined(_MSC_VER)
#define restrict __restrict
#endif

#if LANES > 1
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES))); /* -1 where true */
#else
typedef float vec;
typedef int32_t mask;
#endif

INLINE vec load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void store(float *to, vec v) { memcpy(to, &v, sizeof v); }

INLINE vec splat(float value) {
#if LANES == 8
    return (vec){value, value, value, value, value, value, value, value};
#elif LANES == 4
    return (vec){value, value, value, value};
#else
    return value;
#endif
}

/* a > b ? a : b and a < b ? a : b; with a NaN the answer is b, or NaN where the machine says so. */
#if LANES == 8
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#elif LANES == 4 && defined(__SSE2__)
INLINE vec larger(vec a, vec b) { return (vec)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm_min_ps((__m128)a, (__m128)b); }
#elif LANES == 4 && defined(__aarch64__)
INLINE vec larger(vec a, vec b) { return (vec)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
INLINE vec smaller(vec a, vec b) { return (vec)vminq_f32((float32x4_t)a, (float32x4_t)b); }
#elif LANES == 4
INLINE vec choose(mask m, vec a, vec b) { return (vec)((m & (mask)a) | (~m & (mask)b)); }
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }
#else
INLINE vec larger(vec a, vec b) { return a > b ? a : b; }
INLINE vec smaller(vec a, vec b) { return a < b ? a : b; }
#endif

/* What torch.clamp does, NaN included. */
INLINE vec clamped(vec k, vec low, vec high) { return smaller(high, larger(low, k)); }

#if LANES > 1
INLINE mask equal(vec a, vec b) { return a == b; }
INLINE mask inside(vec k, vec low, vec high) { return (k >= low) & (k <= high); }
INLINE vec keep(vec v, mask m) { return (vec)((mask)v & m); }
/* Where torch lets a gradient through: a clamp within its ends, a relu not at or under 0. */
INLINE mask between(vec v, vec low, vec high) { return (v > low) & (v < high); }
INLINE mask passes_relu(vec v) { return ~(v <= splat(0.0f)); }
#else
INLINE mask equal(vec a, vec b) { return -(mask)(a == b); }
INLINE mask inside(vec k, vec low, vec high) { return -(mask)(k >= low && k <= high); }
INLINE vec keep(vec v, mask m) { return m ? v : 0.0f; }
INLINE mask between(vec v, vec low, vec high) { return -(mask)(v > low && v < high); }
INLINE mask passes_relu(vec v) { return -(mask) !(v <= 0.0f); }
#endif
INLINE vec ones(mask m) { return keep(splat(1.0f), m); }

/* sum + v, as sum + v * one: where additions and maxima share their units, multiplications have
 * others. `one` must be hidden from the compiler, which would add; the result is the same to the bit. */
#if LANES == 8
INLINE vec hidden_one(void) {
    vec one = splat(1.0f);
    __asm__("" : "+x"(one));
    return one;
}
INLINE vec plus(vec sum, vec v, vec one) { return (vec)_mm256_fmadd_ps((__m256)v, (__m256)one, (__m256)sum); }
#else
INLINE vec hidden_one(void) { return splat(1.0f); }
INLINE vec plus(vec sum, vec v, vec one) {
    (void)one;
    return sum + v;
}
#endif

/* A row of n >= LANES floats is read in whole vectors, the last one moved back to end with the row:
 * `fresh` are its lanes that no earlier vector has had. */
INLINE int64_t slots_of(int64_t n) { return (n + LANES - 1) / LANES; }

INLINE int64_t place_of(int64_t slot, int64_t n) {
    return (slot + 1) * LANES <= n ? slot * LANES : n - LANES;
}

/* Lanes from `first` on, 0 to LANES; read from memory, since lane by lane it is a chain of waits. */
INLINE mask lanes_from(int64_t first) {
#if LANES > 1
    static const int32_t edge[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                     -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    mask m;
    memcpy(&m, edge + 16 - first, sizeof m);
    return m;
#else
    return first > 0 ? 0 : -1;
#endif
}

INLINE mask fresh(int64_t slot, int64_t n) { return lanes_from(slot * LANES - place_of(slot, n)); }

INLINE float total(vec v) {
#if LANES > 1
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
#else
    return v;
#endif
}

INLINE double wide_total(vec v) {
#if LANES == 8
    const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    const __m256d four = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1)));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
#elif LANES > 1
    double sum = 0.0;
    for (int i = 0; i < LANES; i++) sum += (double)v[i];
    return sum;
#else
    return (double)v;
#endif
}

INLINE float largest(vec v) {
#if LANES > 1
    float top = v[0];
    for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
    return top;
#else
    return v;
#endif
}

INLINE int32_t count(mask m) {
#if LANES > 1
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += m[i];
    return sum;
#else
    return m;
#endif
}

/* Four vectors to their four sums or maxima: half of a narrow row's time if done one by one. */
#if LANES >= 4 && defined(__SSE2__)
#if LANES == 8
#define HALVES(op, v) op(_mm256_castps256_ps128((__m256)(v)), _mm256_extractf128_ps((__m256)(v), 1))
#else
#define HALVES(op, v) ((__m128)(v))
#endif
#define ACROSS(op, v, to)                                                                      \
    do {                                                                                       \
        __m128 a = HALVES(op, v[0]), b = HALVES(op, v[1]), c = HALVES(op, v[2]), d = HALVES(op, v[3]); \
        _MM_TRANSPOSE4_PS(a, b, c, d);                                                         \
        _mm_storeu_ps(to, op(op(a, b), op(c, d)));                                             \
    } while (0)
INLINE void totals4(const vec *v, float *to) { ACROSS(_mm_add_ps, v, to); }
INLINE void largest4(const vec *v, float *to) { ACROSS(_mm_max_ps, v, to); }
#elif LANES == 4 && defined(__aarch64__)
#define ACROSS(op, v, to)                                                                 \
    vst1q_f32(to, op(op((float32x4_t)(v)[0], (float32x4_t)(v)[1]),                        \
                     op((float32x4_t)(v)[2], (float32x4_t)(v)[3])))
INLINE void totals4(const vec *v, float *to) { ACROSS(vpaddq_f32, v, to); }
INLINE void largest4(const vec *v, float *to) { ACROSS(vpmaxq_f32, v, to); }
#else
INLINE void totals4(const vec *v, float *to) {
    for (int r = 0; r < 4; r++) to[r] = total(v[r]);
}
INLINE void largest4(const vec *v, float *to) {
    for (int r = 0; r < 4; r++) to[r] = largest(v[r]);
}
#endif

/* torch's maximum: a NaN wins and stays. */
INLINE float torch_max(float top, float v) { return v > top || v != v ? v : top; }

INLINE int same(float a, float b) { return a == b || (a != a && b != b); }

INLINE int64_t first_of(const float *values, int64_t step, int64_t n, float wanted) {
    for (int64_t i = 0; i < n; i++)
        if (same(values[i * step], wanted)) return i;
    return 0;
}

/* Padded so that a row's moved-back last vector has a place of its own. */
INLINE float *scratch(int64_t floats) { return malloc((size_t)(floats + 64) * sizeof(float)); }

INLINE int64_t padded(int64_t n) { return slots_of(n) * LANES; }

/* From padded slots to the row itself, times a factor. */
INLINE void unpad(float *restrict to, const float *restrict from, int64_t n, float factor) {
    const vec f = splat(factor);
    for (int64_t i = 0; i < slots_of(n); i++) store(to + place_of(i, n), load(from + i * LANES) * f);
}

#endif

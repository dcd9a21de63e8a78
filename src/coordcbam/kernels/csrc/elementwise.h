/* kernels/elementwise.py, a vector at a time. A NaN stays one everywhere. */
#ifndef COORDCBAM_ELEMENTWISE_H
#define COORDCBAM_ELEMENTWISE_H

#include "call.h"
#include "lanes.h"

/* exp(0) is exactly 1. Beyond float32's range the answer is infinite, or small instead of 0. */
INLINE vec exponential(vec x) {
#if LANES > 1
    /* 1.5 * 2^23: what is added to it is rounded to an integer, which its last bits then hold. */
    const vec shift = splat(12582912.0f);
    const vec inside = clamped(x, splat(-87.0f), splat(89.0f));
    const vec shifted = inside * splat(1.44269504f) + shift;
    const vec n = shifted - shift;
    /* log(2) in two parts, the first with so few bits that n times it is exact. */
    const vec r = (inside - n * splat(0.693359375f)) - n * splat(-2.12194440e-4f);
    vec sum = splat(1.0f / 5040.0f);
    sum = sum * r + splat(1.0f / 720.0f);
    sum = sum * r + splat(1.0f / 120.0f);
    sum = sum * r + splat(1.0f / 24.0f);
    sum = sum * r + splat(1.0f / 6.0f);
    sum = sum * r + splat(0.5f);
    sum = sum * r + splat(1.0f);
    sum = sum * r + splat(1.0f);
    return sum * (vec)(((mask)shifted - (mask)shift + 127) << 23);
#else
    return expf(x);
#endif
}

INLINE vec sigmoid(vec v) { return splat(1.0f) / (splat(1.0f) + exponential(-v)); }

INLINE vec hard(vec v) { return clamped(v + splat(3.0f), splat(0.0f), splat(6.0f)) * splat(1.0f / 6.0f); }

INLINE vec activated(const int act, vec v) {
    if (act == RELU) return larger(splat(0.0f), v);
    return act == SILU ? v / (splat(1.0f) + exponential(-v)) : v * hard(v);
}

/* Derivatives, as torch has them where they jump. */
INLINE vec hard_slope(vec v) { return keep(splat(1.0f / 6.0f), between(v, splat(-3.0f), splat(3.0f))); }

INLINE vec slope(const int act, vec v) {
    if (act == RELU) return ones(passes_relu(v));
    if (act == HSWISH) return hard(v) + v * hard_slope(v);
    const vec s = sigmoid(v);
    return s * (splat(1.0f) + v * (splat(1.0f) - s));
}

INLINE vec gated(const int gate, vec v) { return gate == SIGMOID ? sigmoid(v) : hard(v); }

/* exp(reach * u) or 1 + reach * u with u = 2 * gate - 1: exactly 1 for a gate of one half. */
INLINE vec centred(const int space, vec gate, vec reach) {
    const vec u = splat(2.0f) * gate - splat(1.0f);
    return space == LIN ? splat(1.0f) + reach * u : exponential(reach * u);
}

#endif

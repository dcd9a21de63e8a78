/* What both layouts share: the gain, the sums of measure, exact maxima. */
#ifndef COORDCBAM_GAIN_H
#define COORDCBAM_GAIN_H

#include "lanes.h"
#include "table.h"

#define BAND 4   /* rows at once: a column's sums are then loaded and stored once for all of them */
#define NARROW 3 /* vectors of a row so narrow that what its columns need stays in registers */
#define TALL 128 /* rows until sums of columns are put aside, so that tall maps stay exact */

/* Maxima of a plane that may hold a NaN, which the machine's own maximum loses; says the largest. */
static float exact_maxima(const float *x, int64_t height, int64_t width, int64_t step_h,
                          int64_t step_w, float *row_max, float *col_max) {
    float peak = -INFINITY;
    for (int64_t w = 0; w < width; w++) col_max[w] = -INFINITY;
    for (int64_t h = 0; h < height; h++) {
        row_max[h] = -INFINITY;
        for (int64_t w = 0; w < width; w++) {
            const float v = x[h * step_h + w * step_w];
            row_max[h] = torch_max(row_max[h], v);
            col_max[w] = torch_max(col_max[w], v);
        }
        peak = torch_max(peak, row_max[h]);
    }
    return peak;
}

/* The same of values without a NaN. */
INLINE float peak_of(const float *values, int64_t n) {
    float peak = -INFINITY;
    if (n >= LANES) {
        vec top = load(values + n - LANES);
        for (int64_t i = 0; i + LANES <= n; i += LANES) top = larger(load(values + i), top);
        return largest(top);
    }
    for (int64_t i = 0; i < n; i++) peak = values[i] > peak ? values[i] : peak;
    return peak;
}

/* Four sums at once, which need not wait for each other. */
INLINE double wide_sum(const float *values, int64_t n) {
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) sums[k] += (double)values[i + k];
    for (; i < n; i++) sums[0] += (double)values[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* The gain of a plane: k = rest + rows[h] * cols[w], clamped or not, and what to do with it. */
typedef struct {
    vec rest, low, high; /* of k */
    vec strength, keep;  /* out = x * (keep + strength * k) */
    vec channel;
} Gain;

INLINE Gain gain_of(const Job *job, int64_t plane) {
    const float strength = job->alpha * job->channel[plane];
    Gain gain = {splat(1.0f - job->beta), splat(job->low), splat(job->high), splat(strength),
                 splat(1.0f - job->alpha), splat(job->channel[plane])};
    return gain;
}

/* Where nothing clamps, strength is already in `row` and `rest`: one operation fewer. */
INLINE vec factor_of(const int clamps, const Gain *gain, vec rest, vec row, vec col) {
    if (!clamps) return rest + row * col;
    return gain->keep + gain->strength * clamped(gain->rest + row * col, gain->low, gain->high);
}

INLINE void add_sums(vec *sums, vec v, vec y, const int last, mask own) {
    if (last) v = keep(v, own), y = keep(y, own);
    sums[XX] += v * v;
    sums[XY] += v * y;
    sums[YY] += y * y;
    sums[X] += v;
    sums[Y] += y;
}

/* Adds per lane until the sums go on in double. */
#define ADDS 64

INLINE void flush(vec *sums, double *to) {
    for (int i = 0; i < SUMS; i++) to[i] += wide_total(sums[i]), sums[i] = splat(0.0f);
}

#endif

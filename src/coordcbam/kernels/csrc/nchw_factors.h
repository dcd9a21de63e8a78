/* NCHW: the gradients of the factors and of alpha. */
#ifndef COORDCBAM_NCHW_FACTORS_H
#define COORDCBAM_NCHW_FACTORS_H

#include "gain.h"

/* Sums over a plane of product = grad * x, and of product * clamp(k). */
typedef struct {
    vec whole, through;
    double wide_whole, wide_through;
} Sums;

INLINE void settle(Sums *sums) {
    sums->wide_whole += wide_total(sums->whole);
    sums->wide_through += wide_total(sums->through);
    sums->whole = sums->through = splat(0.0f);
}

/* `row` is beta * rows[h]. */
INLINE void factors_slot(const int rows, const int clamps, const Gain *gain, const float *grad,
                         const float *x, int64_t width, const vec *row, vec col, float *by_rows,
                         vec *by_cols, Sums *sums, const int last, mask own) {
    vec sum = splat(0.0f);
    for (int r = 0; r < rows; r++) {
        const vec product = load(grad + r * width) * load(x + r * width);
        vec free = product;
        sums->whole += last ? keep(product, own) : product;
        if (clamps) {
            const vec k = gain->rest + row[r] * col;
            const vec part = product * clamped(k, gain->low, gain->high);
            sums->through += last ? keep(part, own) : part;
            free = product * ones(inside(k, gain->low, gain->high));
        }
        by_cols[r] += last ? keep(free * col, own) : free * col;
        sum += free * row[r];
    }
    store(by_rows, load(by_rows) + sum);
}

INLINE void factors_band(const int rows, const int clamps, const Job *job, const Gain *gain,
                         int64_t plane, int64_t h, float *by_rows, Sums *sums) {
    const int64_t width = job->width, last = slots_of(width) - 1, end = place_of(last, width);
    const float *grad = job->grad + (plane * job->height + h) * width;
    const float *x = job->x + (plane * job->height + h) * width;
    const float *cols = job->cols + plane * width;
    float *to = job->grad_rows + plane * job->height + h;
    vec by_cols[BAND], row[BAND];
    for (int r = 0; r < rows; r++) {
        by_cols[r] = splat(0.0f);
        row[r] = splat(job->beta * job->rows[plane * job->height + h + r]);
    }
    for (int64_t w = 0; w < last * LANES; w += LANES)
        factors_slot(rows, clamps, gain, grad + w, x + w, width, row, load(cols + w), by_rows + w,
                     by_cols, sums, 0, fresh(0, width));
    factors_slot(rows, clamps, gain, grad + end, x + end, width, row, load(cols + end),
                 by_rows + last * LANES, by_cols, sums, 1, fresh(last, width));
    if (rows == BAND) totals4(by_cols, to);
    else to[0] = total(by_cols[0]);
}

INLINE void factors_plane(const int clamps, const Job *job, int64_t plane, float *by_rows) {
    const int64_t height = job->height, width = job->width, each = BAND * slots_of(width);
    const Gain gain = gain_of(job, plane);
    const float channel = job->channel[plane], strength = job->alpha * channel;
    const float *rows = job->rows + plane * height;
    float *grad_rows = job->grad_rows + plane * height;
    Sums sums = {splat(0.0f), splat(0.0f), 0.0, 0.0};
    int64_t h = 0, adds = 0;
    memset(by_rows, 0, (size_t)padded(width) * sizeof(float));
    for (; h + BAND <= height; h += BAND) {
        factors_band(BAND, clamps, job, &gain, plane, h, by_rows, &sums);
        if ((adds += each) >= ADDS) settle(&sums), adds = 0;
    }
    for (; h < height; h++) factors_band(1, clamps, job, &gain, plane, h, by_rows, &sums);
    settle(&sums);
    double through = sums.wide_through;
    if (!clamps) {
        through = (double)(1.0f - job->beta) * sums.wide_whole;
        for (h = 0; h < height; h++) through += (double)(job->beta * rows[h]) * (double)grad_rows[h];
    }
    for (h = 0; h < height; h++) grad_rows[h] *= job->beta * strength;
    unpad(job->grad_cols + plane * width, by_rows, width, strength);
    job->grad_channel[plane] = (float)((double)job->alpha * through);
    job->sums[plane] = (double)channel * through - sums.wide_whole;
}

static int nchw_factors(const Job *job, int64_t begin, int64_t end) {
    float *by_rows = scratch(padded(job->width));
    if (by_rows == NULL) return 1;
    for (int64_t plane = begin; plane < end; plane++) {
        if (job->clamps) factors_plane(1, job, plane, by_rows);
        else factors_plane(0, job, plane, by_rows);
    }
    free(by_rows);
    return 0;
}

#endif

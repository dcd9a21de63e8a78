/* NCHW: the scaling, alone and with the monitor's sums. */
#ifndef COORDCBAM_NCHW_SCALE_H
#define COORDCBAM_NCHW_SCALE_H

#include "gain.h"

INLINE void scale_row(const int clamps, const Gain *gain, vec rest, vec row, const float *cols,
                      const float *x, float *out, int64_t width) {
    const int64_t last = slots_of(width) - 1, end = place_of(last, width);
    for (int64_t w = 0; w < last * LANES; w += LANES)
        store(out + w, load(x + w) * factor_of(clamps, gain, rest, row, load(cols + w)));
    store(out + end, load(x + end) * factor_of(clamps, gain, rest, row, load(cols + end)));
}

/* All rows of a plane; `slots`: how many vectors a row has whose factors fit into registers, or 0. */
INLINE void scale_rows(const int clamps, const int slots, const Job *job, int64_t plane, const Gain *gain) {
    const int64_t height = job->height, width = job->width;
    const vec rest = gain->keep + gain->strength * gain->rest;
    const float strength = clamps ? job->beta : job->beta * (job->alpha * job->channel[plane]);
    const float *rows = job->rows + plane * height, *cols = job->cols + plane * width;
    const float *x = job->x + plane * height * width;
    float *out = job->out + plane * height * width;
    vec col[NARROW];
    for (int i = 0; i < slots; i++) col[i] = load(cols + (i + 1 < slots ? i * LANES : width - LANES));
    for (int64_t h = 0; h < height; h++, x += width, out += width) {
        const vec row = splat(strength * rows[h]);
        if (slots == 0) scale_row(clamps, gain, rest, row, cols, x, out, width);
        for (int i = 0; i < slots; i++) {
            const int64_t at = i + 1 < slots ? i * LANES : width - LANES;
            store(out + at, load(x + at) * factor_of(clamps, gain, rest, row, col[i]));
        }
    }
}

INLINE void scale_planes(const int clamps, const Job *job, int64_t begin, int64_t end) {
    const int64_t slots = LANES == 1 ? 0 : slots_of(job->width);
    for (int64_t plane = begin; plane < end; plane++) {
        const Gain gain = gain_of(job, plane);
        if (slots == 2) scale_rows(clamps, 2, job, plane, &gain);
        else if (slots == 3) scale_rows(clamps, 3, job, plane, &gain);
        else scale_rows(clamps, 0, job, plane, &gain);
    }
}

static int nchw_scale(const Job *job, int64_t begin, int64_t end) {
    if (job->clamps) scale_planes(1, job, begin, end);
    else scale_planes(0, job, begin, end);
    return 0;
}

INLINE void measure_slot(const int clamps, const Gain *gain, vec rest, vec row, vec scaled_row,
                         vec col, const float *x, float *out, vec *sums, const int last, mask own) {
    const vec v = load(x);
    vec k = gain->rest + row * col;
    if (clamps) k = clamped(k, gain->low, gain->high);
    store(out, v * factor_of(clamps, gain, rest, clamps ? row : scaled_row, col));
    add_sums(sums, v, v * (gain->channel * k), last, own);
}

INLINE void measure_plane(const int clamps, const Job *job, int64_t plane, double *to) {
    const int64_t height = job->height, width = job->width, last = slots_of(width) - 1;
    const int64_t end = place_of(last, width);
    const mask own = fresh(last, width);
    const Gain gain = gain_of(job, plane);
    const vec rest = gain.keep + gain.strength * gain.rest;
    const float *cols = job->cols + plane * width;
    vec sums[SUMS];
    int64_t adds = 0;
    for (int i = 0; i < SUMS; i++) to[i] = 0.0, sums[i] = splat(0.0f);
    for (int64_t h = 0; h < height; h++) {
        const float *x = job->x + (plane * height + h) * width;
        float *out = job->out + (plane * height + h) * width;
        const float factor = job->rows[plane * height + h];
        const vec row = splat(job->beta * factor);
        const vec scaled = splat(job->beta * (job->alpha * job->channel[plane]) * factor);
        for (int64_t w = 0; w < last * LANES; w += LANES)
            measure_slot(clamps, &gain, rest, row, scaled, load(cols + w), x + w, out + w, sums, 0, own);
        measure_slot(clamps, &gain, rest, row, scaled, load(cols + end), x + end, out + end, sums, 1, own);
        if ((adds += last + 1) >= ADDS) flush(sums, to), adds = 0;
    }
    flush(sums, to);
}

static int nchw_measure(const Job *job, int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; plane++) {
        if (job->clamps) measure_plane(1, job, plane, job->sums + SUMS * plane);
        else measure_plane(0, job, plane, job->sums + SUMS * plane);
    }
    return 0;
}

#endif

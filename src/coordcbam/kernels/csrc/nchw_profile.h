/* NCHW: means and maxima, a plane at a time. */
#ifndef COORDCBAM_NCHW_PROFILE_H
#define COORDCBAM_NCHW_PROFILE_H

#include "gain.h"

INLINE void profile_slot(const int rows, const float *x, int64_t width, float *sums, float *tops,
                         vec *row_sum, vec *row_top, const int last, mask own) {
    vec sum = splat(0.0f), top = load(tops);
    for (int r = 0; r < rows; r++) {
        const vec v = load(x + r * width);
        row_sum[r] += last ? keep(v, own) : v;
        row_top[r] = larger(v, row_top[r]);
        sum += v;
        top = larger(v, top);
    }
    store(sums, load(sums) + sum);
    store(tops, top);
}

INLINE void profile_band(const int rows, const float *x, int64_t width, float *sums, float *tops,
                         float *row_sums, float *row_tops) {
    const int64_t last = slots_of(width) - 1, end = place_of(last, width);
    vec sum[BAND], top[BAND];
    for (int r = 0; r < rows; r++) sum[r] = splat(0.0f), top[r] = splat(-INFINITY);
    for (int64_t w = 0; w < last * LANES; w += LANES)
        profile_slot(rows, x + w, width, sums + w, tops + w, sum, top, 0, fresh(0, width));
    profile_slot(rows, x + end, width, sums + last * LANES, tops + last * LANES, sum, top, 1,
                 fresh(last, width));
    if (rows == BAND) {
        totals4(sum, row_sums);
        largest4(top, row_tops);
    } else {
        row_sums[0] = total(sum[0]);
        row_tops[0] = largest(top[0]);
    }
}

static void profile_plane(const Job *job, int64_t plane, float *sums) {
    const int64_t height = job->height, width = job->width, slots = padded(width);
    const float *x = job->x + plane * height * width;
    float *row_mean = job->row_mean + plane * height, *row_max = job->row_max + plane * height;
    float *tops = sums + slots, *all = tops + slots;
    double whole = 0.0;
    float peak = -INFINITY;
    for (int64_t w = 0; w < slots; w++) tops[w] = -INFINITY, all[w] = 0.0f;
    for (int64_t h = 0; h < height;) {
        const int64_t stop = h + TALL < height ? h + TALL : height;
        memset(sums, 0, (size_t)slots * sizeof(float));
        for (; h + BAND <= stop; h += BAND)
            profile_band(BAND, x + h * width, width, sums, tops, row_mean + h, row_max + h);
        for (; h < stop; h++)
            profile_band(1, x + h * width, width, sums, tops, row_mean + h, row_max + h);
        for (int64_t w = 0; w < slots; w += LANES) store(all + w, load(all + w) + load(sums + w));
    }
    unpad(job->col_mean + plane * width, all, width, 1.0f / (float)height);
    unpad(job->col_max + plane * width, tops, width, 1.0f);
    for (int64_t h = 0; h < height; h++) whole += (double)row_mean[h];
    for (int64_t h = 0; h < height; h++) row_mean[h] /= (float)width;
    /* A NaN shows in the sum, so that the loops above need not look for one. */
    if (whole != whole) exact_maxima(x, height, width, width, 1, row_max, job->col_max + plane * width);
    for (int64_t h = 0; h < height; h++) peak = torch_max(peak, row_max[h]);
    job->mean[plane] = (float)(whole / (double)(height * width));
    job->peak[plane] = peak;
}

static int nchw_profile(const Job *job, int64_t begin, int64_t end) {
    float *sums = scratch(3 * padded(job->width));
    if (sums == NULL) return 1;
    for (int64_t plane = begin; plane < end; plane++) profile_plane(job, plane, sums);
    free(sums);
    return 0;
}

#endif

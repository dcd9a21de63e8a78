/* NCHW: means and maxima, a plane at a time. */
#ifndef COORDCBAM_NCHW_PROFILE_H
#define COORDCBAM_NCHW_PROFILE_H

#include "gain.h"

INLINE void profile_slot(const int rows, const float *x, int64_t width, float *sums, float *tops,
                         vec *row_sum, vec *row_top, vec one, const int last, mask own) {
    vec sum = splat(0.0f), top = load(tops);
    for (int r = 0; r < rows; r++) {
        const vec v = load(x + r * width);
        row_sum[r] = plus(row_sum[r], last ? keep(v, own) : v, one);
        row_top[r] = larger(v, row_top[r]);
        sum = plus(sum, v, one);
        top = larger(v, top);
    }
    store(sums, plus(load(sums), sum, one));
    store(tops, top);
}

INLINE void end_rows(const int rows, const vec *sum, const vec *top, float *row_sums, float *row_tops) {
    if (rows == BAND) {
        totals4(sum, row_sums);
        largest4(top, row_tops);
    } else {
        row_sums[0] = total(sum[0]);
        row_tops[0] = largest(top[0]);
    }
}

INLINE void profile_band(const int rows, const float *x, int64_t width, float *sums, float *tops,
                         float *row_sums, float *row_tops) {
    const int64_t last = slots_of(width) - 1, end = place_of(last, width);
    const vec one = hidden_one();
    vec sum[BAND], top[BAND];
    for (int r = 0; r < rows; r++) sum[r] = splat(0.0f), top[r] = splat(-INFINITY);
    for (int64_t w = 0; w < last * LANES; w += LANES)
        profile_slot(rows, x + w, width, sums + w, tops + w, sum, top, one, 0, fresh(0, width));
    profile_slot(rows, x + end, width, sums + last * LANES, tops + last * LANES, sum, top, one, 1,
                 fresh(last, width));
    end_rows(rows, sum, top, row_sums, row_tops);
}

/* From sums and maxima of rows, and finished columns, to what is left of a plane. */
static void plane_end(const Job *job, int64_t plane) {
    const int64_t height = job->height, width = job->width;
    float *row_mean = job->row_mean + plane * height, *row_max = job->row_max + plane * height;
    const double whole = wide_sum(row_mean, height);
    for (int64_t h = 0; h < height; h++) row_mean[h] /= (float)width;
    job->mean[plane] = (float)(whole / (double)(height * width));
    /* A NaN shows in the sum, so that the loops above need not look for one. */
    if (whole == whole) job->peak[plane] = peak_of(row_max, height);
    else job->peak[plane] = exact_maxima(job->x + plane * height * width, height, width, width, 1, row_max,
                                         job->col_max + plane * width);
}

static void profile_plane(const Job *job, int64_t plane, float *sums) {
    const int64_t height = job->height, width = job->width, slots = padded(width);
    const float *x = job->x + plane * height * width;
    float *row_mean = job->row_mean + plane * height, *row_max = job->row_max + plane * height;
    float *tops = sums + slots, *all = tops + slots;
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
}

INLINE void narrow_rows(const int rows, const int slots, const float *x, int64_t width, vec *sums, vec *tops,
                        vec one, float *row_sums, float *row_tops) {
    const mask own = fresh(slots - 1, width);
    vec sum[BAND], top[BAND];
    for (int r = 0; r < rows; r++, x += width) {
        sum[r] = splat(0.0f), top[r] = splat(-INFINITY);
        for (int i = 0; i < slots; i++) {
            const vec v = load(x + (i + 1 < slots ? i * LANES : width - LANES));
            sum[r] = plus(sum[r], i + 1 < slots ? v : keep(v, own), one);
            top[r] = larger(v, top[r]);
            sums[i] = plus(sums[i], v, one);
            tops[i] = larger(v, tops[i]);
        }
    }
    end_rows(rows, sum, top, row_sums, row_tops);
}

INLINE void narrow_plane(const int slots, const Job *job, int64_t plane) {
    const int64_t height = job->height, width = job->width;
    const float *x = job->x + plane * height * width;
    float *row_mean = job->row_mean + plane * height, *row_max = job->row_max + plane * height;
    const vec one = hidden_one(), by = splat(1.0f / (float)height);
    vec sums[NARROW], tops[NARROW];
    int64_t h = 0;
    for (int i = 0; i < slots; i++) sums[i] = splat(0.0f), tops[i] = splat(-INFINITY);
    for (; h + BAND <= height; h += BAND)
        narrow_rows(BAND, slots, x + h * width, width, sums, tops, one, row_mean + h, row_max + h);
    for (; h < height; h++)
        narrow_rows(1, slots, x + h * width, width, sums, tops, one, row_mean + h, row_max + h);
    for (int i = 0; i < slots; i++) {
        const int64_t at = plane * width + (i + 1 < slots ? i * LANES : width - LANES);
        store(job->col_mean + at, sums[i] * by);
        store(job->col_max + at, tops[i]);
    }
}

static int nchw_profile(const Job *job, int64_t begin, int64_t end) {
    const int64_t slots = job->height > TALL || LANES == 1 ? 0 : slots_of(job->width);
    float *sums = scratch(3 * padded(job->width));
    if (sums == NULL) return 1;
    for (int64_t plane = begin; plane < end; plane++) {
        if (slots == 1) narrow_plane(1, job, plane);
        else if (slots == 2) narrow_plane(2, job, plane);
        else if (slots == 3) narrow_plane(3, job, plane);
        else profile_plane(job, plane, sums);
        plane_end(job, plane);
    }
    free(sums);
    return 0;
}

#endif

/* NCHW: the gradient of x. */
#ifndef COORDCBAM_NCHW_INPUT_H
#define COORDCBAM_NCHW_INPUT_H

#include "gain.h"

/* What a row or a column adds to the gradient of x: to all of it, and to each tied maximum. */
typedef struct {
    float *row, *row_tie; /* height */
    float *col, *col_tie; /* width */
    float *ties;          /* padded width */
} Shares;

INLINE void ties_slot(const int rows, const float *x, int64_t width, const vec *row_max, vec col_max,
                      float *col_ties, vec *row_ties, const int last, mask own) {
    vec sum = load(col_ties);
    for (int r = 0; r < rows; r++) {
        const vec v = load(x + r * width);
        const mask tie = equal(v, row_max[r]);
        row_ties[r] += ones(last ? tie & own : tie);
        sum += ones(equal(v, col_max));
    }
    store(col_ties, sum);
}

INLINE void ties_band(const int rows, const Job *job, int64_t plane, int64_t h, Shares *shares) {
    const int64_t width = job->width, last = slots_of(width) - 1, end = place_of(last, width);
    const int64_t at = plane * job->height + h;
    const float *x = job->x + at * width, *col_max = job->col_max + plane * width;
    vec row_max[BAND], row_ties[BAND];
    for (int r = 0; r < rows; r++) {
        row_max[r] = splat(job->row_max[at + r]);
        row_ties[r] = splat(0.0f);
    }
    for (int64_t w = 0; w < last * LANES; w += LANES)
        ties_slot(rows, x + w, width, row_max, load(col_max + w), shares->ties + w, row_ties, 0,
                  fresh(0, width));
    ties_slot(rows, x + end, width, row_max, load(col_max + end), shares->ties + last * LANES,
              row_ties, 1, fresh(last, width));
    if (rows == BAND) totals4(row_ties, shares->row_tie + h);
    else shares->row_tie[h] = total(row_ties[0]);
}

/* `share` is what a whole line gets, `each` comes as the number of ties and leaves as a tie's part. */
INLINE void divide(float *restrict share, float *restrict each, const float *restrict grad_mean,
                   const float *restrict grad_max, int64_t n, float length, float more) {
    for (int64_t i = 0; i < n; i++) {
        share[i] = grad_mean[i] / length + more;
        each[i] = grad_max[i] / each[i];
    }
}

static void share_out(const Job *job, int64_t plane, Shares *shares) {
    const int64_t height = job->height, width = job->width, rows = plane * height, cols = plane * width;
    const float mean = job->grad_mean[plane] / (float)(height * width);
    int64_t h = 0;
    memset(shares->ties, 0, (size_t)padded(width) * sizeof(float));
    for (; h + BAND <= height; h += BAND) ties_band(BAND, job, plane, h, shares);
    for (; h < height; h++) ties_band(1, job, plane, h, shares);
    unpad(shares->col_tie, shares->ties, width, 1.0f);
    divide(shares->row, shares->row_tie, job->grad_row_mean + rows, job->grad_row_max + rows, height,
           (float)width, mean);
    divide(shares->col, shares->col_tie, job->grad_col_mean + cols, job->grad_col_max + cols, width,
           (float)height, 0.0f);
}

/* What the rows of a band and the columns of a plane hold for `input_slot`. */
typedef struct {
    vec row[BAND], top[BAND], share[BAND], tie[BAND];
    const float *cols, *col_top, *col_share, *col_tie;
    const float *x, *grad;
    float *out;
} Band;

INLINE void input_slot(const int rows, const int clamps, const Gain *gain, vec rest, const Band *band,
                       int64_t width, int64_t w) {
    const vec col = load(band->cols + w), top = load(band->col_top + w);
    const vec share = load(band->col_share + w), tie = load(band->col_tie + w);
    for (int r = 0; r < rows; r++) {
        const int64_t at = r * width + w;
        const vec x = load(band->x + at);
        const vec gained = load(band->grad + at) * factor_of(clamps, gain, rest, band->row[r], col);
        const vec in_row = ones(equal(x, band->top[r])) * band->tie[r] + (share + band->share[r]);
        store(band->out + at, gained + in_row + ones(equal(x, top)) * tie);
    }
}

INLINE void input_band(const int rows, const int clamps, const Job *job, const Gain *gain,
                       int64_t plane, int64_t h, const Shares *shares) {
    const int64_t width = job->width, last = slots_of(width) - 1, end = place_of(last, width);
    const int64_t line = plane * job->height + h;
    const float strength = clamps ? job->beta : job->beta * (job->alpha * job->channel[plane]);
    const vec rest = gain->keep + gain->strength * gain->rest;
    Band band = {.cols = job->cols + plane * width, .col_top = job->col_max + plane * width,
                 .col_share = shares->col, .col_tie = shares->col_tie, .x = job->x + line * width,
                 .grad = job->grad + line * width, .out = job->out + line * width};
    for (int r = 0; r < rows; r++) {
        band.row[r] = splat(strength * job->rows[line + r]);
        band.top[r] = splat(job->row_max[line + r]);
        band.share[r] = splat(shares->row[h + r]);
        band.tie[r] = splat(shares->row_tie[h + r]);
    }
    for (int64_t w = 0; w < last * LANES; w += LANES)
        input_slot(rows, clamps, gain, rest, &band, width, w);
    input_slot(rows, clamps, gain, rest, &band, width, end);
}

INLINE void input_plane(const int clamps, const Job *job, int64_t plane, Shares *shares) {
    const int64_t height = job->height, width = job->width;
    const Gain gain = gain_of(job, plane);
    int64_t h = 0;
    share_out(job, plane, shares);
    for (; h + 2 <= height; h += 2) input_band(2, clamps, job, &gain, plane, h, shares);
    for (; h < height; h++) input_band(1, clamps, job, &gain, plane, h, shares);
    h = first_of(job->row_max + plane * height, 1, height, job->peak[plane]);
    const int64_t at = (plane * height + h) * width;
    job->out[at + first_of(job->x + at, 1, width, job->peak[plane])] += job->grad_peak[plane];
}

static int nchw_input(const Job *job, int64_t begin, int64_t end) {
    const int64_t slots = padded(job->width);
    float *memory = scratch(2 * job->height + 3 * slots);
    if (memory == NULL) return 1;
    float *cols = memory + 2 * job->height;
    Shares shares = {memory, memory + job->height, cols, cols + slots, cols + 2 * slots};
    for (int64_t plane = begin; plane < end; plane++) {
        if (job->clamps) input_plane(1, job, plane, &shares);
        else input_plane(0, job, plane, &shares);
    }
    free(memory);
    return 0;
}

#endif

/* NHWC: the gradient of x. */
#ifndef COORDCBAM_NHWC_INPUT_H
#define COORDCBAM_NHWC_INPUT_H

#include "nhwc_runs.h"

/* (n, count) each: what a row or a column of pixels holds for the gradient of x. */
typedef struct {
    float *factor, *top, *share, *tie;
} Lines;

#define STEP 2 /* pixels of a row at once, so that what belongs to the row is loaded once for all */

INLINE void ties_step(const int pixels, const float *x, int64_t channels, int64_t count, int64_t c,
                      const float *row_top, float *row_tie, const float *top, float *tie) {
    const vec row = load(row_top + c);
    vec sum = load(row_tie + c);
    for (int p = 0; p < pixels; p++) {
        const vec v = load(x + p * channels + c);
        const int64_t at = p * count + c;
        sum += ones(equal(v, row));
        store(tie + at, load(tie + at) + ones(equal(v, load(top + at))));
    }
    store(row_tie + c, sum);
}

/* A moved-back last vector would count twice: what is left over is counted one by one. */
INLINE void ties_pixels(const int pixels, const float *x, int64_t channels, int64_t count,
                        const float *row_top, float *row_tie, const float *top, float *tie) {
    int64_t c = 0;
    for (; c + LANES <= count; c += LANES)
        ties_step(pixels, x, channels, count, c, row_top, row_tie, top, tie);
    for (; c < count; c++)
        for (int p = 0; p < pixels; p++) {
            const float v = x[p * channels + c];
            row_tie[c] += v == row_top[c] ? 1.0f : 0.0f;
            tie[p * count + c] += v == top[p * count + c] ? 1.0f : 0.0f;
        }
}

static void count_ties(const Job *job, Block block, Lines rows, Lines cols) {
    const int64_t width = job->width, channels = job->channels, count = block.count;
    memset(rows.tie, 0, (size_t)(job->height * count) * sizeof(float));
    memset(cols.tie, 0, (size_t)(width * count) * sizeof(float));
    for (int64_t h = 0; h < job->height; h++) {
        const float *x = pixel(job, job->x, block, h, 0), *top = rows.top + h * count;
        float *tie = rows.tie + h * count;
        int64_t w = 0;
        for (; w + STEP <= width; w += STEP)
            ties_pixels(STEP, x + w * channels, channels, count, top, tie, cols.top + w * count,
                        cols.tie + w * count);
        for (; w < width; w++)
            ties_pixels(1, x + w * channels, channels, count, top, tie, cols.top + w * count,
                        cols.tie + w * count);
    }
}

/* As `divide`, the gradients turned by way of `share` and `spare`; `more` is NULL or (count). */
static void share_lines(const Job *job, Block block, Lines lines, const float *grad_mean,
                        const float *grad_max, int64_t n, float length, const float *more, float *spare) {
    gather(lines.share, grad_mean, job, block, n);
    gather(spare, grad_max, job, block, n);
    for (int64_t i = 0; i < n * block.count; i += block.count)
        for (int64_t c = 0; c < block.count; c++) {
            lines.share[i + c] /= length;
            if (more != NULL) lines.share[i + c] += more[c];
            lines.tie[i + c] = spare[i + c] / lines.tie[i + c];
        }
}

INLINE void input_step(const int pixels, const int clamps, const Run *run, const Gain *gain, const float *x,
                       const float *grad, float *out, int64_t channels, int64_t c, Lines row, Lines col) {
    const vec factor = load(run->row + c), rest = load(run->rest + c), top = load(row.top + c);
    const vec share = load(row.share + c), tie = load(row.tie + c);
    Gain mine = *gain;
    if (clamps) mine.strength = load(run->strength + c);
    for (int p = 0; p < pixels; p++) {
        const int64_t at = p * channels + c, in = p * run->block.count + c;
        const vec v = load(x + at), by = factor_of(clamps, &mine, rest, factor, load(col.factor + in));
        const vec in_row = ones(equal(v, top)) * tie + (share + load(col.share + in));
        const vec in_col = ones(equal(v, load(col.top + in))) * load(col.tie + in);
        store(out + at, load(grad + at) * by + in_row + in_col);
    }
}

INLINE Lines line_of(Lines lines, int64_t at) {
    Lines line = {lines.factor + at, lines.top + at, lines.share + at, lines.tie + at};
    return line;
}

INLINE void input_pixels(const int pixels, const int clamps, const Job *job, const Run *run, const Gain *gain,
                         int64_t h, int64_t w, Lines rows, Lines cols) {
    const int64_t count = run->block.count, channels = job->channels;
    const float *x = pixel(job, job->x, run->block, h, w), *grad = pixel(job, job->grad, run->block, h, w);
    float *out = out_pixel(job, run->block, h, w);
    const Lines row = line_of(rows, h * count), col = line_of(cols, w * count);
    for (int64_t c = 0; c + LANES <= count; c += LANES)
        input_step(pixels, clamps, run, gain, x, grad, out, channels, c, row, col);
    input_step(pixels, clamps, run, gain, x, grad, out, channels, place_of(slots_of(count) - 1, count), row, col);
}

static void add_peaks(const Job *job, Block block) {
    for (int64_t c = 0; c < block.count; c++) {
        const int64_t plane = block.sample * job->channels + block.begin + c;
        const float peak = job->peak[plane];
        const int64_t h = first_of(job->row_max + plane * job->height, 1, job->height, peak);
        const float *x = pixel(job, job->x, block, h, 0) + c;
        const int64_t w = first_of(x, job->channels, job->width, peak);
        out_pixel(job, block, h, w)[c] += job->grad_peak[plane];
    }
}

INLINE void input_rows(const int clamps, const Job *job, Run *run, Lines rows, Lines cols) {
    const int64_t width = job->width;
    const Gain gain = common(job);
    for (int64_t h = 0; h < job->height; h++) {
        int64_t w = 0;
        start_row(clamps, run, h);
        for (; w + STEP <= width; w += STEP) input_pixels(STEP, clamps, job, run, &gain, h, w, rows, cols);
        for (; w < width; w++) input_pixels(1, clamps, job, run, &gain, h, w, rows, cols);
    }
}

static void input_run(const Job *job, Run run) {
    const int64_t height = job->height, width = job->width, count = run.block.count;
    const int64_t all = height * count, across = width * count;
    const float *grad_mean = job->grad_mean + run.block.sample * job->channels + run.block.begin;
    float *mean = run.spare, *at = mean + count, *spare = at + 3 * (all + across);
    const Lines rows = {run.turned.rows, at, at + all, at + 2 * all};
    at += 3 * all;
    const Lines cols = {run.turned.cols, at, at + across, at + 2 * across};
    gather(rows.top, job->row_max, job, run.block, height);
    gather(cols.top, job->col_max, job, run.block, width);
    count_ties(job, run.block, rows, cols);
    for (int64_t c = 0; c < count; c++) mean[c] = grad_mean[c] / (float)(height * width);
    share_lines(job, run.block, rows, job->grad_row_mean, job->grad_row_max, height, (float)width, mean, spare);
    share_lines(job, run.block, cols, job->grad_col_mean, job->grad_col_max, width, (float)height, NULL, spare);
    if (job->clamps) input_rows(1, job, &run, rows, cols);
    else input_rows(0, job, &run, rows, cols);
    add_peaks(job, run.block);
}

static int nhwc_input(const Job *job, int64_t begin, int64_t end) {
    const int64_t longest = job->height > job->width ? job->height : job->width;
    return by_runs(job, begin, end, 1 + 3 * (job->height + job->width) + longest, input_run);
}

#endif

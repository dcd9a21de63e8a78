/* NHWC: the gradients of the factors and of alpha. */
#ifndef COORDCBAM_NHWC_FACTORS_H
#define COORDCBAM_NHWC_FACTORS_H

#include "nhwc_blocks.h"

INLINE void factors_line(const int vectors, const int clamps, const Job *job, Block block, int64_t h,
                         const float *rows, const float *cols, float *by_rows, float *by_cols,
                         vec *whole, vec *through) {
    const int count = vectors * LANES;
    const int64_t width = job->width, channels = job->channels;
    const float *x = pixel(job, job->x, block, h, 0), *grad = pixel(job, job->grad, block, h, 0);
    const vec rest = splat(1.0f - job->beta), low = splat(job->low), high = splat(job->high);
    vec row[WIDE], sum[WIDE];
    for (int i = 0; i < vectors; i++) row[i] = load(rows + i * LANES), sum[i] = splat(0.0f);
    for (int64_t w = 0; w < width; w++) {
        for (int i = 0; i < vectors; i++) {
            const vec product = load(grad + i * LANES) * load(x + i * LANES);
            const vec col = load(cols + i * LANES);
            vec free = product;
            whole[i] += product;
            if (clamps) {
                const vec k = rest + row[i] * col;
                through[i] += product * clamped(k, low, high);
                free = product * ones(inside(k, low, high));
            }
            sum[i] += free * col;
            store(by_rows + i * LANES, load(by_rows + i * LANES) + free * row[i]);
        }
        x += channels, grad += channels, cols += count, by_rows += count;
    }
    for (int i = 0; i < vectors; i++) store(by_cols + i * LANES, sum[i]);
}

/* Sums to gradients: strength times them, and the channel's and alpha's. */
static void factors_end(const Job *job, Block block, const float *rows, float *by_rows, float *by_cols,
                        const double *whole, const double *through) {
    const float *channel = job->channel + block.sample * job->channels + block.begin;
    const int64_t at = block.sample * job->channels + block.begin, count = block.count;
    double sums[WIDE * LANES];
    for (int64_t c = 0; c < count; c++)
        sums[c] = job->clamps ? through[c] : (double)(1.0f - job->beta) * whole[c];
    if (!job->clamps)
        for (int64_t i = 0; i < job->height * count; i += count)
            for (int64_t c = 0; c < count; c++) sums[c] += (double)rows[i + c] * (double)by_cols[i + c];
    for (int64_t c = 0; c < count; c++) {
        job->grad_channel[at + c] = (float)((double)job->alpha * sums[c]);
        job->sums[at + c] = (double)channel[c] * sums[c] - whole[c];
    }
    for (int64_t i = 0; i < job->height * count; i += count)
        for (int64_t c = 0; c < count; c++) by_cols[i + c] *= job->beta * (job->alpha * channel[c]);
    for (int64_t i = 0; i < job->width * count; i += count)
        for (int64_t c = 0; c < count; c++) by_rows[i + c] *= job->alpha * channel[c];
    scatter(job->grad_rows, by_cols, job, block, job->height);
    scatter(job->grad_cols, by_rows, job, block, job->width);
}

INLINE void widen(double *to, vec *from, const int vectors) {
    for (int i = 0; i < vectors; i++) {
        float lanes[LANES];
        store(lanes, from[i]);
        for (int l = 0; l < LANES; l++) to[i * LANES + l] += (double)lanes[l];
        from[i] = splat(0.0f);
    }
}

INLINE void factors_block(const int vectors, const int clamps, const Job *job, Block block, float *memory) {
    const int64_t height = job->height, width = job->width, count = vectors * LANES;
    float *rows = memory, *by_cols = rows + height * count;
    float *cols = by_cols + height * count, *by_rows = cols + width * count;
    vec whole[WIDE], through[WIDE];
    double wide_whole[WIDE * LANES] = {0.0}, wide_through[WIDE * LANES] = {0.0};
    Turned turned = {rows, cols};
    turn_factors(job, block, &turned);
    memset(by_rows, 0, (size_t)(width * count) * sizeof(float));
    for (int i = 0; i < vectors; i++) whole[i] = through[i] = splat(0.0f);
    for (int64_t h = 0; h < height; h++) {
        factors_line(vectors, clamps, job, block, h, rows + h * count, cols, by_rows,
                     by_cols + h * count, whole, through);
        widen(wide_whole, whole, vectors);
        if (clamps) widen(wide_through, through, vectors);
    }
    factors_end(job, block, rows, by_rows, by_cols, wide_whole, wide_through);
}

static void factors_wide(const Job *job, Block block, float *memory) {
    if (job->clamps) factors_block(WIDE, 1, job, block, memory);
    else factors_block(WIDE, 0, job, block, memory);
}

static void factors_narrow(const Job *job, Block block, float *memory) {
    if (job->clamps) factors_block(1, 1, job, block, memory);
    else factors_block(1, 0, job, block, memory);
}

static int nhwc_factors(const Job *job, int64_t begin, int64_t end) {
    return by_blocks(job, begin, end, 2 * (job->height + job->width), factors_wide, factors_narrow);
}

#endif

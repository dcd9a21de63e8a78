/* NHWC: the scaling, alone and with the monitor's sums. */
#ifndef COORDCBAM_NHWC_SCALE_H
#define COORDCBAM_NHWC_SCALE_H

#include "nhwc_runs.h"

INLINE void scale_pixels(const int clamps, const Job *job, Run run) {
    const int64_t count = run.block.count, slots = slots_of(count), width = job->width;
    const int64_t channels = job->channels;
    const Gain gain = common(job);
    for (int64_t h = 0; h < job->height; h++) {
        const float *x = pixel(job, job->x, run.block, h, 0), *cols = run.turned.cols;
        float *out = out_pixel(job, run.block, h, 0);
        start_row(clamps, &run, h);
        for (int64_t w = 0; w < width; w++, x += channels, out += channels, cols += count) {
            for (int64_t c = 0; c + LANES <= count; c += LANES)
                store(out + c, load(x + c) * factor_at(clamps, &run, &gain, cols, c));
            const int64_t c = place_of(slots - 1, count);
            store(out + c, load(x + c) * factor_at(clamps, &run, &gain, cols, c));
        }
    }
}

static void scale_run(const Job *job, Run run) {
    if (job->clamps) scale_pixels(1, job, run);
    else scale_pixels(0, job, run);
}

static int nhwc_scale(const Job *job, int64_t begin, int64_t end) {
    return by_runs(job, begin, end, 0, scale_run);
}

INLINE void measure_at(const int clamps, const Run *run, const Gain *gain, const float *x,
                       float *out, const float *rows, const float *cols, int64_t c, vec *sums,
                       const int last, mask own) {
    const vec v = load(x + c);
    vec k = gain->rest + load(rows + c) * load(cols + c);
    if (clamps) k = clamped(k, gain->low, gain->high);
    store(out + c, v * factor_at(clamps, run, gain, cols, c));
    add_sums(sums, v, v * (load(run->channel + c) * k), last, own);
}

/* Every chunk of a pixel, with its own sums in memory: (units, SUMS) vectors. */
INLINE void measure_pixel(const int clamps, const Run *run, const Gain *gain, const float *x, float *out,
                          const float *rows, const float *cols, float *memory) {
    const int64_t units = chunks_in(run->block);
    for (int64_t unit = 0; unit < units; unit++, memory += SUMS * LANES) {
        const int64_t from = unit * CHUNK, end = unit + 1 == units ? run->block.count : from + CHUNK;
        const int64_t body = from + (end - from) / LANES * LANES;
        vec sums[SUMS];
        for (int i = 0; i < SUMS; i++) sums[i] = load(memory + i * LANES);
        for (int64_t c = from; c < body; c += LANES)
            measure_at(clamps, run, gain, x, out, rows, cols, c, sums, 0, fresh(0, LANES));
        if (body < end)
            measure_at(clamps, run, gain, x, out, rows, cols, end - LANES, sums, 1,
                       fresh(slots_of(end) - 1, end));
        for (int i = 0; i < SUMS; i++) store(memory + i * LANES, sums[i]);
    }
}

static void widen_sums(float *memory, double *to, int64_t units) {
    for (int64_t i = 0; i < units * SUMS; i++) to[i] += wide_total(load(memory + i * LANES));
    memset(memory, 0, (size_t)(units * SUMS * LANES) * sizeof(float));
}

INLINE void measure_pixels(const int clamps, const Job *job, Run run) {
    const int64_t units = chunks_in(run.block), count = run.block.count;
    const int64_t width = job->width, channels = job->channels;
    const Gain gain = common(job);
    double *to = job->sums + SUMS * run.unit;
    memset(to, 0, (size_t)(SUMS * units) * sizeof(double));
    memset(run.spare, 0, (size_t)(units * SUMS * LANES) * sizeof(float));
    for (int64_t h = 0; h < job->height; h++) {
        const float *x = pixel(job, job->x, run.block, h, 0), *cols = run.turned.cols;
        float *out = out_pixel(job, run.block, h, 0);
        start_row(clamps, &run, h);
        for (int64_t w = 0; w < width; w++, x += channels, out += channels, cols += count) {
            measure_pixel(clamps, &run, &gain, x, out, run.turned.rows + h * count, cols, run.spare);
            if (w % 32 == 31) widen_sums(run.spare, to, units);
        }
        widen_sums(run.spare, to, units);
    }
}

static void measure_run(const Job *job, Run run) {
    if (job->clamps) measure_pixels(1, job, run);
    else measure_pixels(0, job, run);
}

static int nhwc_measure(const Job *job, int64_t begin, int64_t end) {
    return by_runs(job, begin, end, SUMS * LANES, measure_run);
}

#endif

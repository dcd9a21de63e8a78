/* NHWC, for maps: pixel by pixel with all their channels, as memory has them; what leaps over
 * channels of a large map costs two or three times as much. */
#ifndef COORDCBAM_NHWC_RUNS_H
#define COORDCBAM_NHWC_RUNS_H

#include "nhwc.h"

/* A run of channels with its factors turned, and for each channel what a row of pixels needs. */
typedef struct {
    Block block;
    Turned turned;
    const float *channel;
    float *rest, *strength, *row; /* count each; `row` changes from row to row */
    float *spare;                 /* what the caller of by_runs asked for, count each */
    int64_t unit;                 /* the block's first */
} Run;

typedef void (*RunWork)(const Job *job, Run run);

static int by_runs(const Job *job, int64_t begin, int64_t end, int64_t spare, RunWork work) {
    float *memory = scratch((job->height + job->width + 3 + spare) * job->channels);
    if (memory == NULL) return 1;
    for (int64_t unit = begin; unit < end;) {
        const Block block = run_at(job, unit, end);
        float *cols = memory + job->height * block.count, *rest = cols + job->width * block.count;
        const float *channel = job->channel + block.sample * job->channels + block.begin;
        Run run = {block, {memory, cols}, channel, rest, rest + block.count, rest + 2 * block.count,
                   rest + 3 * block.count, unit};
        turn_factors(job, block, &run.turned);
        for (int64_t c = 0; c < block.count; c++) {
            run.strength[c] = job->alpha * channel[c];
            run.rest[c] = (1.0f - job->alpha) + run.strength[c] * (1.0f - job->beta);
        }
        work(job, run);
        unit += chunks_in(block);
    }
    free(memory);
    return 0;
}

/* Where nothing clamps, the strength goes into the row's factors. */
INLINE void start_row(const int clamps, const Run *run, int64_t h) {
    const float *rows = run->turned.rows + h * run->block.count;
    for (int64_t c = 0; c < run->block.count; c++) run->row[c] = clamps ? rows[c] : rows[c] * run->strength[c];
}

/* The factor of out at channel c of a pixel. */
INLINE vec factor_at(const int clamps, const Run *run, const Gain *same, const float *cols, int64_t c) {
    Gain gain = *same;
    if (clamps) gain.strength = load(run->strength + c);
    return factor_of(clamps, &gain, load(run->rest + c), load(run->row + c), load(cols + c));
}

/* What all channels share; the rest is in Run. */
INLINE Gain common(const Job *job) {
    const vec none = splat(0.0f);
    Gain gain = {splat(1.0f - job->beta), splat(job->low), splat(job->high), none,
                 splat(1.0f - job->alpha), none};
    return gain;
}

#endif

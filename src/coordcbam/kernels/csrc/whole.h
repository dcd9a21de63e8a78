/* A whole forward, sample by sample. */
#ifndef COORDCBAM_WHOLE_H
#define COORDCBAM_WHOLE_H

#include <stdlib.h>

#include "call.h"

static float *moved(float *from, int64_t by) { return from == NULL ? NULL : from + by; }

/* The call of one sample alone. */
static Call sample_of(const Call *call, int64_t sample) {
    Call one = *call;
    Job *job = &one.job;
    Made *made = &one.made;
    const int64_t planes = sample * job->channels, rows = planes * job->height, cols = planes * job->width;
    job->batch = 1;
    if (job->x != NULL) job->x += rows * job->width;
    job->out = moved(job->out, rows * job->width);
    job->mean = moved(job->mean, planes), job->peak = moved(job->peak, planes);
    job->row_mean = moved(job->row_mean, rows), job->row_max = moved(job->row_max, rows);
    job->col_mean = moved(job->col_mean, cols), job->col_max = moved(job->col_max, cols);
    made->channel = moved(made->channel, planes), made->gate = moved(made->gate, planes);
    made->fusion = moved(made->fusion, 2 * sample);
    made->rows = moved(made->rows, rows), made->row_mask = moved(made->row_mask, rows);
    made->cols = moved(made->cols, cols), made->col_mask = moved(made->col_mask, cols);
    return one;
}

/* A sample's totals, always in the same order. */
static void add_up(const Call *call, int64_t sample, const double *sums, int64_t units) {
    for (int64_t i = 0; i < SUMS; i++) {
        double total = 0.0;
        for (int64_t unit = 0; unit < units; unit++) total += sums[SUMS * unit + i];
        call->totals[i * call->job.batch + sample] = total;
    }
}

/* Statistics and factors of one sample at `memory`, where nobody wants to see them. */
static int64_t small_floats(const Job *job) { return 3 * job->channels * (1 + job->height + job->width); }

static void place_small(Call *one, float *memory) {
    Job *job = &one->job;
    const int64_t planes = job->channels, rows = planes * job->height, cols = planes * job->width;
    job->mean = memory, job->peak = memory + planes;
    one->made.channel = memory + 2 * planes;
    memory += 3 * planes;
    job->row_mean = memory, job->row_max = memory + rows;
    one->made.rows = memory + 2 * rows;
    memory += 3 * rows;
    job->col_mean = memory, job->col_max = memory + cols;
    one->made.cols = memory + 2 * cols;
}

static int whole(const Call *call, const Table *table, SideNets side, int64_t units, int64_t begin,
                 int64_t end) {
    const int last = call->job.channels_last, measures = call->totals != NULL;
    const size_t small = call->job.mean == NULL ? (size_t)small_floats(&call->job) * sizeof(float) : 0;
    const size_t large = measures ? (size_t)(SUMS * units) * sizeof(double) : 0;
    char *memory = malloc(large + small + 64);
    int failed = memory == NULL;
    for (int64_t sample = begin; sample < end && !failed; sample++) {
        Call one = sample_of(call, sample);
        Job *job = &one.job;
        job->sums = (double *)memory;
        if (small > 0) place_small(&one, (float *)(memory + large));
        job->channel = one.made.channel, job->rows = one.made.rows, job->cols = one.made.cols;
        const Layouts scale = measures ? table->measure : table->scale;
        failed = (last ? table->profile.nhwc : table->profile.nchw)(job, 0, units) || side(&one) ||
                 (last ? scale.nhwc : scale.nchw)(job, 0, units);
        if (measures && !failed) add_up(call, sample, job->sums, units);
    }
    free(memory);
    return failed;
}

#endif

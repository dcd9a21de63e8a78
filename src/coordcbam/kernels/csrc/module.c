/* The entries, and the empty module that makes setuptools carry them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "probe.h"
#include "told.h"
#include "whole.h"

#if defined(_WIN32)
#define ENTRY __declspec(dllexport)
#else
#define ENTRY __attribute__((visibility("default")))
#endif

/* The widest vectors that this machine has, up to `lanes`. */
static const Table *table_of(int64_t lanes) {
#ifdef HAVE_LANES8
    if (lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &coordcbam_lanes8;
#endif
#ifdef HAVE_LANES4
    if (lanes >= 4) return &coordcbam_lanes4;
#endif
    (void)lanes;
    return &coordcbam_lanes1;
}

/* Those that a row, or a pixel's channels, can fill as well. */
static const Table *table_for(const Job *job) {
    const int64_t n = job->channels_last ? job->channels : job->width;
    return table_of(n < job->widest ? n : job->widest);
}

#define PASS(name)                                                                         \
    ENTRY int coordcbam_##name(const Job *job, int64_t begin, int64_t end) {               \
        const Layouts passes = table_for(job)->name;                                       \
        return (job->channels_last ? passes.nhwc : passes.nchw)(job, begin, end);          \
    }

PASS(profile)
PASS(scale)
PASS(measure)
PASS(factors)
PASS(input)

/* Into how many independent parts a sample divides. */
ENTRY int64_t coordcbam_units(int64_t channels, int32_t channels_last) {
    return channels_last ? chunks_of(channels) : channels;
}

/* The side nets of the samples [begin, end), from statistics that are there. */
ENTRY int coordcbam_side(const Call *call, int64_t begin, int64_t end) {
    int failed = 0;
    for (int64_t sample = begin; sample < end && !failed; sample++) {
        const Call one = sample_of(call, sample);
        failed = table_of(call->job.widest)->side(&one);
    }
    return failed;
}

/* Its gradients, of the groups [begin, end). */
ENTRY int coordcbam_slopes(const Call *call, int64_t begin, int64_t end) {
    return table_of(call->job.widest)->slopes(call, begin, end);
}

/* The whole forward of the samples [begin, end), one after the other while it is in cache. */
ENTRY int coordcbam_whole(const Call *call, int64_t begin, int64_t end) {
    const int64_t units = coordcbam_units(call->job.channels, call->job.channels_last);
    return whole(call, table_for(&call->job), table_of(call->job.widest)->side, units, begin, end);
}

/* The totals of the samples [begin, end) from the sums of their units. */
ENTRY int coordcbam_totals(const Call *call, int64_t begin, int64_t end) {
    const int64_t units = coordcbam_units(call->job.channels, call->job.channels_last);
    for (int64_t sample = begin; sample < end; sample++)
        add_up(call, sample, call->job.sums + SUMS * units * sample, units);
    return 0;
}

ENTRY int coordcbam_probe(const float *const *at, const int64_t *last, int64_t tensors, float *seen,
                          int32_t fills) {
    return probe(at, last, tensors, seen, fills);
}

ENTRY void coordcbam_tell(const double *sums, int64_t samples, int64_t step, int64_t stride,
                          double alpha, double quiet, double drowned, double limit, double *told,
                          float *tally) {
    const Hearing hearing = {quiet, drowned, limit};
    tell(sums, samples, step, stride, alpha, hearing, told, tally);
}

ENTRY void coordcbam_commit(float *tally, float *average, int64_t *updates, int64_t *skipped, double m) {
    commit(tally, average, updates, skipped, m);
}

/* Sizes, against a library of another version. */
ENTRY int64_t coordcbam_job_size(void) { return (int64_t)sizeof(Job); }
ENTRY int64_t coordcbam_call_size(void) { return (int64_t)sizeof(Call); }
ENTRY int64_t coordcbam_side_size(void) { return (int64_t)sizeof(Side); }
ENTRY int64_t coordcbam_slopes_size(void) { return (int64_t)sizeof(Slopes); }

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_cpu", "Kernels for kernels/cpu.py, called by ctypes.", 0, NULL, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__cpu(void) { return PyModuleDef_Init(&definition); }

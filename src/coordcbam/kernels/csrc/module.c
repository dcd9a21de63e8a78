/* The five entries, and the empty module that makes setuptools carry them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "table.h"

#if defined(_WIN32)
#define ENTRY __declspec(dllexport)
#else
#define ENTRY __attribute__((visibility("default")))
#endif

/* The widest vectors that this machine has and that a row, or a pixel's channels, can fill. */
static const Table *table_for(const Job *job) {
    const int64_t n = job->channels_last ? job->channels : job->width;
    const int64_t lanes = n < job->widest ? n : job->widest;
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

/* sizeof(Job), against a library of another version. */
ENTRY int64_t coordcbam_job_size(void) { return (int64_t)sizeof(Job); }

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_cpu", "Kernels for kernels/cpu.py, called by ctypes.", 0, NULL, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__cpu(void) { return PyModuleDef_Init(&definition); }

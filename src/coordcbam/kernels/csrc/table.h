/* What a pass is given, and the tables the passes are chosen from. */
#ifndef COORDCBAM_TABLE_H
#define COORDCBAM_TABLE_H

#include <stdint.h>

/* Every map is float32. The small tensors are contiguous as (B, C), (B, C, H) and (B, C, W) in both
 * layouts of x. Fields that a pass does not need are NULL. kernels/cpu.py mirrors this. */
typedef struct {
    int64_t batch, channels, height, width;
    int32_t channels_last;
    int32_t widest; /* no wider vectors than this */
    int32_t clamps;
    float beta, low, high, alpha;
    const float *x, *grad;
    float *out;
    const float *channel, *rows, *cols; /* the factors */
    float *mean, *peak, *row_mean, *row_max, *col_mean, *col_max; /* read or written */
    const float *grad_mean, *grad_peak, *grad_row_mean, *grad_row_max, *grad_col_mean, *grad_col_max;
    float *grad_channel, *grad_rows, *grad_cols;
    double *sums; /* (units, 5) of measure; (B * C) of the gradient of alpha */
} Job;

/* A pass over the units [begin, end): a plane of NCHW, a chunk of channels of a sample of NHWC.
 * Non-zero: no memory. Results do not depend on how the units are split among calls. */
typedef int (*Pass)(const Job *job, int64_t begin, int64_t end);

typedef struct {
    Pass nchw, nhwc;
} Layouts;

/* The side nets of one sample, which is all there is in `call`. Non-zero: no memory. */
struct Call;
typedef int (*SideNets)(const struct Call *call);

/* Their gradients, of the groups [begin, end) of samples. */
typedef int (*SideSlopes)(const struct Call *call, int64_t begin, int64_t end);

typedef struct {
    Layouts profile, scale, measure, factors, input;
    SideNets side;
    SideSlopes slopes;
} Table;

enum { XX, XY, YY, X, Y, SUMS }; /* of measure */

#define CHUNK 64 /* channels of a unit of NHWC; the last one of a sample takes the rest as well */

static inline int64_t chunks_of(int64_t channels) { return channels < CHUNK ? 1 : channels / CHUNK; }

/* One table a vector width: the same source, compiled again. */
extern const Table coordcbam_lanes1;

#if defined(__GNUC__)
#define HAVE_LANES4
extern const Table coordcbam_lanes4;
#endif

/* MinGW's gcc spills 32-byte vectors to a stack that Windows aligns to 16. */
#if defined(__GNUC__) && defined(__x86_64__) && (!defined(_WIN32) || defined(__clang__))
#define HAVE_LANES8
extern const Table coordcbam_lanes8;
#endif

#endif

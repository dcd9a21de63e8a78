/* The bookkeeping of block/energy.py and block/target.py: a batch's share, and a step of its average. */
#ifndef COORDCBAM_TOLD_H
#define COORDCBAM_TOLD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TALLY 4 /* kept, count, broken, silent */

/* When a sample says how much is kept, and when it breaks its batch. */
typedef struct {
    double quiet, drowned, limit;
} Hearing;

/* `listen`: a sum's samples lie `stride` apart, sums `step`. Fills the tally's numbers, rho and rms. */
static void tell(const double *sums, int64_t samples, int64_t step, int64_t stride, double alpha,
                 Hearing hearing, double *told, float *tally) {
    const double rest = 1.0 - alpha;
    double kept = 0.0, loud = 0.0, count = 0.0, whole = 1.0;
    for (int64_t i = 0; i < samples; i++) {
        const double *sample = sums + i * stride;
        const double xx = sample[0], xy = sample[step], yy = sample[2 * step];
        if (!(xx + yy < hearing.limit)) whole = 0.0; /* nor is a NaN */
        else if (xx > hearing.quiet && yy <= hearing.drowned * xx) {
            const double mixed = rest * rest * xx + 2.0 * alpha * rest * xy + alpha * alpha * yy;
            count += 1.0;
            kept += 1.0 + alpha * (xy / xx - 1.0);
            loud += sqrt(mixed < 0.0 ? 0.0 : mixed / xx);
        }
    }
    told[0] = kept * whole, told[1] = count * whole;
    told[2] = 1.0 - whole, told[3] = whole * (count == 0.0);
    told[4] = kept / count, told[5] = loud / count;
    if (tally != NULL)
        for (int i = 0; i < TALLY; i++) tally[i] += (float)told[i];
}

/* `commit`, of one process: the average of momentum m takes a step, and the tally starts afresh. */
static void commit(float *tally, float *average, int64_t *updates, int64_t *skipped, double m) {
    const double total = tally[0], count = tally[1];
    if (count > 0.0) {
        const double weight = (1.0 - m) / (1.0 - pow(m, (double)(*updates + 1)));
        *average += (float)(weight * (total / count - *average));
        *updates += 1;
    }
    if (tally[2] > 0.0f || (tally[3] > 0.0f && count == 0.0)) *skipped += 1;
    memset(tally, 0, TALLY * sizeof *tally);
}

#endif

/* Whether weights are still what they were, by a few of their numbers: writes that nobody counts. */
#ifndef COORDCBAM_PROBE_H
#define COORDCBAM_PROBE_H

#include <stdint.h>
#include <string.h>

#define PROBES 4 /* numbers of a tensor, from its first to its last */

/* At `at[i]` lie `last[i] + 1` floats. Fills `seen`, or says whether it holds the same bits. */
static int probe(const float *const *at, const int64_t *last, int64_t tensors, float *seen, int32_t fills) {
    for (int64_t i = 0; i < tensors; i++) {
        float now[PROBES];
        for (int64_t k = 0; k < PROBES; k++) now[k] = at[i][last[i] * k / (PROBES - 1)];
        if (fills) memcpy(seen + i * PROBES, now, sizeof now);
        else if (memcmp(seen + i * PROBES, now, sizeof now) != 0) return 0;
    }
    return 1;
}

#endif

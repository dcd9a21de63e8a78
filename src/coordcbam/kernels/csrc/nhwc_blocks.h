/* NHWC, for sums: a few vectors of channels at a time, whose sums along a row stay in registers. */
#ifndef COORDCBAM_NHWC_BLOCKS_H
#define COORDCBAM_NHWC_BLOCKS_H

#include "nhwc.h"

#define WIDE 4 /* vectors of a block of channels whose sums stay in registers */

INLINE int64_t vectors_of(int64_t count) { return count >= WIDE * LANES ? WIDE : 1; }

/* Calls `work(job, block, memory)` for blocks of WIDE vectors that cover the units; the last block
 * of a unit is moved back to end with it. */
typedef void (*Work)(const Job *job, Block block, float *memory);

static int by_blocks(const Job *job, int64_t begin, int64_t end, int64_t floats, Work wide, Work narrow) {
    float *memory = scratch(floats * WIDE * LANES);
    if (memory == NULL) return 1;
    for (int64_t unit = begin; unit < end; unit++) {
        const Block whole = chunk_at(job, unit);
        const int64_t vectors = vectors_of(whole.count), count = vectors * LANES;
        for (int64_t c = 0; c < whole.count; c += count) {
            const int64_t back = c + count > whole.count ? c + count - whole.count : 0;
            const Block block = {whole.sample, whole.begin + c - back, count};
            (vectors == WIDE ? wide : narrow)(job, block, memory);
        }
    }
    free(memory);
    return 0;
}

#endif

/* NHWC (channels_last): a vector is neighbouring channels of one pixel, so rows and columns need
 * no sums across lanes. Small tensors are (B, C, n) in memory and (n, C) in the loops. */
#ifndef COORDCBAM_NHWC_H
#define COORDCBAM_NHWC_H

#include "gain.h"

/* Channels [begin, begin + count) of one sample, worked on together. */
typedef struct {
    int64_t sample, begin, count;
} Block;

/* The unit `unit` as a block. */
INLINE Block chunk_at(const Job *job, int64_t unit) {
    const int64_t chunks = chunks_of(job->channels), chunk = unit % chunks;
    const int64_t begin = chunk * CHUNK, end = chunk + 1 == chunks ? job->channels : begin + CHUNK;
    Block block = {unit / chunks, begin, end - begin};
    return block;
}

/* The units [unit, end) that belong to one sample, as one block. */
INLINE Block run_at(const Job *job, int64_t unit, int64_t end) {
    const int64_t rest = chunks_of(job->channels) - unit % chunks_of(job->channels);
    Block first = chunk_at(job, unit), last = chunk_at(job, unit + (rest < end - unit ? rest : end - unit) - 1);
    first.count = last.begin + last.count - first.begin;
    return first;
}

INLINE int64_t chunks_in(Block block) { return chunks_of(block.count); }

#if LANES >= 4 && defined(__SSE2__)
INLINE void turn4(float *to, int64_t to_step, const float *from, int64_t from_step) {
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_step);
    __m128 c = _mm_loadu_ps(from + 2 * from_step), d = _mm_loadu_ps(from + 3 * from_step);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + to_step, b);
    _mm_storeu_ps(to + 2 * to_step, c), _mm_storeu_ps(to + 3 * to_step, d);
}
#else
INLINE void turn4(float *to, int64_t to_step, const float *from, int64_t from_step) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) to[j * to_step + i] = from[i * from_step + j];
}
#endif

/* (rows, cols) to (cols, rows). */
static void turn(float *restrict to, int64_t to_step, const float *restrict from, int64_t from_step,
                 int64_t rows, int64_t cols) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
        int64_t c = 0;
        for (; c + 4 <= cols; c += 4)
            turn4(to + c * to_step + r, to_step, from + r * from_step + c, from_step);
        for (; c < cols; c++)
            for (int i = 0; i < 4; i++) to[c * to_step + r + i] = from[(r + i) * from_step + c];
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) to[c * to_step + r] = from[r * from_step + c];
}

/* `n` values a channel, from (C, n) of the small tensor to (n, count). */
INLINE void gather(float *to, const float *from, const Job *job, Block block, int64_t n) {
    turn(to, block.count, from + (block.sample * job->channels + block.begin) * n, n, block.count, n);
}

INLINE void scatter(float *to, const float *from, const Job *job, Block block, int64_t n) {
    turn(to + (block.sample * job->channels + block.begin) * n, n, from, block.count, n, block.count);
}

INLINE const float *pixel(const Job *job, const float *map, Block block, int64_t h, int64_t w) {
    const int64_t at = (block.sample * job->height + h) * job->width + w;
    return map + at * job->channels + block.begin;
}

INLINE float *out_pixel(const Job *job, Block block, int64_t h, int64_t w) {
    return job->out + (pixel(job, job->x, block, h, w) - job->x);
}

/* The factors of a chunk: (height, count) and (width, count) scaled. */
typedef struct {
    float *rows, *cols;
} Turned;

static void turn_factors(const Job *job, Block block, Turned *turned) {
    gather(turned->rows, job->rows, job, block, job->height);
    gather(turned->cols, job->cols, job, block, job->width);
    for (int64_t i = 0; i < job->height * block.count; i++) turned->rows[i] *= job->beta;
}

#endif

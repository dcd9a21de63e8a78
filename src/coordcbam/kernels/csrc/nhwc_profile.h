/* NHWC: means and maxima. */
#ifndef COORDCBAM_NHWC_PROFILE_H
#define COORDCBAM_NHWC_PROFILE_H

#include "nhwc_blocks.h"

INLINE void profile_line(const int vectors, const Job *job, Block block, int64_t h, float *sums,
                         float *tops, float *row_sums, float *row_tops) {
    const int count = vectors * LANES;
    const int64_t width = job->width, channels = job->channels;
    const float *x = pixel(job, job->x, block, h, 0);
    const vec one = hidden_one();
    vec sum[WIDE], top[WIDE];
    for (int i = 0; i < vectors; i++) sum[i] = splat(0.0f), top[i] = splat(-INFINITY);
    for (int64_t w = 0; w < width; w++, x += channels, sums += count, tops += count)
        for (int i = 0; i < vectors; i++) {
            const vec v = load(x + i * LANES);
            sum[i] = plus(sum[i], v, one);
            top[i] = larger(v, top[i]);
            store(sums + i * LANES, plus(load(sums + i * LANES), v, one));
            store(tops + i * LANES, larger(v, load(tops + i * LANES)));
        }
    for (int i = 0; i < vectors; i++) {
        store(row_sums + i * LANES, sum[i]);
        store(row_tops + i * LANES, top[i]);
    }
}

/* Row and column maxima, means and the plane's own from (n, count) sums and maxima. */
static void profile_end(const Job *job, Block block, float *row_sums, const float *row_tops,
                        float *sums, const float *tops) {
    const int64_t height = job->height, width = job->width, count = block.count;
    double whole[WIDE * LANES] = {0.0};
    for (int64_t h = 0; h < height; h++)
        for (int64_t c = 0; c < count; c++) whole[c] += (double)row_sums[h * count + c];
    for (int64_t i = 0; i < height * count; i++) row_sums[i] /= (float)width;
    for (int64_t i = 0; i < width * count; i++) sums[i] /= (float)height;
    scatter(job->row_mean, row_sums, job, block, height);
    scatter(job->row_max, row_tops, job, block, height);
    scatter(job->col_mean, sums, job, block, width);
    scatter(job->col_max, tops, job, block, width);
    for (int64_t c = 0; c < count; c++) {
        const int64_t plane = block.sample * job->channels + block.begin + c;
        float *row_max = job->row_max + plane * height, peak = -INFINITY;
        if (whole[c] != whole[c])
            exact_maxima(pixel(job, job->x, block, 0, 0) + c, height, width, width * job->channels,
                         job->channels, row_max, job->col_max + plane * width);
        for (int64_t h = 0; h < height; h++) peak = torch_max(peak, row_max[h]);
        job->mean[plane] = (float)(whole[c] / (double)(height * width));
        job->peak[plane] = peak;
    }
}

INLINE void profile_block(const int vectors, const Job *job, Block block, float *memory) {
    const int64_t height = job->height, width = job->width, count = vectors * LANES;
    float *row_sums = memory, *row_tops = row_sums + height * count;
    float *sums = row_tops + height * count, *tops = sums + width * count, *all = tops + width * count;
    for (int64_t i = 0; i < width * count; i++) tops[i] = -INFINITY, all[i] = 0.0f;
    for (int64_t h = 0; h < height;) {
        const int64_t stop = h + TALL < height ? h + TALL : height;
        memset(sums, 0, (size_t)(width * count) * sizeof(float));
        for (; h < stop; h++)
            profile_line(vectors, job, block, h, sums, tops, row_sums + h * count, row_tops + h * count);
        for (int64_t i = 0; i < width * count; i += LANES) store(all + i, load(all + i) + load(sums + i));
    }
    profile_end(job, block, row_sums, row_tops, all, tops);
}

static void profile_wide(const Job *job, Block block, float *memory) {
    profile_block(WIDE, job, block, memory);
}

static void profile_narrow(const Job *job, Block block, float *memory) {
    profile_block(1, job, block, memory);
}

static int nhwc_profile(const Job *job, int64_t begin, int64_t end) {
    return by_blocks(job, begin, end, 2 * job->height + 3 * job->width, profile_wide, profile_narrow);
}

#endif

/* The coordinate gates' side net, one sample: rows and columns as one line of padded vectors. */
#ifndef COORDCBAM_SIDE_COORD_H
#define COORDCBAM_SIDE_COORD_H

#include "elementwise.h"
#include "products.h"
#include "side_channel.h"

#define DEEP 64   /* channels whose profiles are in the nearest cache when they are multiplied */
#define HEADS 16  /* channels whose logits are */

/* An axis of n positions in whole vectors, the last one moved back to end with it; a shorter one
 * than a vector is followed by what nobody reads. */
typedef struct {
    int64_t n, slots, at; /* `at`: its first float in a line of both axes */
    mask own;             /* the lanes of the last vector that no other has had */
} Span;

INLINE Span span_of(int64_t n, int64_t at) {
    const int64_t slots = slots_of(n);
    Span span = {n, slots, at, n < LANES ? ~lanes_from(n) : lanes_from(slots * LANES - n)};
    return span;
}

INLINE int64_t place_in(Span span, int64_t slot) { return span.n < LANES ? 0 : place_of(slot, span.n); }

typedef struct {
    Span axes[2];
    int64_t width; /* floats of a line */
    float *profiles, *tapped, *logits, *mid[2];
} Strip;

/* Floats before and after a profile, which its taps read. */
INLINE int64_t margin_of(const Axis *axis, Span span) { return axis->reach < span.n ? axis->reach : span.n; }

INLINE int64_t profile_step(const Axis *axis, Span span) {
    return 2 * margin_of(axis, span) + padded(span.n);
}

/* Half the mean and half the maximum, times the channel's factor, between zeros. */
INLINE void fill_profile(Span span, const float *mean, const float *top, float scaled, float *to) {
    const vec factor = splat(scaled), half = splat(0.5f);
    const int64_t end = span.n - LANES;
    if (end < 0) {
        for (int64_t i = 0; i < span.n; i++) to[i] = scaled * (0.5f * (mean[i] + top[i]));
        return;
    }
    for (int64_t i = 0; i < end; i += LANES)
        store(to + i, factor * (half * (load(mean + i) + load(top + i))));
    store(to + end, factor * (half * (load(mean + end) + load(top + end))));
}

/* Whether the far taps find anything: over a whole axis there are but zeros. */
INLINE int has_far(const Axis *axis, Span span) { return axis->reach > 1 && axis->reach < span.n; }

enum { NEAR = 3, BOTH = 5 }; /* taps of a plain kernel, and with those of a dilated one */

/* `factors`: the plain kernel's, then the two that are `far` away. */
INLINE vec tapped(const int count, int64_t far, const vec *factors, const float *at) {
    vec sum = factors[1] * load(at) + factors[0] * load(at - 1);
    sum += factors[2] * load(at + 1);
    if (count == BOTH) sum += factors[3] * load(at - far), sum += factors[4] * load(at + far);
    return sum;
}

/* One channel's taps, `far` away the last two; `from` is at its first position. */
INLINE void tap(const int count, int64_t far, Span span, const vec *factors, const float *from, float *to) {
    const int64_t last = (span.slots - 1) * LANES;
    for (int64_t i = 0; i < last; i += LANES) store(to + i, tapped(count, far, factors, from + i));
    store(to + last, tapped(count, far, factors, from + place_in(span, span.slots - 1)));
}

/* Those of an axis, or the same the other way round. */
INLINE void tap_all(const Axis *axis, Span span, int64_t c, const int back, const float *from, float *to) {
    const float *taps = axis->taps + c * (2 * axis->reach + 1) + axis->reach;
    const int64_t near = back ? -1 : 1, far = back ? -axis->reach : axis->reach;
    const vec factors[BOTH] = {splat(taps[-near]), splat(taps[0]), splat(taps[near]), splat(taps[-far]), splat(taps[far])};
    if (has_far(axis, span)) tap(BOTH, axis->reach, span, factors, from, to);
    else tap(NEAR, 1, span, factors, from, to);
}

/* Channels [from, from + count) of one axis: their profiles, and those through the taps. */
static void tapped_chunk(const Call *call, const Strip *strip, int which, const float *scaled,
                         int64_t from, int64_t count) {
    const Job *job = &call->job;
    const Axis *axis = &call->side->axes[which];
    const Span span = strip->axes[which];
    const float *mean = which ? job->col_mean : job->row_mean, *top = which ? job->col_max : job->row_max;
    const int64_t step = profile_step(axis, span), wide = span.slots * LANES;
    float *profiles = strip->profiles + margin_of(axis, span);
    for (int64_t i = 0; i < count; i++) {
        const int64_t c = from + i;
        fill_profile(span, mean + c * span.n, top + c * span.n, scaled[c], profiles + i * step);
    }
    for (int64_t i = 0; i < count; i++)
        tap_all(axis, span, from + i, 0, profiles + i * step, strip->tapped + i * wide);
}

/* Those, added to the bottleneck. */
static void into_chunk(const Call *call, const Strip *strip, int which, const float *scaled,
                       int64_t from, int64_t count) {
    const Side *side = call->side;
    const Axis *axis = &side->axes[which];
    const Span span = strip->axes[which];
    tapped_chunk(call, strip, which, scaled, from, count);
    const Product p = {axis->into.weight + from, strip->tapped, axis->into.bias, strip->mid[0] + span.at,
                       side->channels, span.slots * LANES, strip->width, side->mid, count, span.slots, from > 0, 1};
    product(&p);
}

/* Zeros around every profile of a chunk. */
INLINE void clear_profiles(const Strip *strip, const Axis *axis, Span span) {
    memset(strip->profiles, 0, (size_t)(DEEP * profile_step(axis, span) + LANES) * sizeof(float));
}

static void into_bottleneck(const Call *call, const Strip *strip, const float *scaled) {
    const Side *side = call->side;
    for (int which = 0; which < 2; which++) {
        clear_profiles(strip, &side->axes[which], strip->axes[which]);
        for (int64_t c = 0; c < side->channels; c += DEEP) {
            const int64_t left = side->channels - c;
            into_chunk(call, strip, which, scaled, c, left < DEEP ? left : DEEP);
        }
    }
}

/* The sum of a line's own positions, or of their squared distances from the mean. */
INLINE double line_sum(const int squares, const Strip *strip, const float *line, float mean) {
    const vec middle = splat(mean);
    vec sum = splat(0.0f);
    double whole = 0.0;
    for (int which = 0; which < 2; which++) {
        const Span span = strip->axes[which];
        const float *at = line + span.at;
        for (int64_t slot = 0; slot < span.slots; slot++) {
            vec v = load(at + slot * LANES);
            if (squares) v = (v - middle) * (v - middle);
            sum += slot + 1 == span.slots ? keep(v, span.own) : v;
            if (slot % 64 == 63) whole += wide_total(sum), sum = splat(0.0f);
        }
    }
    return whole + wide_total(sum);
}

INLINE void activate_line(const int act, int64_t width, float *line, vec mean, vec scale, vec shift) {
    for (int64_t i = 0; i < width; i += LANES)
        store(line + i, activated(act, (load(line + i) - mean) * scale + shift));
}

static void normed_line(int32_t act, int64_t width, float *line, float mean, float scale, float shift) {
    const vec m = splat(mean), by = splat(scale), to = splat(shift);
    if (act == RELU) activate_line(RELU, width, line, m, by, to);
    else if (act == SILU) activate_line(SILU, width, line, m, by, to);
    else activate_line(HSWISH, width, line, m, by, to);
}

/* Of a group's channels at all their positions: the mean, and what a deviation is multiplied with. */
typedef struct {
    float mean;
    double by;
} Moments;

static Moments moments(const Norm *norm, const Strip *strip, const float *mid, int64_t begin, int64_t end) {
    const double count = (double)(end - begin) * (double)(strip->axes[0].n + strip->axes[1].n);
    double sum = 0.0, squares = 0.0;
    for (int64_t m = begin; m < end; m++) sum += line_sum(0, strip, mid + m * strip->width, 0.0f);
    const float mean = (float)(sum / count);
    for (int64_t m = begin; m < end; m++) squares += line_sum(1, strip, mid + m * strip->width, mean);
    const Moments found = {mean, 1.0 / sqrt(squares / count + norm->eps)};
    return found;
}

INLINE float norm_scale(const Norm *norm, Moments found, int64_t m) {
    return (float)(norm->weight == NULL ? found.by : found.by * (double)norm->weight[m]);
}

INLINE float norm_shift(const Norm *norm, int64_t m) { return norm->bias == NULL ? 0.0f : norm->bias[m]; }

/* Group norm over the positions of a group's channels, and the activation. */
static void norm_group(const Norm *norm, const Strip *strip, float *mid, int64_t begin, int64_t end,
                       int32_t act) {
    const Moments found = moments(norm, strip, mid, begin, end);
    for (int64_t m = begin; m < end; m++)
        normed_line(act, strip->width, mid + m * strip->width, found.mean, norm_scale(norm, found, m),
                    norm_shift(norm, m));
}

static void norm_and_activate(const Side *side, const Norm *norm, const Strip *strip, float *mid) {
    const int64_t each = norm->groups == 0 ? 0 : side->mid / norm->groups;
    if (each == 0) activate_all(side->coord_act, mid, side->mid * strip->width);
    for (int64_t group = 0; group < norm->groups; group++)
        norm_group(norm, strip, mid, group * each, (group + 1) * each, side->coord_act);
}

INLINE void put(float *to, Span span, int64_t slot, vec v) {
    store_part(to + place_in(span, slot), v, span.n);
}

INLINE void mask_line(const int space, Span span, const float *logits, vec strength, float *factors,
                      float *masks) {
    const vec rest = splat(1.0f) - strength;
    for (int64_t slot = 0; slot < span.slots; slot++) {
        const vec found = hard(load(logits + slot * LANES));
        put(factors, span, slot, space == GATE ? rest + strength * found : centred(space, found, strength));
        if (masks != NULL) put(masks, span, slot, found);
    }
}

/* Channels [from, from + count) of one axis' logits, from the bottleneck's lines. */
static void logits_chunk(const Call *call, const Strip *strip, int which, const float *mid, int64_t from,
                         int64_t count) {
    const Side *side = call->side;
    const Linear head = side->axes[which].head;
    const Span span = strip->axes[which];
    const Product p = {head.weight + from * side->mid, mid + span.at, head.bias == NULL ? NULL : head.bias + from,
                       strip->logits, side->mid, strip->width, span.slots * LANES, count, side->mid, span.slots, 0, 1};
    product(&p);
}

/* From the bottleneck to one axis' masks and factors. */
static void head(const Call *call, const Strip *strip, int which) {
    const Side *side = call->side;
    const Axis *axis = &side->axes[which];
    const Span span = strip->axes[which];
    const int64_t n = span.n, wide = span.slots * LANES;
    float *factors = which ? call->made.cols : call->made.rows;
    float *masks = which ? call->made.col_mask : call->made.row_mask;
    const vec strength = splat(*axis->strength * (side->coord_space == LOG ? side->coord_log_reach : 1.0f));
    for (int64_t c = 0; c < side->channels; c += HEADS) {
        const int64_t left = side->channels - c, count = left < HEADS ? left : HEADS;
        logits_chunk(call, strip, which, strip->mid[1], c, count);
        for (int64_t i = 0; i < count; i++) {
            float *to = factors + (c + i) * n, *also = masks == NULL ? NULL : masks + (c + i) * n;
            const float *logits = strip->logits + i * wide;
            if (side->coord_space == GATE) mask_line(GATE, span, logits, strength, to, also);
            else if (side->coord_space == LIN) mask_line(LIN, span, logits, strength, to, also);
            else mask_line(LOG, span, logits, strength, to, also);
        }
    }
}

static void refined(const Side *side, const Strip *strip, const float *from, float *to) {
    const Product p = {side->refine.weight, from, side->refine.bias, to, side->mid, strip->width, strip->width,
                       side->mid, side->mid, strip->width / LANES, 0, 1};
    product(&p);
}

static void coord_net(const Call *call, const Strip *strip, const float *scaled) {
    const Side *side = call->side;
    into_bottleneck(call, strip, scaled);
    norm_and_activate(side, &side->norms[0], strip, strip->mid[0]);
    refined(side, strip, strip->mid[0], strip->mid[1]);
    norm_and_activate(side, &side->norms[1], strip, strip->mid[1]);
    for (int which = 0; which < 2; which++) head(call, strip, which);
}

#endif

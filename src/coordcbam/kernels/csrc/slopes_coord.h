/* The coordinate gates' side net backwards, one sample.
 *
 * Lines are those of side_coord.h: where the last vector of an axis repeats positions, gradients are
 * repeated too, so that they pass on as they are; what is added up over positions leaves them out. */
#ifndef COORDCBAM_SLOPES_COORD_H
#define COORDCBAM_SLOPES_COORD_H

#include "side_coord.h"

#define ROW_OF(mid) (((mid) + 7) / 8 * 8) /* floats of a row of a weight's gradient, in any vectors */

typedef struct {
    Strip strip;    /* whose mid[] are from before the norms */
    float *active[2], *by[2]; /* after them; gradients of mid[] */
    float *turned;  /* (positions, M): a line's transpose, repeated positions 0 */
    float *by_tapped, *by_row; /* a chunk of channels; one profile between zeros */
} Back;

INLINE mask own_of(Span span, int64_t slot) {
    return slot + 1 == span.slots ? span.own : lanes_from(0);
}

INLINE float axis_sum(Span span, const float *line) {
    vec sum = splat(0.0f);
    for (int64_t slot = 0; slot < span.slots; slot++) sum += keep(load(line + slot * LANES), own_of(span, slot));
    return total(sum);
}

static void turn_lines(const Side *side, const Back *back, const float *lines) {
    const int64_t row = ROW_OF(side->mid), width = back->strip.width;
    memset(back->turned, 0, (size_t)(row * width) * sizeof(float));
    for (int which = 0; which < 2; which++) {
        const Span span = back->strip.axes[which];
        for (int64_t slot = 0; slot < span.slots; slot++) {
            const mask own = own_of(span, slot);
            const int64_t at = span.at + slot * LANES;
            float lanes[LANES];
            for (int64_t m = 0; m < side->mid; m++) {
                store(lanes, keep(load(lines + m * width + at), own));
                for (int i = 0; i < LANES; i++) back->turned[(at + i) * row + m] = lanes[i];
            }
        }
    }
}

/* A gradient of weights, (rows, M): lines of `left` times those that are turned, from position `at`. */
INLINE void add_slopes(const Side *side, const Back *back, const float *left, int64_t left_step, int64_t rows,
                       int64_t at, int64_t depth, float *to) {
    const int64_t row = ROW_OF(side->mid);
    const Product p = {left, back->turned + at * row, NULL, to, left_step, row, row,
                       rows, depth, row / LANES, 1, 1};
    product(&p);
}

/* From masks to logits, in place; the sums are the bias' and the strength's gradients. */
INLINE void mask_slopes(const int space, Span span, const float *by, vec strength, vec reach, float *logits,
                        vec *bias, vec *strengths) {
    const vec one = splat(1.0f), two = splat(2.0f);
    for (int64_t slot = 0; slot < span.slots; slot++) {
        const vec logit = load(logits + slot * LANES), found = hard(logit);
        const vec u = two * found - one, given = load_part(by + place_in(span, slot), span.n);
        const vec full = space == LOG ? given * reach * exponential(reach * strength * u) : given;
        const vec through = hard_slope(logit) * (space == GATE ? one : two) * strength * full;
        const mask own = own_of(span, slot);
        *bias += keep(through, own);
        *strengths += keep(full * (space == GATE ? found - one : u), own);
        store(logits + slot * LANES, through);
    }
}

/* From one axis' factors to the bottleneck. */
static void head_slopes(const Call *call, const Back *back, const Slopes *to, int which) {
    const Side *side = call->side;
    const Axis *axis = &side->axes[which];
    const AxisSlopes *found = &to->axes[which];
    const Strip *strip = &back->strip;
    const Span span = strip->axes[which];
    const int64_t wide = span.slots * LANES, row = ROW_OF(side->mid);
    const float *by = which ? to->cols : to->rows;
    const vec strength = splat(*axis->strength), reach = splat(side->coord_log_reach);
    double strengths = 0.0;
    for (int64_t c = 0; c < side->channels; c += HEADS) {
        const int64_t left = side->channels - c, count = left < HEADS ? left : HEADS;
        logits_chunk(call, strip, which, back->active[1], c, count);
        for (int64_t i = 0; i < count; i++) {
            const float *given = by + (c + i) * span.n;
            float *logits = strip->logits + i * wide;
            vec bias = splat(0.0f), sum = splat(0.0f);
            if (side->coord_space == GATE) mask_slopes(GATE, span, given, strength, reach, logits, &bias, &sum);
            else if (side->coord_space == LIN) mask_slopes(LIN, span, given, strength, reach, logits, &bias, &sum);
            else mask_slopes(LOG, span, given, strength, reach, logits, &bias, &sum);
            strengths += wide_total(sum);
            if (found->head.bias != NULL) found->head.bias[c + i] += total(bias);
        }
        add_slopes(side, back, strip->logits, wide, count, span.at, wide, found->head.weight + c * row);
        const Product p = {axis->head.weight + c * side->mid, strip->logits, NULL, back->by[1] + span.at,
                           1, wide, strip->width, side->mid, count, span.slots, c > 0, side->mid};
        product(&p);
    }
    *found->strength += (float)strengths;
}

/* A line through activation and scale: `by` becomes the gradient of the scaled deviation, and the
 * sums are its own and that with the deviation. */
INLINE void bent_line(const int act, const Strip *strip, const float *line, float mean, float by, float scale,
                      float shift, float *gradient, float *sum, float *with) {
    const vec m = splat(mean), s = splat(scale), t = splat(shift);
    vec sums = splat(0.0f), withs = splat(0.0f);
    for (int which = 0; which < 2; which++) {
        const Span span = strip->axes[which];
        for (int64_t slot = 0; slot < span.slots; slot++) {
            const int64_t at = span.at + slot * LANES;
            const vec off = load(line + at) - m, found = load(gradient + at) * slope(act, off * s + t);
            const mask own = own_of(span, slot);
            store(gradient + at, found);
            sums += keep(found, own);
            withs += keep(found * off, own);
        }
    }
    *sum = total(sums);
    *with = total(withs) * by;
}

static void bent(int32_t act, const Strip *strip, const float *line, float mean, float by, float scale, float shift,
                 float *gradient, float *sum, float *with) {
    if (act == RELU) bent_line(RELU, strip, line, mean, by, scale, shift, gradient, sum, with);
    else if (act == SILU) bent_line(SILU, strip, line, mean, by, scale, shift, gradient, sum, with);
    else bent_line(HSWISH, strip, line, mean, by, scale, shift, gradient, sum, with);
}

/* A group's gradients, from after the activation to before the norm. */
static void group_slopes(const Side *side, const Norm *norm, const Strip *strip, const float *mid, int64_t begin,
                         int64_t end, Slope to, float *gradient) {
    const Moments found = moments(norm, strip, mid, begin, end);
    const double count = (double)(end - begin) * (double)(strip->axes[0].n + strip->axes[1].n);
    const int64_t width = strip->width;
    const float by = (float)found.by;
    double sums = 0.0, withs = 0.0;
    for (int64_t m = begin; m < end; m++) {
        const float weight = norm->weight == NULL ? 1.0f : norm->weight[m];
        float sum, with;
        bent(side->coord_act, strip, mid + m * width, found.mean, by, norm_scale(norm, found, m),
             norm_shift(norm, m), gradient + m * width, &sum, &with);
        if (to.weight != NULL) to.weight[m] += with;
        if (to.bias != NULL) to.bias[m] += sum;
        sums += (double)weight * (double)sum;
        withs += (double)weight * (double)with;
    }
    const vec mean = splat(found.mean), level = splat((float)(sums / count * found.by));
    const vec tilt = splat((float)(withs / count * found.by * found.by));
    for (int64_t m = begin; m < end; m++) {
        const vec scale = splat(norm_scale(norm, found, m));
        const float *line = mid + m * width;
        float *at = gradient + m * width;
        for (int64_t i = 0; i < width; i += LANES)
            store(at + i, load(at + i) * scale - level - (load(line + i) - mean) * tilt);
    }
}

/* Gradients from after norm and activation to before them, in place. */
static void norm_slopes(const Side *side, int which, const Back *back, Slope to) {
    const Norm *norm = &side->norms[which];
    const Strip *strip = &back->strip;
    const int64_t each = norm->groups == 0 ? 0 : side->mid / norm->groups;
    float sum, with;
    for (int64_t m = 0; m < side->mid && each == 0; m++)
        bent(side->coord_act, strip, strip->mid[which] + m * strip->width, 0.0f, 1.0f, 1.0f, 0.0f,
             back->by[which] + m * strip->width, &sum, &with);
    for (int64_t group = 0; group < norm->groups; group++)
        group_slopes(side, norm, strip, strip->mid[which], group * each, (group + 1) * each, to, back->by[which]);
}

static void refine_slopes(const Side *side, const Back *back, Slope to) {
    const Strip *strip = &back->strip;
    const int64_t width = strip->width, mid = side->mid;
    turn_lines(side, back, back->active[0]);
    add_slopes(side, back, back->by[1], width, mid, 0, width, to.weight);
    for (int64_t m = 0; m < mid && to.bias != NULL; m++)
        for (int which = 0; which < 2; which++)
            to.bias[m] += axis_sum(strip->axes[which], back->by[1] + m * width + strip->axes[which].at);
    const Product p = {side->refine.weight, back->by[1], NULL, back->by[0], 1, width, width,
                       mid, mid, width / LANES, 0, mid};
    product(&p);
}

/* The gradient of taps: of what is `far` away, how it goes with `by`. */
INLINE void taps_line(const int count, int64_t far, Span span, const float *from, const float *by, float *to) {
    vec sums[BOTH] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    for (int64_t slot = 0; slot < span.slots; slot++) {
        const int64_t place = place_in(span, slot);
        const vec v = keep(load(by + place), own_of(span, slot));
        sums[0] += v * load(from + place - 1);
        sums[1] += v * load(from + place);
        sums[2] += v * load(from + place + 1);
        if (count == BOTH) {
            sums[3] += v * load(from + place - far);
            sums[4] += v * load(from + place + far);
        }
    }
    to[-1] += total(sums[0]), to[0] += total(sums[1]), to[1] += total(sums[2]);
    if (count == BOTH) to[-far] += total(sums[3]), to[far] += total(sums[4]);
}

/* One channel's profile: from its gradient to those of its statistics, which are the same for mean and
 * maximum, and of its factor. */
static float profile_slopes(Span span, const float *mean, const float *top, float scaled, const float *by, float *to) {
    const vec factor = splat(scaled), half = splat(0.5f);
    vec sum = splat(0.0f);
    for (int64_t slot = 0; slot < span.slots; slot++) {
        const int64_t place = place_in(span, slot);
        const vec v = load(by + slot * LANES);
        const vec sums = load_part(mean + place, span.n) + load_part(top + place, span.n);
        sum += keep(v * (half * sums), own_of(span, slot));
        store_part(to + place, half * factor * v, span.n);
    }
    return total(sum);
}

/* One channel from behind the taps: their gradients, and its profile's. */
static float tap_slopes(const Call *call, const Back *back, int which, int64_t c, int64_t i, float scaled,
                        const Slopes *to) {
    const Job *job = &call->job;
    const Axis *axis = &call->side->axes[which];
    const Strip *strip = &back->strip;
    const Span span = strip->axes[which];
    const int64_t wide = span.slots * LANES, taps = 2 * axis->reach + 1;
    const float *profile = strip->profiles + margin_of(axis, span) + i * profile_step(axis, span);
    const float *by = back->by_tapped + i * wide;
    const float *mean = (which ? job->col_mean : job->row_mean) + c * span.n;
    const float *top = (which ? job->col_max : job->row_max) + c * span.n;
    float *slopes = to->axes[which].taps + c * taps + axis->reach, *row = back->by_row + margin_of(axis, span);
    const int64_t last = span.slots - 1;
    for (int64_t slot = 0; slot < last; slot++) store(row + slot * LANES, load(by + slot * LANES));
    const vec end = load(by + last * LANES);
    store(row + place_in(span, last), span.n < LANES ? keep(end, span.own) : end);
    float *sums = strip->tapped + i * wide; /* which has been multiplied already */
    if (has_far(axis, span)) taps_line(BOTH, axis->reach, span, profile, row, slopes);
    else taps_line(NEAR, 1, span, profile, row, slopes);
    tap_all(axis, span, c, 1, row, sums);
    return profile_slopes(span, mean, top, scaled, sums, (which ? to->col : to->row) + c * span.n);
}

/* From the bottleneck to one axis' statistics; the factors' gradients `by` are added to. */
static void into_slopes(const Call *call, const Back *back, const float *scaled, float *by, const Slopes *to,
                        int which) {
    const Side *side = call->side;
    const Axis *axis = &side->axes[which];
    const AxisSlopes *found = &to->axes[which];
    const Strip *strip = &back->strip;
    const Span span = strip->axes[which];
    const int64_t wide = span.slots * LANES, row = ROW_OF(side->mid);
    clear_profiles(strip, axis, span);
    memset(back->by_row, 0, (size_t)(profile_step(axis, span) + LANES) * sizeof(float));
    for (int64_t m = 0; m < side->mid && found->into.bias != NULL; m++)
        found->into.bias[m] += axis_sum(span, back->by[0] + m * strip->width + span.at);
    for (int64_t c = 0; c < side->channels; c += DEEP) {
        const int64_t left = side->channels - c, count = left < DEEP ? left : DEEP;
        tapped_chunk(call, strip, which, scaled, c, count);
        add_slopes(side, back, strip->tapped, wide, count, span.at, wide, found->into.weight + c * row);
        const Product p = {axis->into.weight + c, back->by[0] + span.at, NULL, back->by_tapped,
                           1, strip->width, wide, count, side->mid, span.slots, 0, side->channels};
        product(&p);
        for (int64_t i = 0; i < count; i++) by[c + i] += tap_slopes(call, back, which, c + i, i, scaled[c + i], to);
    }
}

/* The net forwards, up to what the heads read. */
static void forth(const Call *call, const Back *back, const float *scaled) {
    const Side *side = call->side;
    const Strip *strip = &back->strip;
    const size_t bytes = (size_t)(side->mid * strip->width) * sizeof(float);
    into_bottleneck(call, strip, scaled);
    memcpy(back->active[0], strip->mid[0], bytes);
    norm_and_activate(side, &side->norms[0], strip, back->active[0]);
    refined(side, strip, back->active[0], strip->mid[1]);
    memcpy(back->active[1], strip->mid[1], bytes);
    norm_and_activate(side, &side->norms[1], strip, back->active[1]);
}

/* Forwards and back; `by` are the gradients of the channels' factors, which are added to. */
static void coord_slopes(const Call *call, const Back *back, const float *scaled, float *by, const Slopes *to) {
    const Side *side = call->side;
    forth(call, back, scaled);
    turn_lines(side, back, back->active[1]);
    for (int which = 0; which < 2; which++) head_slopes(call, back, to, which);
    norm_slopes(side, 1, back, to->norms[1]);
    refine_slopes(side, back, to->refine);
    norm_slopes(side, 0, back, to->norms[0]);
    turn_lines(side, back, back->by[0]);
    for (int which = 0; which < 2; which++) into_slopes(call, back, scaled, by, to, which);
}

#endif

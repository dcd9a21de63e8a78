/* The channel gate's side net backwards, one sample. */
#ifndef COORDCBAM_SLOPES_CHANNEL_H
#define COORDCBAM_SLOPES_CHANNEL_H

#include "side_channel.h"

/* How fast the factor follows its gate, at the factor's value. */
INLINE vec factor_slope(const Side *side, vec factor) {
    if (side->space == GATE) return splat(side->softens ? side->beta : 1.0f);
    return splat(2.0f) * (side->space == LIN ? splat(side->beta) : factor * splat(side->log_reach));
}

/* From the factors' gradient `by` to that of z, in place; the temperature's is returned. */
static float ends_slopes(const Side *side, const float *z, float *by) {
    const vec temperature = splat(*side->temperature);
    double sum = 0.0;
    for (int64_t c = 0; c < side->channels; c += LANES) {
        const int64_t left = side->channels - c;
        const vec logit = load_part(z + c, left) / temperature;
        const vec gate = gated(side->gate, logit);
        const vec bend = side->gate == SIGMOID ? gate * (splat(1.0f) - gate) : hard_slope(logit);
        const vec found = load_part(by + c, left) * factor_slope(side, channel_factor(side, gate)) * bend / temperature;
        sum -= wide_total(found * logit);
        store_part(by + c, found, left);
    }
    return (float)sum;
}

/* Back through fc2, which both branches share, to where they meet. */
static void meeting_slopes(const Side *side, const Branches *net, const float *by_z, Slope fc2,
                           float *by_joined) {
    const int64_t channels = side->channels, hidden = side->hidden;
    outer(channels, hidden, by_z, net->joined, fc2.weight);
    for (int64_t i = 0; i < hidden; i++) by_joined[i] = 0.0f;
    through(channels, hidden, by_z, side->fc2.weight, by_joined);
    for (int64_t c = 0; c < channels && fc2.bias != NULL; c++)
        fc2.bias[c] += by_z[c] * (net->shares[0] + net->shares[1]);
}

/* Back through the router: `by_both` is added to. What the shares have in common moves none of them. */
static void route_slopes(const Side *side, const Branches *net, const float *by_joined, const Slopes *to,
                         float *memory, float *by_both) {
    const int64_t hidden = side->hidden;
    double apart = 0.0;
    for (int64_t i = 0; i < hidden; i++)
        apart += (double)by_joined[i] * ((double)net->units[i] - (double)net->units[hidden + i]);
    const float first = (float)(apart * net->shares[0] * net->shares[1] / side->router_temperature);
    const float by[2] = {first, -first};
    outer(2, side->looked, by, net->looked, to->last.weight);
    for (int i = 0; i < 2 && to->last.bias != NULL; i++) to->last.bias[i] += by[i];
    for (int64_t i = 0; i < side->looked; i++) memory[i] = 0.0f;
    through(2, side->looked, by, side->last.weight, memory);
    for (int64_t i = 0; i < side->looked; i++) {
        if (net->looked[i] <= 0.0f) memory[i] = 0.0f;
        if (to->first.bias != NULL) to->first.bias[i] += memory[i];
    }
    outer(side->looked, 2 * side->channels, memory, net->both, to->first.weight);
    through(side->looked, 2 * side->channels, memory, side->first.weight, by_both);
}

INLINE void bend_slopes(const int act, int64_t n, const float *bent, float *by) {
    for (int64_t i = 0; i < n; i += LANES)
        store_part(by + i, load_part(by + i, n - i) * slope(act, load_part(bent + i, n - i)), n - i);
}

INLINE int64_t channel_slopes_floats(const Side *side) {
    return 2 * side->channels + 3 * side->hidden + side->looked;
}

/* `by` is the gradient of the channels' factors, before their unit divides them. */
static void channel_slopes(const Side *side, const Branches *net, const Slopes *to, float *by, float *memory,
                           float *by_mean, float *by_peak) {
    const int64_t channels = side->channels, hidden = side->hidden;
    float *by_both = memory, *by_units = by_both + 2 * channels, *by_joined = by_units + 2 * hidden;
    *to->temperature += ends_slopes(side, net->z, by);
    meeting_slopes(side, net, by, to->fc2, by_joined);
    for (int64_t i = 0; i < 2 * channels; i++) by_both[i] = 0.0f;
    if (side->looked > 0) route_slopes(side, net, by_joined, to, by_joined + hidden, by_both);
    for (int branch = 0; branch < 2; branch++)
        for (int64_t i = 0; i < hidden; i++) by_units[branch * hidden + i] = net->shares[branch] * by_joined[i];
    if (side->act == RELU) bend_slopes(RELU, 2 * hidden, net->bent, by_units);
    else if (side->act == SILU) bend_slopes(SILU, 2 * hidden, net->bent, by_units);
    else bend_slopes(HSWISH, 2 * hidden, net->bent, by_units);
    for (int branch = 0; branch < 2; branch++) {
        const float *unit = by_units + branch * hidden;
        outer(hidden, channels, unit, net->both + branch * channels, to->fc1.weight);
        through(hidden, channels, unit, side->fc1.weight, by_both + branch * channels);
        for (int64_t i = 0; i < hidden && to->fc1.bias != NULL; i++) to->fc1.bias[i] += unit[i];
    }
    memcpy(by_mean, by_both, (size_t)channels * sizeof(float));
    memcpy(by_peak, by_both + channels, (size_t)channels * sizeof(float));
}

#endif

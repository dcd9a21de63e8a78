/* The channel gate's side net, one sample. */
#ifndef COORDCBAM_SIDE_CHANNEL_H
#define COORDCBAM_SIDE_CHANNEL_H

#include "elementwise.h"
#include "products.h"

/* Loads and stores of vectors whose number of floats no vector divides: `n` are left. */
INLINE vec load_part(const float *from, int64_t n) {
    float lanes[LANES] = {0.0f};
    if (LANES == 1 || n >= LANES) return load(from);
    memcpy(lanes, from, (size_t)n * sizeof(float));
    return load(lanes);
}

INLINE void store_part(float *to, vec v, int64_t n) {
    float lanes[LANES];
    if (LANES == 1 || n >= LANES) {
        store(to, v);
        return;
    }
    store(lanes, v);
    memcpy(to, lanes, (size_t)n * sizeof(float));
}

INLINE void activate(const int act, float *values, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES)
        store_part(values + i, activated(act, load_part(values + i, n - i)), n - i);
}

static void activate_all(int32_t act, float *values, int64_t n) {
    if (act == RELU) activate(RELU, values, n);
    else if (act == SILU) activate(SILU, values, n);
    else activate(HSWISH, values, n);
}

/* The shares of mean and maximum, from both side by side. */
static void route(const Side *side, const float *both, float *memory, float *shares) {
    float logits[2];
    dots(1, side->first, side->looked, 2 * side->channels, both, memory, 1.0f);
    activate(RELU, memory, side->looked);
    dots(1, side->last, 2, side->looked, memory, logits, 1.0f);
    const float a = logits[0] / side->router_temperature, b = logits[1] / side->router_temperature;
    const float top = a > b ? a : b, first = expf(a - top), last = expf(b - top);
    shares[0] = first / (first + last);
    shares[1] = last / (first + last);
}

INLINE vec channel_factor(const Side *side, vec gate) {
    const vec one = splat(1.0f), beta = splat(side->beta);
    if (side->space == GATE) return side->softens ? one + beta * (gate - one) : gate;
    return side->space == LIN ? centred(LIN, gate, beta) : centred(LOG, gate, splat(side->log_reach));
}

/* `scaled` gets the factors before they are divided by their unit. */
static void channel_ends(const Call *call, const float *z, float *scaled) {
    const Side *side = call->side;
    const vec temperature = splat(*side->temperature);
    for (int64_t c = 0; c < side->channels; c += LANES) {
        const int64_t left = side->channels - c;
        const vec logit = load_part(z + c, left) / temperature;
        const vec gate = side->gate == SIGMOID ? sigmoid(logit) : hard(logit);
        const vec factor = channel_factor(side, gate);
        store_part(scaled + c, factor, left);
        store_part(call->made.channel + c, factor / splat(side->unit), left);
        if (call->made.gate != NULL) store_part(call->made.gate + c, gate, left);
    }
}

/* What the net goes through, both branches side by side. */
typedef struct {
    float *both, *z, *bent, *units, *joined, *looked; /* units are `bent` after the activation */
    float shares[2];
} Branches;

/* Floats of memory for the net below. */
INLINE int64_t channel_floats(const Side *side) {
    return 3 * side->channels + 5 * side->hidden + side->looked;
}

/* Both branches meet before the last layer, which is linear: half its work. */
static Branches channel_net(const Call *call, float *memory, float *scaled) {
    const Side *side = call->side;
    const int64_t channels = side->channels, hidden = side->hidden;
    float *z = memory + 2 * channels, *bent = z + channels, *units = bent + 2 * hidden;
    float *joined = units + 2 * hidden;
    Branches net = {memory, z, bent, units, joined, joined + hidden, {1.0f, 1.0f}};
    memcpy(net.both, call->job.mean, (size_t)channels * sizeof(float));
    memcpy(net.both + channels, call->job.peak, (size_t)channels * sizeof(float));
    dots(2, side->fc1, hidden, channels, net.both, bent, 1.0f);
    memcpy(units, bent, (size_t)(2 * hidden) * sizeof(float));
    activate_all(side->act, units, 2 * hidden);
    if (side->looked > 0) {
        route(side, net.both, net.looked, net.shares);
        if (call->made.fusion != NULL) memcpy(call->made.fusion, net.shares, sizeof net.shares);
    }
    for (int64_t i = 0; i < hidden; i++)
        joined[i] = net.shares[0] * units[i] + net.shares[1] * units[hidden + i];
    dots(1, side->fc2, channels, hidden, joined, z, net.shares[0] + net.shares[1]);
    channel_ends(call, z, scaled);
    return net;
}

#endif

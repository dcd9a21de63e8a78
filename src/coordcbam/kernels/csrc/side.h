/* The side nets, one sample: kernels/side.py, and the memory they need. */
#ifndef COORDCBAM_SIDE_H
#define COORDCBAM_SIDE_H

#include "side_channel.h"
#include "side_coord.h"

#define LINE 16 /* floats of a line of cache: no vector of what is taken here lies across two */

INLINE int64_t rounded(int64_t floats) { return (floats + LINE - 1) / LINE * LINE; }

/* The next `floats` of `memory`, from *at; of no memory none, only their count. */
INLINE float *take(float *memory, int64_t *at, int64_t floats) {
    float *taken = memory == NULL ? NULL : memory + *at;
    *at += rounded(floats);
    return taken;
}

INLINE float *aligned(float *memory) { return memory + (64 - (uintptr_t)memory % 64) % 64 / sizeof(float); }

INLINE int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct {
    Strip strip;
    float *scaled, *rest; /* the channels' factors, and what their net needs */
} Room;

/* Divides `memory`; says how many floats that takes. */
static int64_t lay_out(const Call *call, float *memory, Room *room) {
    const Side *side = call->side;
    const int64_t height = call->job.height, width = call->job.width;
    const int64_t wide = larger_of(padded(height), padded(width));
    Strip *strip = &room->strip;
    int64_t at = 0;
    strip->axes[0] = span_of(height, 0);
    strip->axes[1] = span_of(width, padded(height));
    strip->width = padded(height) + padded(width);
    const int64_t step = larger_of(profile_step(&side->axes[0], strip->axes[0]),
                                   profile_step(&side->axes[1], strip->axes[1]));
    room->scaled = take(memory, &at, side->channels);
    room->rest = take(memory, &at, channel_floats(side));
    strip->profiles = take(memory, &at, DEEP * step + LANES);
    strip->tapped = take(memory, &at, DEEP * wide);
    strip->logits = take(memory, &at, HEADS * wide);
    for (int i = 0; i < 2; i++) strip->mid[i] = take(memory, &at, side->mid * strip->width);
    return at;
}

static int side_nets(const Call *call) {
    Room room;
    float *memory = scratch(lay_out(call, NULL, &room));
    if (memory == NULL) return 1;
    lay_out(call, aligned(memory), &room);
    channel_net(call, room.rest, room.scaled);
    coord_net(call, &room.strip, room.scaled);
    free(memory);
    return 0;
}

#endif

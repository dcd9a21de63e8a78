/* The gradients of the side nets, group by group of samples. */
#ifndef COORDCBAM_SLOPES_H
#define COORDCBAM_SLOPES_H

#include "side.h"
#include "slopes_channel.h"
#include "slopes_coord.h"

typedef struct {
    Room room;
    Back back;
    float *by, *rest, *factors; /* the channels' factors' gradients; their net's; factors nobody reads */
} SlopesRoom;

static int64_t lay_out_slopes(const Call *call, float *memory, SlopesRoom *found) {
    const Side *side = call->side;
    Back *back = &found->back;
    int64_t at = rounded(lay_out(call, memory, &found->room));
    back->strip = found->room.strip;
    const Strip *strip = &back->strip;
    const int64_t lines = side->mid * strip->width;
    const int64_t wide = larger_of(strip->axes[0].slots, strip->axes[1].slots) * LANES;
    const int64_t step = larger_of(profile_step(&side->axes[0], strip->axes[0]),
                                   profile_step(&side->axes[1], strip->axes[1]));
    for (int i = 0; i < 2; i++) {
        back->active[i] = take(memory, &at, lines);
        back->by[i] = take(memory, &at, lines);
    }
    back->turned = take(memory, &at, ROW_OF(side->mid) * strip->width);
    back->by_tapped = take(memory, &at, DEEP * wide);
    back->by_row = take(memory, &at, step + LANES);
    found->by = take(memory, &at, side->channels);
    found->rest = take(memory, &at, channel_slopes_floats(side));
    found->factors = take(memory, &at, side->channels);
    return at;
}

INLINE float *ahead(float *of, int64_t by) { return of == NULL ? NULL : of + by; }

INLINE Slope ahead_of(Slope of, int64_t by) {
    const Slope moved = {ahead(of.weight, by), ahead(of.bias, by)};
    return moved;
}

/* The gradients that the samples of a group are added to. */
static Slopes slopes_of_group(const Slopes *all, int64_t group) {
    Slopes one = *all;
    const int64_t by = group * all->step;
    one.fc1 = ahead_of(all->fc1, by), one.fc2 = ahead_of(all->fc2, by);
    one.first = ahead_of(all->first, by), one.last = ahead_of(all->last, by);
    one.refine = ahead_of(all->refine, by), one.temperature = ahead(all->temperature, by);
    for (int i = 0; i < 2; i++) {
        AxisSlopes *axis = &one.axes[i];
        axis->into = ahead_of(axis->into, by), axis->head = ahead_of(axis->head, by);
        axis->taps = ahead(axis->taps, by), axis->strength = ahead(axis->strength, by);
        one.norms[i] = ahead_of(all->norms[i], by);
    }
    return one;
}

static void sample_slopes(const Call *all, const Slopes *group, int64_t sample, SlopesRoom *room) {
    const int64_t channels = all->job.channels, planes = sample * channels;
    const int64_t rows = planes * all->job.height, cols = planes * all->job.width;
    Call call = *all;
    Job *job = &call.job;
    Slopes to = *group;
    job->mean += planes, job->peak += planes;
    job->row_mean += rows, job->row_max += rows, job->col_mean += cols, job->col_max += cols;
    to.channel += planes, to.rows += rows, to.cols += cols;
    to.mean += planes, to.peak += planes, to.row += rows, to.col += cols;
    call.made.channel = room->factors;
    const Branches net = channel_net(&call, room->room.rest, room->room.scaled);
    for (int64_t c = 0; c < channels; c++) room->by[c] = to.channel[c] / all->side->unit;
    coord_slopes(&call, &room->back, room->room.scaled, room->by, &to);
    channel_slopes(all->side, &net, &to, room->by, room->rest, to.mean, to.peak);
}

static int side_slopes(const Call *call, int64_t begin, int64_t end) {
    SlopesRoom room;
    const int64_t batch = call->job.batch, groups = call->slopes->groups;
    float *memory = scratch(lay_out_slopes(call, NULL, &room));
    if (memory == NULL) return 1;
    lay_out_slopes(call, aligned(memory), &room);
    for (int64_t group = begin; group < end; group++) {
        const Slopes to = slopes_of_group(call->slopes, group);
        for (int64_t sample = batch * group / groups; sample < batch * (group + 1) / groups; sample++)
            sample_slopes(call, &to, sample, &room);
    }
    free(memory);
    return 0;
}

#endif

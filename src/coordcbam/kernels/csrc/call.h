/* What the side nets and a whole forward are given. kernels/packed.py mirrors this. */
#ifndef COORDCBAM_CALL_H
#define COORDCBAM_CALL_H

#include "table.h"

enum { RELU, SILU, HSWISH };      /* activations */
enum { SIGMOID, HARDSIGMOID };    /* gates */
enum { GATE, LIN, LOG };          /* what a gate stands for */

/* Weights are (out, in) row by row; a bias that is absent is NULL. */
typedef struct {
    const float *weight, *bias;
} Linear;

typedef struct {
    const float *weight, *bias; /* NULL: ones, zeros */
    double eps;
    int64_t groups; /* 0: no norm */
} Norm;

/* What rows and columns have each for themselves. */
typedef struct {
    Linear into, head;
    const float *taps, *strength; /* (C, 2 * reach + 1), 0 but for -1, 0, 1 and both ends; () */
    int64_t reach;                /* 1 or more */
} Axis;

typedef struct {
    Linear fc1, fc2, first, last, refine; /* first and last are the router's */
    const float *temperature;
    Axis axes[2];
    Norm norms[2]; /* after the projection and after refine */
    int64_t channels, hidden, looked, mid; /* looked: the router's hidden units; 0: no router */
    int32_t act, gate, space, softens;     /* of channels; softens: there is a beta */
    int32_t coord_act, coord_space;
    float beta, log_reach, router_temperature, unit; /* of channels */
    float coord_log_reach;
} Side;

/* What the side nets write; the maps are NULL where nobody asked. */
typedef struct {
    float *channel, *rows, *cols;
    float *gate, *fusion, *row_mask, *col_mask;
} Made;

typedef struct {
    float *weight, *bias;
} Slope;

typedef struct {
    Slope into, head; /* both weights are (C, M), rows of a whole number of widest vectors */
    float *taps, *strength;
} AxisSlopes;

/* The gradients of what the side nets read, from those of what they make. Samples are added up in
 * `groups` parts, whose gradients of weights lie `step` floats apart: whatever the threads, the same. */
typedef struct {
    const float *channel, *rows, *cols;        /* of the factors */
    float *mean, *peak, *row, *col;            /* of the statistics: mean and maximum of a row share theirs */
    Slope fc1, fc2, first, last, refine;       /* refine.weight is (M, M), its rows as above */
    float *temperature;
    AxisSlopes axes[2];
    Slope norms[2];
    int64_t groups, step;
} Slopes;

typedef struct Call {
    Job job;
    const Side *side;
    Made made;
    double *totals; /* (5, B), the sums of measure; NULL: scale */
    const Slopes *slopes;
} Call;

#endif

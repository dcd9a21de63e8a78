/* Small matrix products: by position, which is what vectors hold, and dot products for vectors. */
#ifndef COORDCBAM_PRODUCTS_H
#define COORDCBAM_PRODUCTS_H

#include "call.h"
#include "lanes.h"

#define HIGH 4   /* rows of a tile, whose sums stay in registers: twelve and what they are made of */
#define ACROSS_MOST 3 /* vectors of a tile */

/* out (rows, slots) = bias + left (rows, depth) @ right (depth, slots), or out += left @ right. */
typedef struct {
    const float *left, *right, *bias;
    float *out;
    int64_t left_step, right_step, out_step; /* floats from row to row */
    int64_t rows, depth, slots;
    int adds;
    int64_t left_next; /* floats from one column of `left` to the next */
} Product;

INLINE void tile(const int rows, const int vectors, const Product *p, int64_t row, int64_t slot) {
    const float *left = p->left + row * p->left_step, *right = p->right + slot * LANES;
    float *out = p->out + row * p->out_step + slot * LANES;
    vec sums[HIGH * ACROSS_MOST];
    for (int r = 0; r < rows; r++) {
        const vec start = splat(p->bias == NULL ? 0.0f : p->bias[row + r]);
        for (int v = 0; v < vectors; v++)
            sums[r * vectors + v] = p->adds ? load(out + r * p->out_step + v * LANES) : start;
    }
    for (int64_t i = 0; i < p->depth; i++, right += p->right_step)
        for (int r = 0; r < rows; r++) {
            const vec factor = splat(left[r * p->left_step + i * p->left_next]);
            for (int v = 0; v < vectors; v++) sums[r * vectors + v] += factor * load(right + v * LANES);
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(out + r * p->out_step + v * LANES, sums[r * vectors + v]);
}

INLINE void tiles(const int rows, const Product *p, int64_t row) {
    int64_t slot = 0;
    while (slot < p->slots) { /* no single vector unless there is but one: its sums wait for each other */
        const int64_t left = p->slots - slot, vectors = left == 4 ? 2 : left < 3 ? left : 3;
        if (vectors == 3) tile(rows, 3, p, row, slot);
        else if (vectors == 2) tile(rows, 2, p, row, slot);
        else tile(rows, 1, p, row, slot);
        slot += vectors;
    }
}

static void product(const Product *p) {
    int64_t row = 0;
    for (; row + HIGH <= p->rows; row += HIGH) tiles(HIGH, p, row);
    for (; row < p->rows; row++) tiles(1, p, row);
}

/* Adds the products of `rows` rows of weights with `columns` vectors, `step` apart. */
INLINE void dot_rows(const int rows, const int columns, const float *weight, int64_t depth,
                     const float *from, int64_t step, float *to) {
    vec sums[4 * 2];
    for (int i = 0; i < 4 * columns; i++) sums[i] = splat(0.0f);
    const int64_t whole = depth / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int r = 0; r < rows; r++) {
            const vec w = load(weight + r * depth + i);
            for (int c = 0; c < columns; c++) sums[c * 4 + r] += w * load(from + c * step + i);
        }
    for (int c = 0; c < columns; c++) totals4(sums + c * 4, to + c * 4);
    for (int64_t i = whole; i < depth; i++)
        for (int c = 0; c < columns; c++)
            for (int r = 0; r < rows; r++) to[c * 4 + r] += weight[r * depth + i] * from[c * step + i];
}

/* to (columns, rows) = shares * bias + weight @ from (columns, depth), column by column. */
INLINE void dots(const int columns, Linear linear, int64_t rows, int64_t depth, const float *from,
                 float *to, float shares) {
    float found[4 * 2];
    for (int64_t row = 0; row < rows; row += 4) {
        const int64_t count = rows - row < 4 ? rows - row : 4;
        const float *weight = linear.weight + row * depth;
        if (count == 4) dot_rows(4, columns, weight, depth, from, depth, found);
        for (int64_t r = 0; r < count; r++) {
            const float bias = linear.bias == NULL ? 0.0f : linear.bias[row + r] * shares;
            float one[4 * 2];
            if (count < 4) dot_rows(1, columns, weight + r * depth, depth, from, depth, one);
            for (int c = 0; c < columns; c++)
                to[c * rows + row + r] = bias + (count < 4 ? one[c * 4] : found[c * 4 + r]);
        }
    }
}

/* to (rows, n) += left (rows) times right (n), and to (n) += left (rows) @ weight (rows, n). */
INLINE void outer(int64_t rows, int64_t n, const float *left, const float *right, float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) to[r * n + i] += left[r] * right[i];
}

INLINE void through(int64_t rows, int64_t n, const float *left, const float *weight, float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) to[i] += left[r] * weight[r * n + i];
}

#endif

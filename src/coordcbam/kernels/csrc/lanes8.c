/* 256 bits: AVX2 and FMA, whatever the compiler was told to build for. */
#include "table.h"

#ifdef HAVE_LANES8
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define TABLE coordcbam_lanes8
#include "passes.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int nothing_here;
#endif
